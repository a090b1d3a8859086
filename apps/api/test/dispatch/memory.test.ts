import type { GpuId, TaskId } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../../src/system-clock.ts'
import type { ScriptedWorker } from './scripted-worker.ts'
import { eventually, NO_GPU, oneOff, session, Stage, type SpecChange } from './stage.ts'

const shared = (kind: string, memoryMb: number, change: SpecChange = {}) =>
  session(kind, { ...change, gpus: { share: 'shared', memoryMb } })

const LARGE = { count: 1, memoryMb: 40_000 }

/** What the GPU's last sample shows as used of it. */
const usedMb = (stage: Stage, index = 0): number | null =>
  stage.gpus.list()[index]?.telemetry?.memoryUsedMb ?? null

async function measured(stage: Stage, worker: ScriptedWorker, memoryMb: number): Promise<void> {
  await stage.gpus.refresh()
  await eventually(() => {
    expect(stage.live(worker.order.workerId)?.memoryUsedMb).toBe(memoryMb)
  })
}

describe('memory that workers need more of than is declared', () => {
  /** Each of so many workers, one after the other, tells that it uses 9,000 MB. */
  async function learn(stage: Stage, workers: number): Promise<void> {
    for (let n = 0; n < workers; n++) {
      const worker = await stage.warm('greedy')
      expect(stage.gpu().memoryClaimedMb).toBe(4_000)
      worker.say({ event: 'usage', gpu_memory_mb: 9_000 })
      await measured(stage, worker, 9_000)
      await stage.dispatcher.endSession(worker.order.workerId, false)
      await stage.allGone()
    }
  }

  test('is claimed for the fourth one, after three have shown it', async () => {
    await using stage = await Stage.open({ presets: [shared('greedy', 4_000)], gpus: LARGE })
    const [preset] = stage.presets.presets()
    if (preset === undefined) throw new Error('there is no preset')
    await learn(stage, 2)
    expect(stage.dispatcher.factsOfPreset(preset).learnedMemoryMb).toBeNull()
    await learn(stage, 1)
    expect(stage.dispatcher.factsOfPreset(preset).learnedMemoryMb).toBe(9_000)
    const fourth = await stage.warm('greedy')
    expect(stage.live(fourth.order.workerId)).toMatchObject({ claim: { memoryMb: 9_000 } })
    expect(stage.gpu()).toMatchObject({ memoryClaimedMb: 9_000, memoryFreeMb: 31_000 })
  })

  test('is known after a restart', async () => {
    await using stage = await Stage.open({ presets: [shared('greedy', 4_000)], gpus: LARGE })
    await learn(stage, 3)
    await eventually(async () => {
      expect(await stage.store.liveWorkers()).toEqual([])
    })
    await stage.restart()
    const fourth = await stage.warm('greedy')
    expect(stage.live(fourth.order.workerId)).toMatchObject({ claim: { memoryMb: 9_000 } })
  })

  test('is free for nobody else while it is used, whatever was claimed', async () => {
    await using stage = await Stage.open({ presets: [shared('greedy', 4_000)], gpus: LARGE })
    const worker = await stage.warm('greedy')
    worker.say({ event: 'usage', gpu_memory_mb: 9_000 })
    await measured(stage, worker, 9_000)
    expect(stage.gpu()).toMatchObject({ memoryFreeMb: 31_000, foreignMemoryMb: 0 })
    expect(stage.live(worker.order.workerId)).toMatchObject({ peakMemoryMb: 9_000 })
  })
})

describe('the memory of a worker that has gone', () => {
  test('is waited for: the next worker starts only when it is free', async () => {
    await using stage = await Stage.open({
      presets: [shared('large', 6_000), oneOff('next')],
      // The simulated GPUs give memory back by the machine's own clock.
      clock: systemClock,
    })
    const worker = await stage.warm('large')
    await measured(stage, worker, 6_000)
    stage.simulation.set(stage.gpuId(), { releaseMs: 300 })
    let usedAtStart: number | null = null
    stage.beforeStore('claim', () => {
      usedAtStart = usedMb(stage)
    })
    worker.exit()
    const exitedAt = performance.now()
    const id = await stage.submit('next')
    await eventually(() => {
      expect(stage.live(worker.order.workerId)?.explanation).toContain('until its memory')
    })
    expect((await stage.task(id)).status).toBe('QUEUED')
    expect(stage.gpu().workerIds).toEqual([worker.order.workerId])
    await stage.worker(2)
    expect(performance.now() - exitedAt).toBeGreaterThanOrEqual(290)
    expect(usedAtStart).toBe(0)
  })

  test('is not waited for for ever', async () => {
    await using stage = await Stage.open({ presets: [oneOff('next', { gpus: { memoryMb: 4_000 } })] })
    const id = await stage.submit('next')
    const worker = await stage.worker()
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    await measured(stage, worker, 4_000)
    stage.simulation.set(stage.gpuId(), { releaseMs: 1_000_000 })
    await stage.dispatcher.cancel(id, null)
    await stage.reached(id, 'CANCELLED')
    const next = await stage.submit('next')
    const from = stage.clock.now()
    await eventually(() => {
      stage.clock.advance(50)
      expect(stage.runner.workers).toHaveLength(2)
    })
    expect(stage.clock.now() - from).toBeGreaterThanOrEqual(1_000)
    expect(stage.clock.now() - from).toBeLessThanOrEqual(10_000)
    expect(usedMb(stage)).toBeGreaterThanOrEqual(4_000)
    expect((await stage.task(next)).status).toBe('STARTING')
  })
})

describe('a GPU that is lost', () => {
  test('takes with it both tasks of a session, and the idle session beside it', async () => {
    await using stage = await Stage.open({
      presets: [
        shared('pair', 3_000, { session: { maxConcurrency: 2 }, retry: { on: [] } }),
        shared('idle', 3_000),
        oneOff('other', { gpus: NO_GPU }),
      ],
    })
    const idle = await stage.warm('idle')
    const pair = await stage.warm('pair')
    const ids = [await stage.submit('pair'), await stage.submit('pair')]
    for (const n of [1, 2]) pair.take(await stage.handed(pair, n))
    for (const id of ids) await stage.reached(id, 'RUNNING')
    const other = await stage.submit('other')
    const bystander = await stage.worker(3)

    stage.simulation.set(stage.gpuId(), { fault: 'LOST' })
    await stage.gpus.refresh()
    for (const id of ids) {
      expect(await stage.reached(id, 'FAILED')).toMatchObject({
        error: { code: 'GPU_LOST' },
        stopReason: 'gpu-lost',
      })
      expect((await stage.statuses(id)).filter((status) => status === 'FAILED')).toHaveLength(1)
      expect(await stage.store.attempts(id)).toMatchObject([{ failureClass: 'gpu_lost' }])
    }
    await eventually(() => {
      expect([pair.isRunning, idle.isRunning]).toEqual([false, false])
      expect(stage.dispatcher.workers()).toHaveLength(1)
    })
    expect(stage.gpu()).toMatchObject({ status: 'LOST', workerIds: [] })
    for (const { order } of [pair, idle])
      expect((await stage.store.worker(order.workerId))?.endReason).toContain('lost')
    expect(bystander.isRunning).toBe(true)
    bystander.say({ event: 'finish', status: 'completed' })
    bystander.exit()
    await stage.reached(other, 'COMPLETED')
  })

  test('gives a task that may be tried again to another one, and serves again when it is back', async () => {
    const retry = { maxAttempts: 2, backoffMs: 0, on: ['gpu_lost'] as const }
    await using stage = await Stage.open({
      presets: [oneOff('plain', { retry })],
      gpus: { count: 2, memoryMb: 8_192 },
    })
    const id = await stage.submit('plain')
    const first = await stage.worker()
    const lost = first.order.gpus[0]?.id ?? ('' as GpuId)
    first.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    stage.simulation.set(lost, { fault: 'LOST' })
    await stage.gpus.refresh()
    const second = await stage.worker(2)
    expect(second.order.gpus[0]?.id).not.toBe(lost)
    second.say({ event: 'finish', status: 'completed' })
    second.exit()
    await stage.reached(id, 'COMPLETED')
    stage.simulation.set(lost, { fault: null })
    await stage.gpus.refresh()
    await stage.submit('plain', { gpuIds: [lost] })
    expect((await stage.worker(3)).order.gpus.map((gpu) => gpu.id)).toEqual([lost])
  })

  test('while its worker is being made: the worker is stopped, and nobody waits for it', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const held = stage.runner.holdStart()
    const id = await stage.submit('plain')
    await held.reached
    stage.simulation.set(stage.gpuId(), { fault: 'LOST' })
    await stage.gpus.refresh()
    held.release()
    expect(await stage.reached(id, 'FAILED')).toMatchObject({ error: { code: 'GPU_LOST' } })
    await eventually(() => {
      expect(stage.runner.running).toEqual([])
    })
  })
})

describe('a GPU that is drained', () => {
  test('finishes what it has and takes nothing new, also after a restart, until it is enabled', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const running = await stage.submit('plain')
    const worker = await stage.worker()
    await stage.dispatcher.drainGpu(stage.gpuId(), 'it is replaced')
    const waiting = await stage.submit('plain')
    await stage.restart()
    expect(stage.gpu()).toMatchObject({ status: 'DRAINING', drained: true })
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    await stage.reached(running, 'COMPLETED')
    await stage.allGone()
    await stage.planned()
    expect(stage.runner.starts).toHaveLength(1)
    expect(stage.dispatcher.explain(await stage.task(waiting))).toContain('it is replaced')
    await stage.dispatcher.enableGpu(stage.gpuId())
    expect((await stage.worker(2)).order.run?.runId).toBe(`${waiting}.1`)
  })

  test('ends its idle session, and starts none by hand', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    await stage.warm('warm')
    await stage.dispatcher.drainGpu(stage.gpuId(), null)
    await stage.allGone()
    expect(await stage.dispatcher.startSession('test/warm', 'ada')).toMatchObject({ code: 'NO_ROOM' })
  })
})

describe('what others use of a GPU', () => {
  test('keeps a task waiting, with the numbers, until it has gone', async () => {
    await using stage = await Stage.open({ presets: [shared('large', 6_000)] })
    stage.simulation.set(stage.gpuId(), { foreignMemoryMb: 5_000 })
    await stage.gpus.refresh()
    const id: TaskId = await stage.submit('large')
    await stage.planned()
    expect(stage.dispatcher.explain(await stage.task(id))).toContain('3,192 of 8,192 MB')
    expect(stage.gpu()).toMatchObject({ foreignMemoryMb: 5_000, memoryFreeMb: 3_192 })
    expect(stage.runner.starts).toEqual([])
    stage.simulation.set(stage.gpuId(), { foreignMemoryMb: 0 })
    await stage.gpus.refresh()
    await stage.handed(await stage.worker())
  })

  test('and comes while a worker ends does not hold its memory back for long', async () => {
    await using stage = await Stage.open({ presets: [shared('small', 2_000)] })
    const worker = await stage.warm('small')
    await measured(stage, worker, 2_000)
    stage.simulation.set(stage.gpuId(), { foreignMemoryMb: 4_000 })
    worker.exit()
    const from = stage.clock.now()
    await eventually(() => {
      stage.clock.advance(50)
      expect(stage.gpu().workerIds).toEqual([])
    })
    expect(stage.clock.now() - from).toBeLessThanOrEqual(4_000)
    expect(stage.gpu()).toMatchObject({ foreignMemoryMb: 4_000, memoryFreeMb: 4_192 })
  })
})
