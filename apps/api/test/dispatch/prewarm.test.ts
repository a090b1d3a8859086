import type { StartFailure, TaskEventBody, Worker, WorkerId } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { eventually, session, Stage, type SpecChange } from './stage.ts'

const NO_IMAGE: StartFailure = {
  status: 'failed',
  code: 'IMAGE_NOT_FOUND',
  message: 'There is no image script:test.',
  hint: 'Build it.',
}

const prewarmed = (change: SpecChange = {}) => session('warm', { session: { prewarm: 1 }, ...change })

/** The row of the `n`th worker that was asked for, once it has exited and nothing of it is left. */
async function exited(stage: Stage, n: number): Promise<Worker & { readonly log: readonly TaskEventBody[] }> {
  return eventually(async () => {
    const id = stage.runner.starts[n - 1]?.workerId ?? ('' as WorkerId)
    const row = await stage.store.worker(id)
    expect(row?.status).toBe('EXITED')
    expect(stage.dispatcher.workers()).toEqual([])
    const log = (await stage.store.workerLog(id, 0, 100)).map(({ body }) => body)
    if (row === null) throw new Error('it has no row')
    return { ...row, log }
  })
}

/** How long it takes until another start is asked for, to the second, in milliseconds. */
async function untilNextStart(stage: Stage): Promise<number> {
  const before = stage.runner.starts.length
  for (let ms = 0; ms <= 600_000; ms += 1_000) {
    await stage.planned()
    if (stage.runner.starts.length > before) return ms
    stage.clock.advance(1_000)
  }
  throw new Error('it is not tried again')
}

describe('a session that is to be kept warm', () => {
  test('and cannot start says why, and is tried again after waits that grow', async () => {
    await using stage = await Stage.open({ presets: [] })
    stage.runner.startResult = NO_IMAGE
    stage.presets.put(prewarmed())
    const waits: number[] = []
    for (let n = 1; n <= 4; n++) {
      await eventually(() => {
        expect(stage.runner.starts).toHaveLength(n)
      })
      const row = await exited(stage, n)
      expect(row.endReason).toContain('There is no image script:test.')
      expect(row.log.map((body) => JSON.stringify(body)).join()).toContain('There is no image script:test.')
      expect(stage.gpu().workerIds).toEqual([])
      waits.push(await untilNextStart(stage))
    }
    expect(waits[0]).toBeGreaterThanOrEqual(5_000)
    waits.slice(1).forEach((wait, at) => {
      expect(wait).toBeGreaterThan((waits[at] ?? 0) * 1.5)
    })
  })

  test('and has served a task is not held back any more by what failed before', async () => {
    await using stage = await Stage.open({ presets: [] })
    stage.runner.startResult = NO_IMAGE
    stage.presets.put(prewarmed())
    await eventually(() => {
      expect(stage.runner.starts).toHaveLength(1)
    })
    await exited(stage, 1)
    const first = await untilNextStart(stage)
    await exited(stage, 2)
    stage.runner.startResult = null
    expect(await untilNextStart(stage)).toBeGreaterThan(first)
    await eventually(() => {
      expect(stage.dispatcher.workers()).toMatchObject([{ status: 'READY' }])
    })
    const worker = await stage.worker()
    const id = await stage.submit('warm')
    worker.finish(await stage.handed(worker))
    await stage.reached(id, 'COMPLETED')
    stage.runner.startResult = NO_IMAGE
    worker.exit(1)
    await eventually(() => {
      expect(stage.runner.starts.length).toBe(4)
    })
    await exited(stage, 4)
    expect(await untilNextStart(stage)).toBe(first)
  })

  test('and is not ready in time is ended, says so, and is tried again after waits that grow', async () => {
    await using stage = await Stage.open({ presets: [] })
    stage.runner.isReadyAtOnce = false
    stage.presets.put(prewarmed({ timeouts: { startMs: 30_000 } }))
    const waits: number[] = []
    for (let n = 1; n <= 3; n++) {
      const worker = await stage.worker(n)
      worker.print('Still loading\n', 'stderr')
      await eventually(async () => {
        expect(await stage.store.workerLog(worker.order.workerId, 0, 10)).toHaveLength(1)
      })
      stage.clock.advance(29_999)
      await stage.planned()
      expect(worker.isRunning).toBe(true)
      stage.clock.advance(1_000)
      const row = await exited(stage, n)
      expect(worker.isRunning).toBe(false)
      expect(row.endReason).toContain('timeouts.start')
      expect(row.log.map((body) => JSON.stringify(body)).join()).toMatch(/Still loading.*timeouts\.start/)
      waits.push(await untilNextStart(stage))
    }
    expect(waits).toEqual(waits.toSorted((a, b) => a - b))
    expect(new Set(waits).size).toBe(3)
  })

  test('and dies as it loads keeps its exit code and its last words', async () => {
    await using stage = await Stage.open({ presets: [] })
    stage.runner.isReadyAtOnce = false
    stage.presets.put(prewarmed())
    const worker = await stage.worker()
    worker.print('No such model\n', 'stderr')
    worker.exit(3)
    const row = await exited(stage, 1)
    expect(row).toMatchObject({ exit: { exitCode: 3 } })
    expect(row.endReason).toContain('code 3')
    expect(row.log.map((body) => JSON.stringify(body)).join()).toContain('No such model')
    expect(await untilNextStart(stage)).toBeGreaterThanOrEqual(5_000)
  })

  test('and dies again and again as soon as it is ready is tried again after waits that grow', async () => {
    await using stage = await Stage.open({ presets: [prewarmed()] })
    const waits: number[] = []
    for (let n = 1; n <= 3; n++) {
      const worker = await stage.worker(n)
      await eventually(() => {
        expect(stage.dispatcher.workers()).toMatchObject([{ status: 'READY' }])
      })
      worker.exit(1)
      await exited(stage, n)
      waits.push(await untilNextStart(stage))
    }
    expect(waits[0]).toBeGreaterThanOrEqual(5_000)
    waits.slice(1).forEach((wait, at) => {
      expect(wait).toBeGreaterThan((waits[at] ?? 0) * 1.5)
    })
  })

  test('and could not start does not keep a task of its preset from trying', async () => {
    await using stage = await Stage.open({ presets: [] })
    stage.runner.startResult = NO_IMAGE
    stage.presets.put(prewarmed({ retry: { on: [] } }))
    await eventually(() => {
      expect(stage.runner.starts).toHaveLength(1)
    })
    await exited(stage, 1)
    const id = await stage.submit('warm')
    expect(await stage.reached(id, 'FAILED')).toMatchObject({ error: { code: 'IMAGE_NOT_FOUND' } })
    expect(stage.runner.starts).toHaveLength(2)
  })

  test('and was ended by hand is there again, without a wait', async () => {
    await using stage = await Stage.open({ presets: [prewarmed()] })
    await eventually(() => {
      expect(stage.dispatcher.workers()).toMatchObject([{ status: 'READY' }])
    })
    const first = await stage.worker()
    await stage.dispatcher.endSession(first.order.workerId, false)
    await stage.worker(2)
    expect(first.isRunning).toBe(false)
  })
})

test('a session that a client asks for and that cannot start says why in its row and in its log', async () => {
  await using stage = await Stage.open({ presets: [session('warm')] })
  stage.runner.startResult = NO_IMAGE
  await stage.startSession('warm')
  const row = await exited(stage, 1)
  expect(row.endReason).toContain('There is no image script:test.')
  expect(row.log.map((body) => JSON.stringify(body)).join()).toContain('There is no image script:test.')
  expect(stage.gpu()).toMatchObject({ status: 'AVAILABLE', workerIds: [] })
})
