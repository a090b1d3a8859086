import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Gpu, GpuId, TaskId, WorkerId } from '../src/index.ts'
import { plan, queueOrder, type PlanInput, type QueuedTask } from '../src/planner.ts'

const gpu = (index: number): Gpu => ({
  id: `GPU-${index}` as GpuId,
  index,
  name: 'Test GPU',
  memoryTotalMb: 8_192,
  simulated: true,
  parentId: null,
  telemetry: null,
  stale: false,
})

const task = (
  id: string,
  count: number | 'default',
  more: { priority?: number; ids?: string[] } = {},
): QueuedTask => ({
  id: id as TaskId,
  priority: more.priority ?? 0,
  gpus: { count, ids: (more.ids as GpuId[] | undefined) ?? null },
})

const worker = (id: string, ...gpuIds: string[]): PlanInput['workers'][number] => ({
  id: id as WorkerId,
  gpuIds: gpuIds as GpuId[],
})

const input = (more: Partial<PlanInput>): PlanInput => ({
  queue: [],
  workers: [],
  gpus: [gpu(0), gpu(1)],
  maxWorkers: 32,
  blocked: null,
  ...more,
})

const started = (given: Partial<PlanInput>): Record<string, readonly string[]> =>
  Object.fromEntries(plan(input(given)).actions.map((action) => [action.taskId, action.gpuIds]))

describe('the plan', () => {
  test('starts tasks in the order of their submission, each with a GPU of its own', () => {
    expect(started({ queue: [task('b', 1), task('a', 1), task('c', 1)] })).toEqual({
      a: ['GPU-0'],
      b: ['GPU-1'],
    })
  })

  test('puts a higher priority first', () => {
    expect(started({ queue: [task('a', 2), task('b', 1, { priority: 5 })], gpus: [gpu(0)] })).toEqual({
      b: ['GPU-0'],
    })
  })

  test('gives no GPU twice while a worker holds it', () => {
    expect(started({ queue: [task('a', 1)], workers: [worker('w', 'GPU-0')] })).toEqual({ a: ['GPU-1'] })
  })

  test('lets a task without GPUs pass one that waits for a GPU', () => {
    const queue = [task('a', 2), task('b', 0)]
    expect(started({ queue, workers: [worker('w', 'GPU-0')] })).toEqual({ b: [] })
  })

  test('does not let a small task take the GPU that a larger one before it waits for', () => {
    const { actions, waiting } = plan(
      input({ queue: [task('a', 2), task('b', 1)], workers: [worker('w', 'GPU-0')] }),
    )
    expect(actions).toEqual([])
    expect([...waiting]).toEqual([
      ['a', 'It needs 2 GPUs; 1 of the 2 that it may use is free.'],
      ['b', 'It needs 1 GPU; those that are free are held for a task before it.'],
    ])
  })

  test('lets a task pass whose GPUs the waiting one may not use', () => {
    const queue = [task('a', 1, { ids: ['GPU-0'] }), task('b', 1, { ids: ['GPU-1'] })]
    expect(started({ queue, workers: [worker('w', 'GPU-0')] })).toEqual({ b: ['GPU-1'] })
  })

  test('takes one GPU by default where there are any, and none where there are none', () => {
    expect(started({ queue: [task('a', 'default')] })).toEqual({ a: ['GPU-0'] })
    expect(started({ queue: [task('a', 'default')], gpus: [] })).toEqual({ a: [] })
  })

  test('starts no more workers than there are places', () => {
    const { actions, waiting } = plan(
      input({ queue: [task('a', 0), task('b', 0)], workers: [worker('w')], maxWorkers: 2 }),
    )
    expect(actions.map((action) => action.taskId)).toEqual(['a'])
    expect(waiting.get('b' as TaskId)).toBe('All 2 places for workers are taken (MAX_WORKERS).')
  })

  test('starts nothing while the runner is away, and says why', () => {
    const { actions, waiting } = plan(input({ queue: [task('a', 0)], blocked: 'The engine is away.' }))
    expect(actions).toEqual([])
    expect(waiting.get('a' as TaskId)).toBe('The engine is away.')
  })

  test('says that a GPU is gone that a waiting task needs', () => {
    const { waiting } = plan(input({ queue: [task('a', 2)], gpus: [gpu(0)] }))
    expect(waiting.get('a' as TaskId)).toBe('It needs 2 GPUs, but only 1 of those that it may use are there.')
  })
})

describe('any plan', () => {
  const ids = ['GPU-0', 'GPU-1', 'GPU-2', 'GPU-3'] as GpuId[]
  const anyInput = fc.record({
    queue: fc.uniqueArray(
      fc.record({
        id: fc.nat(999).map((n) => `t${String(n).padStart(3, '0')}` as TaskId),
        priority: fc.integer({ min: -1, max: 2 }),
        gpus: fc.record({
          count: fc.oneof(fc.integer({ min: 0, max: 5 }), fc.constant('default' as const)),
          ids: fc.option(fc.subarray(ids, { minLength: 1 })),
        }),
      }),
      { selector: (queued) => queued.id, maxLength: 12 },
    ),
    busy: fc.subarray(ids),
    gpus: fc.subarray(ids).map((present) => present.map((id) => gpu(Number(id.slice(4))))),
    maxWorkers: fc.integer({ min: 1, max: 8 }),
  })
  const toInput = ({
    busy,
    ...rest
  }: { busy: readonly GpuId[] } & Omit<PlanInput, 'workers' | 'blocked'>): PlanInput => ({
    ...rest,
    blocked: null,
    workers: busy.map((id) => worker(`w-${id}`, id)),
  })

  test('never gives a GPU that is taken, absent or not allowed, and accounts for every task', () => {
    fc.assert(
      fc.property(anyInput, (given) => {
        const planned = toInput(given)
        const { actions, waiting } = plan(planned)
        const given_ = actions.flatMap((action) => action.gpuIds)
        expect(new Set(given_).size).toBe(given_.length)
        for (const id of given_) {
          expect(given.busy).not.toContain(id)
          expect(given.gpus.map((present) => present.id)).toContain(id)
        }
        for (const { taskId, gpuIds } of actions) {
          const need = given.queue.find((queued) => queued.id === taskId)?.gpus
          if (need?.ids != null) expect(need.ids).toEqual(expect.arrayContaining([...gpuIds]))
          if (typeof need?.count === 'number') expect(gpuIds).toHaveLength(need.count)
        }
        expect(actions.length + planned.workers.length).toBeLessThanOrEqual(
          Math.max(given.maxWorkers, planned.workers.length),
        )
        expect(actions.length + waiting.size).toBe(given.queue.length)
      }),
      { numRuns: 10_000 },
    )
  })

  test('is the same for the same input in any order of the queue', () => {
    fc.assert(
      fc.property(anyInput, (given) => {
        const planned = toInput(given)
        expect(plan({ ...planned, queue: [...given.queue].reverse() })).toEqual(plan(planned))
      }),
      { numRuns: 2_000 },
    )
  })

  test('starts the first task in the queue whenever its GPUs are free', () => {
    fc.assert(
      fc.property(anyInput, (given) => {
        const planned = toInput(given)
        const first = [...given.queue].sort(queueOrder)[0]
        fc.pre(first !== undefined && planned.workers.length < given.maxWorkers)
        const free = given.gpus.filter(
          ({ id }) => !given.busy.includes(id) && (first.gpus.ids?.includes(id) ?? true),
        )
        fc.pre(typeof first.gpus.count === 'number' && first.gpus.count <= free.length)
        expect(plan(planned).actions[0]?.taskId).toBe(first.id)
      }),
      { numRuns: 5_000 },
    )
  })
})
