import { RunnerError, type ArtifactFiles } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { eventually, NO_GPU, oneOff, session, Stage } from './stage.ts'

const AGAIN = { maxAttempts: 2, backoffMs: 0, on: ['worker_failed'] } as const

/** Lets the time pass until it holds: what could not be done is tried again after a while. */
const inTime = <T>(stage: Stage, holds: () => T | Promise<T>): Promise<T> =>
  eventually(() => {
    stage.clock.advance(100)
    return holds()
  })

describe('a store that refuses for a while', () => {
  test('to read the task that is tried again: it is not lost', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain', { retry: AGAIN })] })
    const id = await stage.submit('plain')
    let failed = 0
    stage.beforeStore('task', async () => {
      const { status, attempt } = await stage.task(id)
      if (failed === 2 || status !== 'QUEUED' || attempt !== 1) return
      failed++
      throw new Error('the database is locked')
    })
    ;(await stage.worker()).exit(1)
    const second = await inTime(stage, () => {
      expect(stage.runner.workers).toHaveLength(2)
      return stage.runner.workers[1]
    })
    expect(failed).toBe(2)
    second?.say({ event: 'finish', status: 'completed' })
    second?.exit()
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 2 })
    expect(stage.dispatcher.load).toEqual({ queued: 0, running: 0 })
  })

  test('to record that a GPU is free: the proof is there in the end', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    const failed = stage.storeFails('recordRelease', 4)
    await stage.dispatcher.cancel(id, null)
    await inTime(stage, async () => {
      const { release } = await stage.task(id)
      expect(release.stoppedAt).not.toBeNull()
      expect(release.gpuFreeAt).not.toBeNull()
    })
    expect(failed()).toBe(4)
    await stage.allGone()
  })

  test.each(['claim', 'task', 'append', 'updateWorker', 'compact'] as const)(
    'to %s: the task is done all the same, in one attempt',
    async (method) => {
      await using stage = await Stage.open({ presets: [oneOff('plain')] })
      const failed = stage.storeFails(method, 2)
      const id = await stage.submit('plain')
      const worker = await inTime(stage, () => {
        const [first] = stage.runner.workers
        if (first === undefined) throw new Error('it has not been started')
        return first
      })
      // Each in a commit of its own: what was stored in a few is not compacted.
      for (let n = 0; n < 8; n++) {
        const { lastSeq } = await stage.task(id)
        worker.say({ event: 'text_delta', delta: `${n}` })
        await inTime(stage, async () => {
          expect((await stage.task(id)).lastSeq).toBeGreaterThan(lastSeq)
        })
      }
      worker.say({ event: 'text', content: 'done' }, { event: 'finish', status: 'completed' })
      worker.exit()
      await inTime(stage, async () => {
        expect(await stage.task(id)).toMatchObject({ status: 'COMPLETED', attempt: 1 })
        expect(await stage.store.liveWorkers()).toEqual([])
        expect(failed()).toBe(2)
      })
      expect(stage.runner.starts).toHaveLength(1)
      expect(await stage.statuses(id)).toHaveLength(4)
    },
  )

  test('to record a deadline that has passed: the task is stopped', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('plain', { timeouts: { runMs: 10_000 } })],
    })
    const id = await stage.submit('plain')
    await stage.worker()
    const failed = stage.storeFails('recordStop', 2)
    stage.clock.advance(10_000)
    await inTime(stage, async () => {
      expect(await stage.task(id)).toMatchObject({ status: 'TIMED_OUT', error: { code: 'RUN_TIMEOUT' } })
    })
    expect(failed()).toBe(2)
  })

  test('to write the row of a session that a client asks for: the client is told, and nothing is left', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    stage.storeFails('createWorker', 1)
    await expect(stage.dispatcher.startSession('test/warm', 'ada')).rejects.toThrow('locked')
    expect(stage.gpu().workerIds).toEqual([])
    await stage.warm('warm')
  })

  test('to write the row of a GPU that is lost: its task is stopped', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    stage.storeFails('recordStop', 1)
    stage.simulation.set(stage.gpuId(), { fault: 'LOST' })
    await stage.gpus.refresh()
    await inTime(stage, async () => {
      expect(await stage.task(id)).toMatchObject({ status: 'FAILED', error: { code: 'GPU_LOST' } })
    })
  })
})

describe('a disk that takes no artifact for a while', () => {
  /** It is full until the test says otherwise. */
  async function fullDisk(stage: Stage): Promise<{ isFull: boolean; tries: number }> {
    const disk = { isFull: true, tries: 0 }
    const artifactFiles: ArtifactFiles = {
      take() {
        disk.tries++
        if (disk.isFull) return Promise.reject(new Error('no space left on device'))
        return Promise.resolve({ status: 'taken', bytes: 3, sha256: '0'.repeat(64) })
      },
      remove: () => Promise.resolve(),
      place: () => Promise.resolve(),
      missing: () => Promise.resolve([]),
      removeStrays: () => Promise.resolve(0),
    }
    await stage.dispatcher[Symbol.asyncDispose]()
    await stage.up({ artifactFiles })
    return disk
  }

  const ARTIFACT = { event: 'artifact', data: 'QUJD', name: 'a.txt' } as const

  test('is waited for, and no silence is held against the worker meanwhile', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('plain', { timeouts: { silenceMs: 1_000 } })],
    })
    const disk = await fullDisk(stage)
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'connection', status: 'connected' }, ARTIFACT, {
      event: 'finish',
      status: 'completed',
    })
    worker.exit()
    await inTime(stage, () => {
      expect(disk.tries).toBeGreaterThan(5)
    })
    expect((await stage.task(id)).status).toBe('STARTING')
    disk.isFull = false
    await inTime(stage, async () => {
      expect(await stage.task(id)).toMatchObject({ status: 'COMPLETED', attempt: 1 })
    })
    expect(await stage.store.artifacts(id)).toMatchObject([{ name: 'a.txt' }])
    expect(await stage.said(id, 'fault')).toEqual([])
  })

  test('is waited for no longer than the task may run', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain', { timeouts: { runMs: 10_000 } })] })
    await fullDisk(stage)
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say(ARTIFACT, { event: 'finish', status: 'completed' })
    await inTime(stage, async () => {
      expect(await stage.task(id)).toMatchObject({ status: 'TIMED_OUT', error: { code: 'RUN_TIMEOUT' } })
    })
    expect(await stage.said(id, 'fault')).toMatchObject([{ kind: 'INVALID_ARTIFACT' }])
  })

  test('is asked again after a restart of the service: nothing of what came with the artifact is lost', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const disk = await fullDisk(stage)
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'text_delta', delta: 'a' }, ARTIFACT, { event: 'text_delta', delta: 'b' })
    await inTime(stage, () => {
      expect(disk.tries).toBeGreaterThan(1)
    })
    await stage.restart()
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    await stage.reached(id, 'COMPLETED')
    expect(await stage.text(id)).toBe('ab')
    expect(await stage.store.artifacts(id)).toMatchObject([{ name: 'a.txt' }])
    expect(await stage.said(id, 'fault')).toEqual([])
  })
})

describe('an engine in trouble', () => {
  test('that went away in the middle of a start has made one worker, which is found', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const held = stage.runner.holdStart()
    const id = await stage.submit('plain')
    await held.reached
    held.fail(new RunnerError('ENGINE_UNAVAILABLE', 'The connection ended.'))
    const worker = await inTime(stage, () => {
      const [first] = stage.runner.workers
      if (first === undefined) throw new Error('it has not been started')
      return first
    })
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
    expect(new Set(stage.runner.starts.map(({ name }) => name)).size).toBe(1)
  })

  test('that cannot remove a worker is asked again, and keeps nobody waiting', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'finish', status: 'completed' })
    stage.runner.trouble = new RunnerError('ENGINE_REFUSED', 'Not now.')
    worker.exit()
    await stage.reached(id, 'COMPLETED')
    await inTime(stage, () => {
      expect(stage.gpu().workerIds).toEqual([])
    })
    expect(await stage.store.liveWorkers()).toHaveLength(1)
    stage.runner.trouble = null
    await inTime(stage, async () => {
      expect(await stage.store.liveWorkers()).toEqual([])
    })
    expect(stage.runner.removed).toContain(worker.name)
  })

  test.each([
    ['a one-off worker', oneOff],
    ['a session', session],
  ] as const)('that knows nothing of %s any more: its task is LOST', async (_what, preset) => {
    await using stage = await Stage.open({ presets: [preset('one', { gpus: NO_GPU, retry: { on: [] } })] })
    const id = await stage.submit('one')
    const worker = await stage.worker()
    if (worker.order.run === null) await stage.handed(worker)
    worker.lose()
    expect(await stage.reached(id, 'FAILED')).toMatchObject({ error: { code: 'LOST' } })
  })
})
