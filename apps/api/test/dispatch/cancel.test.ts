import { RunnerError, type Task, type TaskId, type TaskStatus } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import type { ScriptedWorker } from './scripted-worker.ts'
import { eventually, NO_GPU, oneOff, session, Stage, type SpecChange } from './stage.ts'

const FINAL: readonly TaskStatus[] = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']

/** The task is CANCELLED, with one final event, which is its last. */
async function cancelled(stage: Stage, id: TaskId): Promise<Task> {
  const task = await stage.reached(id, 'CANCELLED')
  const events = await stage.events(id)
  const finals = events.filter(({ body }) => body.type === 'status' && FINAL.includes(body.taskStatus))
  expect(finals).toEqual([events.at(-1)])
  expect(task).toMatchObject({ cancelReason: 'not needed', lastSeq: events.length })
  expect(stage.dispatcher.explain(task)).toBe('It was cancelled: not needed')
  return task
}

const cancel = (stage: Stage, id: TaskId): Promise<Task | null> => stage.dispatcher.cancel(id, 'not needed')

/** As the proof of the release is in the end. */
async function released(stage: Stage, id: TaskId, holds: Partial<Task['release']>): Promise<Task['release']> {
  return eventually(async () => {
    const { release } = await stage.task(id)
    expect(release).toMatchObject(holds)
    return release
  })
}

const A_MOMENT = expect.any(Number) as number

describe('a task that has no worker', () => {
  test('is CANCELLED at once while it is QUEUED', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    await stage.submit('plain')
    await stage.worker()
    const id = await stage.submit('plain')
    expect(await cancel(stage, id)).toMatchObject({ status: 'CANCELLED', attempt: 0 })
    const { release } = await cancelled(stage, id)
    expect(release).toEqual({ stoppedAt: null, gpuFreeAt: null, killed: false })
    expect(stage.dispatcher.load).toEqual({ queued: 0, running: 1 })
    expect(stage.dispatcher.queuePosition(id)).toBeNull()
  })

  test('is CANCELLED at once while it waits for its next attempt', async () => {
    const retry = { maxAttempts: 2, backoffMs: 60_000, on: ['worker_failed'] as const }
    await using stage = await Stage.open({ presets: [oneOff('plain', { retry })] })
    const id = await stage.submit('plain')
    ;(await stage.worker()).exit(9)
    await stage.reached(id, 'QUEUED')
    expect(await cancel(stage, id)).toMatchObject({ status: 'CANCELLED', attempt: 1 })
    await cancelled(stage, id)
    stage.clock.advance(60_000)
    await stage.planned()
    expect(stage.runner.starts).toHaveLength(1)
  })

  test('is CANCELLED where its attempt just failed and another one was to follow', async () => {
    const retry = { maxAttempts: 2, backoffMs: 0, on: ['worker_failed'] as const }
    await using stage = await Stage.open({ presets: [oneOff('plain', { retry })] })
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    stage.onceStored('append', async () => {
      await cancel(stage, id)
    })
    worker.exit(9)
    await cancelled(stage, id)
    await stage.planned()
    expect(stage.runner.starts).toHaveLength(1)
  })

  test('is not given one that was just meant for it', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    let asked: Promise<unknown> | null = null
    stage.beforeStore('claim', async () => {
      asked ??= cancel(stage, await stage.onlyTask())
      await asked
    })
    const id = await stage.submit('plain')
    await cancelled(stage, id)
    await stage.planned()
    expect(stage.runner.starts).toEqual([])
    expect(stage.dispatcher.activeTasks()).toEqual([])
  })
})

describe('a one-off task', () => {
  const open = (change: SpecChange = {}): Promise<Stage> =>
    Stage.open({ presets: [oneOff('plain', { timeouts: { stopGraceMs: 5_000 }, ...change })] })

  async function running(stage: Stage): Promise<{ id: TaskId; worker: ScriptedWorker }> {
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    return { id, worker }
  }

  /** Its worker has been asked to stop, and has not done so yet. */
  async function stopping(stage: Stage): Promise<{ id: TaskId; worker: ScriptedWorker }> {
    const { id, worker } = await running(stage)
    worker.ignoresStop = true
    await cancel(stage, id)
    await eventually(() => {
      expect(worker.stops).toHaveLength(1)
    })
    return { id, worker }
  }

  test.each(['pulling', 'making'] as const)(
    'whose worker is not there yet (%s) is CANCELLED, and no worker is left',
    async (phase) => {
      await using stage = await open()
      const held = stage.runner.holdStart(phase)
      const id = await stage.submit('plain')
      await held.reached
      await cancel(stage, id)
      if (phase === 'making') held.release()
      await cancelled(stage, id)
      await stage.allGone()
      expect(stage.runner.workers).toHaveLength(phase === 'making' ? 1 : 0)
      await released(stage, id, { stoppedAt: A_MOMENT, gpuFreeAt: A_MOMENT, killed: false })
    },
  )

  test('is stopped, with the proof that it is over and its GPU free', async () => {
    await using stage = await open()
    const { id, worker } = await running(stage)
    stage.clock.advance(1_000)
    await cancel(stage, id)
    expect(await cancelled(stage, id)).toMatchObject({ exitCode: 143, stopReason: 'cancel' })
    expect(worker.stops).toEqual([5_000])
    const { stoppedAt, gpuFreeAt } = await released(stage, id, { gpuFreeAt: A_MOMENT, killed: false })
    expect(stoppedAt).toBe(stage.clock.now())
    expect(gpuFreeAt).toBeGreaterThanOrEqual(stoppedAt ?? Infinity)
  })

  test('that is stubborn is killed when its grace is over, not before', async () => {
    await using stage = await open()
    const { id, worker } = await running(stage)
    worker.ignoresStop = true
    await cancel(stage, id)
    await eventually(() => {
      expect(worker.stops).toEqual([5_000])
    })
    expect(stage.dispatcher.explain(await stage.task(id))).toContain('being stopped')
    stage.clock.advance(4_999)
    await stage.planned()
    expect((await stage.task(id)).status).toBe('RUNNING')
    stage.clock.advance(1)
    expect(await cancelled(stage, id)).toMatchObject({ exitCode: 137 })
    await released(stage, id, { stoppedAt: A_MOMENT, gpuFreeAt: A_MOMENT, killed: true })
  })

  test('that saves a checkpoint when it is asked to stop keeps it', async () => {
    await using stage = await open()
    const { id, worker } = await stopping(stage)
    worker.say(
      { event: 'artifact', path: 'checkpoint.pt' },
      { event: 'artifact', data: 'QUJD', name: 'notes.txt' },
      { event: 'finish', status: 'cancelled' },
    )
    worker.exit()
    await cancelled(stage, id)
    expect(await stage.said(id, 'fault')).toEqual([])
    expect((await stage.store.artifacts(id)).map(({ name }) => name)).toEqual(['checkpoint.pt', 'notes.txt'])
  })

  test('that completes although it was asked to stop is CANCELLED, once', async () => {
    await using stage = await open()
    const { id, worker } = await stopping(stage)
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit(0)
    await cancelled(stage, id)
  })

  test('that has said its finish stays as it finished', async () => {
    await using stage = await open()
    const { id, worker } = await running(stage)
    worker.say({ event: 'finish', status: 'completed' })
    await eventually(async () => {
      expect((await stage.task(id)).finish).not.toBeNull()
    })
    expect(await cancel(stage, id)).toMatchObject({ status: 'RUNNING', stopReason: null })
    expect(worker.stops).toEqual([])
    worker.exit(0)
    const task = await stage.reached(id, 'COMPLETED')
    expect(task.release).toEqual({ stoppedAt: null, gpuFreeAt: null, killed: false })
    expect(await stage.statuses(id)).toEqual(['QUEUED', 'STARTING', 'RUNNING', 'COMPLETED'])
  })

  test('that is cancelled twice is cancelled once, with the first reason', async () => {
    await using stage = await open()
    const { id, worker } = await running(stage)
    await Promise.all([cancel(stage, id), stage.dispatcher.cancel(id, 'again')])
    await cancelled(stage, id)
    expect(worker.stops).toHaveLength(1)
    expect(await stage.dispatcher.cancel(id, 'again')).toMatchObject({ cancelReason: 'not needed' })
    expect(await stage.dispatcher.cancel('nothing' as TaskId, null)).toBeNull()
  })
})

describe('a task of a session', () => {
  const open = (change: SpecChange = {}): Promise<Stage> =>
    Stage.open({ presets: [session('warm', { timeouts: { stopGraceMs: 5_000 }, ...change })] })

  test('whose worker is loading is CANCELLED at once, and the worker goes on', async () => {
    await using stage = await open()
    stage.runner.isReadyAtOnce = false
    const id = await stage.submit('warm')
    const worker = await stage.worker()
    await cancel(stage, id)
    await cancelled(stage, id)
    await released(stage, id, { stoppedAt: A_MOMENT, gpuFreeAt: null, killed: false })
    worker.ready()
    const next = await stage.submit('warm')
    const run = await stage.handed(worker)
    expect(run.runId).toBe(`${next}.1`)
    worker.finish(run)
    await stage.reached(next, 'COMPLETED')
    expect(worker.commands.map(({ kind }) => kind)).toEqual(['run'])
  })

  test('whose worker cannot be asked ends with the worker', async () => {
    await using stage = await open()
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    worker.take(await stage.handed(worker))
    await stage.reached(id, 'RUNNING')
    worker.refusals.push(new RunnerError('NOT_FOUND', 'The worker does not read its stdin any more.'))
    await cancel(stage, id)
    await eventually(() => {
      expect(worker.stops).toHaveLength(1)
    })
    worker.exit(143)
    await cancelled(stage, id)
  })

  test.each([false, true])(
    'that it was handed (taken: %s) is stopped, and the worker goes on',
    async (taken) => {
      await using stage = await open()
      const worker = await stage.warm('warm')
      const id = await stage.submit('warm')
      const run = await stage.handed(worker)
      if (taken) {
        worker.take(run)
        await stage.reached(id, 'RUNNING')
      }
      await cancel(stage, id)
      await cancelled(stage, id)
      expect(worker.commands.at(-1)).toEqual({ kind: 'cancel', runId: run.runId })
      await released(stage, id, { stoppedAt: A_MOMENT, gpuFreeAt: null, killed: false })
      const next = await stage.submit('warm')
      const again = await stage.handed(worker, 2)
      worker.finish(again)
      expect(await stage.reached(next, 'COMPLETED')).toMatchObject({ workerId: worker.order.workerId })
      expect(worker.stops).toEqual([])
    },
  )

  test('that was cancelled and never taken is not given to another one', async () => {
    await using stage = await open({ timeouts: { ackMs: 1_000, stopGraceMs: 5_000 } })
    const worker = await stage.warm('warm')
    worker.heedsCancel = false
    const id = await stage.submit('warm')
    await stage.handed(worker)
    await cancel(stage, id)
    stage.clock.advance(1_000)
    stage.clock.advance(5_000)
    await cancelled(stage, id)
    await stage.planned()
    expect(stage.runner.starts).toHaveLength(1)
    expect((await stage.task(id)).attempt).toBe(1)
  })

  test('that it does not let go of costs it its life after the grace, with the proof for the task', async () => {
    await using stage = await open()
    const worker = await stage.warm('warm')
    worker.heedsCancel = false
    worker.ignoresStop = true
    const id = await stage.submit('warm')
    worker.take(await stage.handed(worker))
    await stage.reached(id, 'RUNNING')
    await cancel(stage, id)
    await eventually(() => {
      expect(worker.commands.at(-1)?.kind).toBe('cancel')
    })
    stage.clock.advance(4_999)
    await stage.planned()
    expect(worker.stops).toEqual([])
    stage.clock.advance(1)
    await eventually(() => {
      expect(worker.stops).toHaveLength(1)
    })
    // It has had its grace: no long one follows.
    stage.clock.advance(500)
    await cancelled(stage, id)
    await released(stage, id, { stoppedAt: A_MOMENT, gpuFreeAt: A_MOMENT, killed: true })
    await stage.allGone()
  })

  test('is stopped alone: the other one of the same worker goes on', async () => {
    await using stage = await open({ session: { maxConcurrency: 2 } })
    const worker = await stage.warm('warm')
    const [one, two] = [await stage.submit('warm'), await stage.submit('warm')]
    const runs = [await stage.handed(worker, 1), await stage.handed(worker, 2)]
    for (const run of runs) worker.take(run)
    await stage.reached(two, 'RUNNING')
    await cancel(stage, one)
    await cancelled(stage, one)
    expect((await stage.task(two)).status).toBe('RUNNING')
    const other = runs.find(({ runId }) => runId === `${two}.1`)
    if (other !== undefined) worker.finish(other)
    await stage.reached(two, 'COMPLETED')
    expect(worker.isRunning).toBe(true)
  })

  test('that finishes as its cancel is on the way stays COMPLETED where the finish was stored first', async () => {
    await using stage = await open()
    const worker = await stage.warm('warm')
    worker.heedsCancel = false
    const id = await stage.submit('warm')
    const run = await stage.handed(worker)
    worker.finish(run)
    await stage.reached(id, 'COMPLETED')
    expect(await cancel(stage, id)).toMatchObject({ status: 'COMPLETED', cancelRequestedAt: null })
    const next = await stage.submit('warm')
    worker.finish(await stage.handed(worker, 2))
    await stage.reached(next, 'COMPLETED')
    expect(worker.commands.map(({ kind }) => kind)).toEqual(['run', 'run'])
  })
})

test('of many tasks those are cancelled that match and have not ended, each once', async () => {
  await using stage = await Stage.open({ presets: [oneOff('plain', { gpus: NO_GPU })], maxWorkers: 2 })
  const labels = { team: 'red' }
  const ids: TaskId[] = []
  for (let n = 0; n < 5; n++) ids.push(await stage.submit('plain', { labels }))
  const other = await stage.submit('plain', { labels: { team: 'blue' } })
  await stage.worker(2)
  const filter = { label: { key: 'team', value: 'red' } }
  const asked = await stage.dispatcher.cancelMatching(filter, 'not needed')
  expect(asked.map(({ id }) => id).sort()).toEqual(ids.toSorted())
  for (const id of ids) await cancelled(stage, id)
  expect((await stage.worker(3)).order.run?.runId).toBe(`${other}.1`)
  expect(await stage.dispatcher.cancelMatching(filter, null)).toEqual([])
})
