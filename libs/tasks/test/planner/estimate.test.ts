import { describe, expect, test } from 'vitest'
import { createOutlook, DEFAULT_RULES, type PlanInput, type StartEstimate } from '../../src/planner/index.ts'
import type { GpuId, TaskId, WorkerId } from '../../src/ids.ts'
import { WorkerHistories } from '../../src/dispatch/worker-histories.ts'
import {
  facts,
  gpu,
  gpuId,
  need,
  NO_FACTS,
  NOW,
  part,
  session,
  situation,
  task,
  taskId,
  worker,
} from './situation.ts'
import { live, randomFrom, type WorldTask } from './world.ts'

const known = {
  'one-off': facts({ loadMs: 4_000, runMs: 20_000 }),
  chat: facts({ loadMs: 10_000, runMs: 2_000 }),
}
const chat = session()

const estimateStart = (input: PlanInput, id: TaskId): StartEstimate | null =>
  createOutlook(input).estimate(id)
const explainGpu = (input: PlanInput, id: GpuId): string => createOutlook(input).explainGpu(id)
const explainWorker = (input: PlanInput, id: WorkerId): string => createOutlook(input).explainWorker(id)

describe('the estimate of a start', () => {
  test('of a task that starts now is the time of its load, with its spread', () => {
    expect(estimateStart(situation({ queue: [task('a')], facts: known }), taskId('a'))).toEqual({
      at: NOW + 4_000,
      earliest: NOW + 2_000,
      latest: NOW + 6_000,
      warm: false,
      how: 'It is next, on a worker that has to load first.',
    })
  })

  test('of a task for a warm worker is the time that it takes to be handed over', () => {
    const unknown = situation({
      workers: [worker('w', { preset: 'chat', session: chat })],
      queue: [task('a', { preset: 'chat', session: chat })],
      facts: known,
    })
    expect(estimateStart(unknown, taskId('a'))).toMatchObject({
      at: NOW + 50,
      earliest: NOW + 30,
      latest: NOW + 80,
      warm: true,
    })
    const measured = {
      ...unknown,
      factsOf: () => facts({ loadMs: 10_000, runMs: 2_000, handOverMs: 200 }),
    }
    expect(estimateStart(measured, taskId('a'))).toMatchObject({
      at: NOW + 200,
      earliest: NOW + 100,
      latest: NOW + 300,
    })
  })

  test('of a task in a queue is after the runs, releases and loads before it', () => {
    const running = worker('w', { runningSince: [NOW - 5_000], readyAt: NOW - 5_000 })
    const queue = [task('a', { queuedAt: NOW - 2 }), task('b', { queuedAt: NOW - 1 })]
    const input = situation({ gpus: [gpu(0)], workers: [running], queue, facts: known })
    // 15 s of the run, 1 s until it is gone, 4 s of load; then 20 s of the next run, 1 s and 4 s more.
    expect(estimateStart(input, taskId('a'))?.at).toBe(NOW + 20_000)
    expect(estimateStart(input, taskId('b'))).toMatchObject({
      at: NOW + 45_000,
      how: 'After 1 task before it, on a worker that has to load first.',
    })
  })

  test('is told from the pace of the queue for a task far back', () => {
    const queue = Array.from({ length: 1_000 }, (_, at) =>
      task(`t${String(at).padStart(4, '0')}`, { queuedAt: NOW - 1_000 + at }),
    )
    const estimate = estimateStart(situation({ gpus: [gpu(0)], queue, facts: known }), taskId('t0999'))
    // 25 s each.
    expect((estimate?.at ?? 0) - NOW).toBeGreaterThan(0.8 * 1_000 * 25_000)
    expect((estimate?.at ?? 0) - NOW).toBeLessThan(1.2 * 1_000 * 25_000)
    expect(estimate?.how).toMatch(/^By the pace of the first \d+ of the 999 tasks of its kind before it\.$/)
  })

  test('is within a window that widens with what is before it, less than the sum of that', () => {
    const queue = Array.from({ length: 20 }, (_, at) => task(`t${at + 10}`, { queuedAt: NOW - 20 + at }))
    const outlook = createOutlook(situation({ gpus: [gpu(0)], queue, facts: known }))
    const widths = queue.map(({ id }) => {
      const estimate = outlook.estimate(id)
      return (estimate?.latest ?? 0) - (estimate?.earliest ?? 0)
    })
    expect(widths).toEqual(widths.toSorted((a, b) => a - b))
    // Each run spreads over 20 s and each load over 4 s.
    expect(widths[19]).toBeGreaterThan(Math.sqrt(19) * 20_000)
    expect(widths[19]).toBeLessThan(19 * 20_000)
  })

  test('does not wait for what is pinned elsewhere, however much of that is before it', () => {
    const pinned = (index: number) => need({ ids: [gpuId(index)] })
    const queue = Array.from({ length: 300 }, (_, at) =>
      task(`t${String(at).padStart(4, '0')}`, {
        ...(at < 299 ? { gpus: pinned(0) } : { preset: 'other', gpus: pinned(1) }),
        queuedAt: NOW - 300 + at,
      }),
    )
    const input = situation({ queue, facts: { ...known, other: facts({ loadMs: 4_000, runMs: 1_000 }) } })
    expect(estimateStart(input, taskId('t0299'))?.at).toBe(NOW + 4_000)
  })

  test('of a run that has lasted longer than most is told from those that lasted as long', () => {
    const late = (elapsedMs: number): number => {
      const running = worker('w', { runningSince: [NOW - elapsedMs], readyAt: NOW - elapsedMs })
      const input = situation({ gpus: [gpu(0)], workers: [running], queue: [task('a')], facts: known })
      return (estimateStart(input, taskId('a'))?.at ?? 0) - NOW - 5_000
    }
    // Runs take 10 to 30 s.
    expect(late(5_000)).toBe(15_000)
    expect(late(20_000)).toBeGreaterThan(2_000)
    expect(late(20_000)).toBeLessThan(10_000)
    expect(late(60_000)).toBeGreaterThan(1_000)
  })

  test('is none where the end of a run is not known, no GPU will do, or the task is not queued', () => {
    const queue = [task('a')]
    expect(
      estimateStart(situation({ gpus: [gpu(0)], workers: [worker('w')], queue }), taskId('a')),
    ).toBeNull()
    expect(
      estimateStart(
        situation({ queue: [task('a', { gpus: need({ count: 9 }) })], facts: known }),
        taskId('a'),
      ),
    ).toBeNull()
    expect(estimateStart(situation({ queue }), taskId('b'))).toBeNull()
  })
})

describe('windows of estimates', () => {
  test.each([
    ['1 GPU', { gpus: 1, presets: 1, sigma: 0.4, load: 0.8 }],
    ['4 GPUs', { gpus: 4, presets: 1, sigma: 0.4, load: 0.8 }],
    ['4 GPUs and 3 presets', { gpus: 4, presets: 3, sigma: 0.4, load: 0.9 }],
    ['4 GPUs and run times that differ much', { gpus: 4, presets: 2, sigma: 0.9, load: 0.9 }],
    ['8 GPUs and session workers', { gpus: 8, presets: 3, sigma: 0.5, load: 0.9, sessions: true }],
    ['2 GPUs and more than they can do', { gpus: 2, presets: 2, sigma: 0.5, load: 1.2 }],
  ])(
    'hold as many starts as they say, with %s',
    (_, shape) => {
      const { within, predicted } = calibrated(shape)
      expect(predicted).toBeGreaterThan(100)
      expect(within).toBeGreaterThan(0.7)
      expect(within).toBeLessThan(0.97)
    },
    60_000,
  )
})

interface Shape {
  readonly gpus: number
  readonly presets: number
  /** Of the logarithm of the run times. */
  readonly sigma: number
  /** What is asked for, of what the GPUs can do. */
  readonly load: number
  readonly sessions?: boolean
}

/** The share of 1,000 tasks that started as was said when they came and had to wait. */
function calibrated({ gpus, presets, sigma, load, sessions = false }: Shape): {
  readonly within: number
  readonly predicted: number
} {
  const random = randomFrom(11)
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  const kinds = Array.from({ length: presets }, (_, at) => ({
    preset: {
      name: `preset-${at}`,
      gpus: need(),
      session: sessions ? session({ maxConcurrency: 1 }) : null,
      loadMs: 1_500 + 1_000 * at,
      useMb: 1_000,
      facts: NO_FACTS,
    },
    middleMs: 8_000 + 6_000 * at,
  }))
  const perTaskMs =
    kinds.reduce(
      (sum, { preset, middleMs }) =>
        sum + (sessions ? 500 : preset.loadMs + 500) + middleMs * Math.exp(sigma ** 2 / 2),
      0,
    ) / presets
  let at = 0
  const tasks = Array.from({ length: 1_000 }, (): WorldTask => {
    at += Math.round((-Math.log(1 - random()) * perTaskMs) / gpus / load)
    const { preset, middleMs } = kinds[Math.floor(random() * presets)] as (typeof kinds)[number]
    const runMs = Math.max(1, Math.round(middleMs * Math.exp(sigma * normal())))
    return { at, preset, runMs, owner: 'ann', priority: 0, affinity: null }
  })
  const histories = new WorkerHistories([])
  const predictions = new Map<TaskId, StartEstimate>()
  const seen = new Set<TaskId>()
  const told = live(
    {
      gpus: Array.from({ length: gpus }, (_, index) => gpu(index)),
      tasks,
      changes: [],
      maxWorkers: 32,
      rules: DEFAULT_RULES,
      releaseMs: 500,
    },
    (input, made) => {
      const outlook = createOutlook(input)
      for (const { id } of input.queue) {
        if (seen.has(id)) continue
        seen.add(id)
        if (!made.waiting.has(id) || seen.size < 50) continue
        const estimate = outlook.estimate(id)
        if (estimate !== null) predictions.set(id, estimate)
      }
    },
    undefined,
    {
      factsOf: (hash) => histories.facts(hash, 0),
      loaded: (hash, ms) => {
        histories.loaded(hash, ms)
      },
      ran: (hash, ms) => {
        histories.ran(hash, ms)
      },
    },
  )
  const hits = [...predictions].filter(([id, { earliest, latest }]) => {
    const started = told.startedAt.get(id) ?? Infinity
    return started >= earliest && started <= latest
  })
  return { within: hits.length / predictions.size, predicted: predictions.size }
}

describe('the explanation', () => {
  test('of a GPU tells who has how much, what others use, and for whom it is held back', () => {
    const workers = [
      worker('w', { claim: { gpuIds: [gpuId(0)], memoryMb: 10_000 }, usedMb: new Map([[gpuId(0), 8_000]]) }),
    ]
    const queue = [task('a', { gpus: part(30_000), queuedAt: NOW - 60_000 })]
    const input = situation({ gpus: [gpu(0, { usedMb: 9_500 })], workers, queue })
    expect(explainGpu(input, gpuId(0))).toBe(
      'Worker w (one-off) claims 10,000 MB and uses 8,000 MB; 1,500 MB are in use by other programs; 28,500 of 40,000 MB are free. It is held back for task a.',
    )
    expect(explainGpu(situation({ gpus: [gpu(0, { unusable: 'It is drained.' })] }), gpuId(0))).toBe(
      'It gets nothing new: It is drained. No worker has any of it; 40,000 of 40,000 MB are free.',
    )
    expect(explainGpu(input, gpuId(7))).toBe('It is not there.')
  })

  test('of every GPU that is held back names the task, in whatever order it is asked', () => {
    const workers = [worker('v'), worker('w', { claim: { gpuIds: [gpuId(1)], memoryMb: null } })]
    const queue = [
      task('a', { queuedAt: NOW - 60_000, gpus: need({ count: 2 }) }),
      task('b', { queuedAt: NOW - 60_001 + 2 }),
    ]
    const outlook = createOutlook(situation({ workers, queue, facts: known }))
    for (const index of [1, 0, 1]) {
      expect(outlook.explainGpu(gpuId(index))).toMatch(/It is held back for task a\.$/)
    }
    expect(outlook.plan.waiting.get(taskId('a'))?.reason).toContain('are held back for it')
    expect(['a', 'b', 'c'].map((id) => outlook.position(taskId(id)))).toEqual([1, 2, null])
    expect(outlook.plan).toBe(outlook.plan)
    expect(outlook.explainWorker('x' as WorkerId)).toBe('It is not there.')
  })

  test('of a worker tells what it does and when it ends', () => {
    const tell = (more: Parameters<typeof worker>[1]): string =>
      explainWorker(
        situation({ workers: [worker('w', { preset: 'chat', session: chat, ...more })], facts: known }),
        'w' as WorkerId,
      )
    expect(tell({ session: session({ idleMs: 60_000 }) })).toBe(
      'It has been warm for 90 s and idle for 50 s. It ends in 10 s if it stays idle.',
    )
    expect(tell({ session: session({ pinned: true }) })).toBe(
      'It has been warm for 90 s and idle for 50 s. It is pinned: it stays.',
    )
    expect(tell({ runningSince: [NOW - 1_000], retiring: 'Its log is long.' })).toBe(
      'It has been warm for 90 s and works on 1 task. It takes no more tasks and ends once it is idle: Its log is long.',
    )
    expect(tell({ phase: 'starting', startedAt: NOW - 3_000 })).toBe(
      'It has been starting for 3 s; others took about 10 s. It stays until its place is needed.',
    )
    expect(tell({ phase: 'ending' })).toBe(
      'It ends and keeps its claim until its memory on GPU 0 (Test GPU) is seen free again.',
    )
  })
})
