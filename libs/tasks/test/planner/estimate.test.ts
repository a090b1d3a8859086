import { describe, expect, test } from 'vitest'
import { estimateStart, explainGpu, explainWorker } from '../../src/planner/index.ts'
import type { WorkerId } from '../../src/ids.ts'
import { facts, gpu, gpuId, need, NOW, part, session, situation, task, taskId, worker } from './situation.ts'

const known = {
  'one-off': facts({ loadMs: 4_000, runMs: 20_000 }),
  chat: facts({ loadMs: 10_000, runMs: 2_000 }),
}
const chat = session()

describe('the estimate of a start', () => {
  test('of a task that starts now is the time of its load, with its spread', () => {
    expect(estimateStart(situation({ queue: [task('a')], facts: known }), taskId('a'))).toEqual({
      at: NOW + 4_000,
      earliest: NOW + 2_000,
      latest: NOW + 8_000,
      warm: false,
      how: 'It is next, on a worker that has to load first.',
    })
  })

  test('of a task for a warm worker is now', () => {
    const input = situation({
      workers: [worker('w', { preset: 'chat', session: chat })],
      queue: [task('a', { preset: 'chat', session: chat })],
      facts: known,
    })
    expect(estimateStart(input, taskId('a'))).toMatchObject({
      at: NOW,
      earliest: NOW,
      latest: NOW,
      warm: true,
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
    expect(estimate?.how).toMatch(/^By the pace of the first \d+ of the 999 tasks before it\.$/)
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
