import { describe, expect, test } from 'vitest'
import { plan, type Plan, type PlanInput } from '../../src/planner/index.ts'
import { facts, gpu, gpuId, need, NOW, part, situation, task, taskId, worker } from './situation.ts'

const GB = 1_000
const LONG_AGO = NOW - 40_000

/** Which task gets which GPUs. */
function starts(made: Plan): Record<string, readonly string[]> {
  return Object.fromEntries(
    made.actions
      .filter((action) => action.kind === 'start')
      .map(({ taskId: id, claim }): [string, readonly string[]] => [id ?? '', claim.gpuIds]),
  )
}

function waits(made: Plan, id: string): { kind: string | undefined; reason: string | undefined } {
  const { kind, reason } = made.waiting.get(taskId(id)) ?? {}
  return { kind, reason }
}

const started = (more: Parameters<typeof situation>[0]): string[] =>
  Object.keys(starts(plan(situation(more))))

describe('the order of the queue', () => {
  const oneGpu = { gpus: [gpu(0)] }

  test('is that of the submission', () => {
    expect(
      started({
        ...oneGpu,
        queue: [task('b', { queuedAt: NOW - 1 }), task('a'), task('c', { queuedAt: NOW - 2 })],
      }),
    ).toEqual(['c'])
  })

  test('puts a higher priority before what came less than a step earlier, and after what came more than that', () => {
    const high = task('high', { priority: 1 })
    expect(started({ ...oneGpu, queue: [task('low', { queuedAt: NOW - 59_000 }), high] })).toEqual(['high'])
    expect(started({ ...oneGpu, queue: [task('low', { queuedAt: NOW - 61_000 }), high] })).toEqual(['low'])
  })

  test('puts the only task of one owner before the many of another that came earlier', () => {
    const many = Array.from({ length: 1_000 }, (_, at) =>
      task(`many-${at}`, { owner: 'bob', queuedAt: NOW - 1_000 + at }),
    )
    expect(started({ queue: [...many, task('only')] })).toEqual(['many-0', 'only'])
  })

  test('counts the tasks of an owner that are running', () => {
    const queue = [task('of bob', { owner: 'bob', queuedAt: NOW - 1_000 }), task('of cid', { owner: 'cid' })]
    const workers = [worker('w', { claim: { gpuIds: [gpuId(1)], memoryMb: null }, runningOwners: ['bob'] })]
    expect(started({ queue, workers })).toEqual(['of cid'])
  })

  test('lets nobody with many tasks fall behind by more than the greatest handicap', () => {
    const first = Array.from({ length: 400 }, (_, at) =>
      task(`bob-${at}`, { owner: 'bob', queuedAt: NOW - 700_000 }),
    )
    const { waiting } = plan(
      situation({
        gpus: [gpu(0, { unusable: 'It is drained.' })],
        queue: [...first, task('late', { owner: 'cid' })],
      }),
    )
    expect([...waiting.keys()].at(-1)).toBe('late')
  })
})

describe('room on GPUs', () => {
  test('goes to an exclusive claim as a whole, where the most is free', () => {
    const gpus = [gpu(0, { usedMb: 5 * GB }), gpu(1, { usedMb: 1 * GB }), gpu(2, { usedMb: 1 * GB })]
    expect(starts(plan(situation({ gpus, queue: [task('a'), task('b'), task('c'), task('d')] })))).toEqual({
      a: ['GPU-1'],
      b: ['GPU-2'],
      c: ['GPU-0'],
    })
  })

  test('goes to a shared claim where the least is left that is enough', () => {
    const workers = [worker('w', { claim: { gpuIds: [gpuId(1)], memoryMb: 20 * GB } })]
    const made = plan(situation({ workers, queue: [task('a', { gpus: part(16 * GB) })] }))
    expect(made.actions).toEqual([
      {
        kind: 'start',
        taskId: 'a',
        presetId: 'one-off',
        claim: { gpuIds: ['GPU-1'], memoryMb: 16 * GB },
        reason: 'It is next: GPU 1 (Test GPU) has 20,000 of 40,000 MB free, and the preset claims 16,000.',
      },
    ])
  })

  test.each([
    ['an exclusive claim beside a shared one', need(), 10 * GB],
    ['a shared claim beside an exclusive one', part(10 * GB), null],
    ['a shared claim of unknown size beside another', part(null), 10 * GB],
    ['more than is left', part(31 * GB), 10 * GB],
  ])('is not given to %s', (_, gpus, memoryMb) => {
    const workers = [worker('w', { claim: { gpuIds: [gpuId(0)], memoryMb } })]
    expect(started({ gpus: [gpu(0)], workers, queue: [task('a', { gpus })] })).toEqual([])
  })

  test('is less by what other programs use, and by what ours use beyond their claim', () => {
    const workers = [
      worker('w', {
        claim: { gpuIds: [gpuId(0)], memoryMb: 10 * GB },
        usedMb: new Map([[gpuId(0), 12 * GB]]),
      }),
    ]
    const gpus = [gpu(0, { usedMb: 20 * GB })]
    expect(started({ gpus, workers, queue: [task('a', { gpus: part(20 * GB) })] })).toEqual(['a'])
    const made = plan(situation({ gpus, workers, queue: [task('a', { gpus: part(21 * GB) })] }))
    expect(waits(made, 'a')).toEqual({
      kind: 'gpu',
      reason: 'GPU 0 (Test GPU) has 20,000 of 40,000 MB free and the preset claims 21,000.',
    })
  })

  test('is claimed by what was learned where that is more than what is declared', () => {
    const learned = { 'one-off': facts({ learnedMemoryMb: 30 * GB }) }
    const made = plan(
      situation({
        gpus: [gpu(0)],
        queue: [task('a', { gpus: part(10 * GB) }), task('b', { gpus: part(10 * GB) })],
        facts: learned,
      }),
    )
    expect(made.actions).toMatchObject([{ taskId: 'a', claim: { memoryMb: 30 * GB } }])
  })

  test('is not exclusive enough where others leave less than the declared memory', () => {
    const made = plan(
      situation({
        gpus: [gpu(0, { usedMb: 15 * GB })],
        queue: [task('a', { gpus: need({ memoryMb: 30 * GB }) })],
      }),
    )
    expect(waits(made, 'a').reason).toBe(
      'It needs 1 GPU with 30,000 MB; GPU 0 (Test GPU) has 15,000 of 40,000 MB in use by other programs.',
    )
  })

  test('is believed to be enough where the size of the GPU is not known', () => {
    expect(
      started({ gpus: [gpu(0, { memoryTotalMb: 0 })], queue: [task('a', { gpus: part(90 * GB) })] }),
    ).toEqual(['a'])
  })

  test('is given on all GPUs of a task at once or not at all', () => {
    const made = plan(situation({ workers: [worker('w')], queue: [task('a', { gpus: need({ count: 2 }) })] }))
    expect(made.actions).toEqual([])
    expect(waits(made, 'a').reason).toBe('It needs 2 GPUs; 1 of the 2 that it may use is free.')
  })

  test('is looked for on GPUs of the wanted name only', () => {
    const gpus = [gpu(0), gpu(1, { name: 'NVIDIA A100-SXM4' })]
    expect(
      starts(plan(situation({ gpus, queue: [task('a', { gpus: need({ names: ['a100'] }) })] }))),
    ).toEqual({ a: ['GPU-1'] })
  })

  test('is not given on a GPU that is out of use, and the task is told why', () => {
    const gpus = [gpu(0, { unusable: 'It is drained.' })]
    expect(waits(plan(situation({ gpus, queue: [task('a')] })), 'a')).toEqual({
      kind: 'no-gpu',
      reason:
        'It needs 1 GPU, but only 0 of the 1 that it may use can take anything new: GPU 0 (Test GPU): It is drained.',
    })
  })

  test('is still held by a worker that is ending', () => {
    const made = plan(
      situation({ gpus: [gpu(0)], workers: [worker('w', { phase: 'ending' })], queue: [task('a')] }),
    )
    expect(waits(made, 'a').kind).toBe('release')
  })
})

describe('places', () => {
  test('are no more than there are', () => {
    const queue = [task('a', { gpus: need({ count: 0 }) }), task('b', { gpus: need({ count: 0 }) })]
    const made = plan(situation({ queue, workers: [worker('w')], maxWorkers: 2 }))
    expect(Object.keys(starts(made))).toEqual(['a'])
    expect(waits(made, 'b')).toEqual({
      kind: 'places',
      reason: 'All 2 places for workers are taken (MAX_WORKERS).',
    })
  })

  test('stay empty while no worker can be started', () => {
    const made = plan(situation({ queue: [task('a')], blocked: 'The engine is away.' }))
    expect(made.actions).toEqual([])
    expect(waits(made, 'a')).toEqual({ kind: 'blocked', reason: 'The engine is away.' })
  })
})

describe('a task that cannot start', () => {
  const busy = (...indexes: number[]): PlanInput['workers'] =>
    indexes.map((index) => worker(`w${index}`, { claim: { gpuIds: [gpuId(index)], memoryMb: null } }))
  const both = (queuedAt: number): PlanInput['queue'] => [
    task('both', { gpus: need({ count: 2 }), queuedAt }),
    task('one'),
  ]

  test('lets later ones pass at first', () => {
    const made = plan(situation({ workers: busy(0), queue: both(NOW - 1_000) }))
    expect(Object.keys(starts(made))).toEqual(['one'])
    expect(made.wakeAt).toBe(NOW + 29_000)
  })

  test('then holds back what it will get, and says so', () => {
    const made = plan(situation({ workers: busy(0), queue: both(LONG_AGO) }))
    expect(made.actions).toEqual([])
    expect(waits(made, 'both').reason).toBe(
      'It needs 2 GPUs; 1 of the 2 that it may use is free. It has let others pass for 30 s; now GPU 1 (Test GPU) and GPU 0 (Test GPU) are held back for it.',
    )
    expect(waits(made, 'one')).toEqual({
      kind: 'held-back',
      reason: 'It needs 1 GPU; GPU 0 (Test GPU) and GPU 1 (Test GPU) are held back for task both before it.',
    })
  })

  test('holds back nothing beyond that', () => {
    const gpus = [gpu(0), gpu(1), gpu(2)]
    expect(started({ gpus, workers: busy(0), queue: both(LONG_AGO) })).toEqual(['both'])
    expect(started({ gpus: [...gpus, gpu(3)], workers: busy(0, 1, 2), queue: both(LONG_AGO) })).toEqual([])
    const elsewhere = [
      task('both', { gpus: need({ count: 2, ids: [gpuId(0), gpuId(1)] }), queuedAt: LONG_AGO }),
      task('one'),
    ]
    expect(starts(plan(situation({ gpus, workers: busy(0), queue: elsewhere })))).toEqual({ one: ['GPU-2'] })
  })

  test('holds back an amount only, so that what fits beside it goes on', () => {
    const workers = [worker('w', { claim: { gpuIds: [gpuId(0)], memoryMb: 30 * GB } })]
    const large = task('large', { gpus: part(25 * GB), queuedAt: LONG_AGO })
    const queue = [
      large,
      task('beside', { gpus: part(8 * GB), preset: 'x' }),
      task('between', { gpus: part(9 * GB), preset: 'y' }),
    ]
    expect(started({ gpus: [gpu(0)], workers, queue })).toEqual(['beside'])
  })

  test('holds back nothing where too few GPUs are in use for it at all', () => {
    const queue = [task('three', { gpus: need({ count: 3 }), queuedAt: LONG_AGO }), task('one')]
    expect(started({ workers: busy(0), queue })).toEqual(['one'])
  })

  test('waits for its next attempt, from when on it lets others pass as long as any other', () => {
    const retried = (retryAt: number): PlanInput['queue'] => [
      task('both', { gpus: need({ count: 2 }), queuedAt: LONG_AGO, retryAt }),
      task('one'),
    ]
    const made = plan(situation({ queue: retried(NOW + 5_000) }))
    expect(waits(made, 'both').kind).toBe('retry')
    expect(made.wakeAt).toBe(NOW + 5_000)
    expect(started({ workers: busy(0), queue: retried(NOW - 1_000) })).toEqual(['one'])
  })

  test('is told by id, and in the order of the queue, of those alone that do not start', () => {
    const queue = ['a', 'b', 'c'].map((id, at) => task(id, { queuedAt: NOW + at }))
    const { waiting } = plan(situation({ gpus: [gpu(0)], queue }))
    expect([...waiting].map(([id, { kind }]) => [id, kind])).toEqual([
      ['b', 'gpu'],
      ['c', 'gpu'],
    ])
    expect([...waiting.keys()]).toEqual(['b', 'c'])
    expect(waiting.size).toBe(2)
    expect(['a', 'b', 'other'].map((id) => waiting.has(taskId(id)))).toEqual([false, true, false])
    expect([...waiting.values()]).toEqual(['b', 'c'].map((id) => waiting.get(taskId(id))))
    expect(waiting.get(taskId('a'))).toBeUndefined()
  })

  test('shares its reason with all that wait for the same', () => {
    const made = plan(
      situation({ workers: busy(0, 1), queue: Array.from({ length: 100 }, (_, at) => task(`t${at}`)) }),
    )
    expect(new Set(made.waiting.values()).size).toBe(1)
  })
})
