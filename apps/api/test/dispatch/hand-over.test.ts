import { RunnerError, type RunOrder, type TaskId } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { delta, type ScriptedWorker } from './scripted-worker.ts'
import { eventually, NO_GPU, session, Stage, turns, type SpecChange } from './stage.ts'

const open = (change: SpecChange = {}): Promise<Stage> =>
  Stage.open({ presets: [session('warm', { gpus: NO_GPU, ...change })] })

describe('a task that is handed to a session', () => {
  const DEAF: SpecChange = { timeouts: { ackMs: 30_000 } }

  /** What is refused is tried again after a moment. */
  const handedInTime = (stage: Stage, worker: ScriptedWorker): Promise<RunOrder> =>
    eventually(() => {
      stage.clock.advance(100)
      const [run] = worker.runs
      if (run === undefined) throw new Error('it has not been handed over')
      return run
    })

  test('is RUNNING with the first word of it', async () => {
    await using stage = await open()
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    const run = await stage.handed(worker)
    expect(run).toEqual({ runId: `${id}.1`, attempt: 1, input: { prompt: 'Hello' }, files: [], previous: [] })
    expect((await stage.task(id)).status).toBe('STARTING')
    worker.say({ event: 'progress', completed: 0, total: 4, task_id: run.runId })
    await stage.reached(id, 'RUNNING')
    worker.finish(run)
    await stage.reached(id, 'COMPLETED')
    expect(await stage.statuses(id)).toEqual(['QUEUED', 'STARTING', 'RUNNING', 'COMPLETED'])
  })

  /** The first session is given up, the second one does the task. */
  async function doneByAnother(stage: Stage, id: TaskId): Promise<void> {
    const second = await stage.worker(2)
    second.finish(await stage.handed(second))
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 2 })
    expect(await stage.store.attempts(id)).toMatchObject([
      {
        status: 'FAILED',
        failureClass: 'unacknowledged',
        error: { code: 'UNACKNOWLEDGED' },
        runningAt: null,
      },
      { status: 'COMPLETED', failureClass: null },
    ])
    const [first] = stage.runner.workers
    await eventually(() => {
      stage.clock.advance(500)
      expect(first?.isRunning).toBe(false)
    })
  }

  test('goes to another one where it is not acknowledged in time, which is not before', async () => {
    await using stage = await open(DEAF)
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    await stage.handed(worker)
    stage.clock.advance(29_999)
    await stage.planned()
    expect((await stage.task(id)).status).toBe('STARTING')
    stage.clock.advance(1)
    await doneByAnother(stage, id)
  })

  test('goes to another one where it answers for a task that it was never given', async () => {
    await using stage = await open(DEAF)
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    await stage.handed(worker)
    worker.say(delta('not mine', { runId: 'somebody-elses.1' }))
    await doneByAnother(stage, id)
    expect(await stage.text(id)).toBeNull()
    expect(await stage.workerLog(worker)).toContainEqual(
      expect.objectContaining({ type: 'fault', kind: 'FOREIGN_TASK' }),
    )
  })

  test.each(['NOT_FOUND', 'ENGINE_REFUSED'] as const)(
    'goes to another one at once where its stdin is refused (%s)',
    async (code) => {
      await using stage = await open(DEAF)
      const worker = await stage.warm('warm')
      worker.refusals.push(new RunnerError(code, 'No such stdin.'))
      const id = await stage.submit('warm')
      await doneByAnother(stage, id)
      expect(worker.runs).toEqual([])
      expect((await stage.store.attempts(id))[0]?.error?.message).toContain('No such stdin.')
    },
  )

  test('is handed over again on a new connection where the old one was closed', async () => {
    await using stage = await open(DEAF)
    const worker = await stage.warm('warm')
    worker.refusals.push(new RunnerError('INPUT_CLOSED', 'The connection had ended.'))
    const id = await stage.submit('warm')
    worker.finish(await handedInTime(stage, worker))
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
    expect(worker.runs).toHaveLength(1)
  })

  test('is handed over when the engine is back that was away, and has its time from then on', async () => {
    await using stage = await open({ timeouts: { ackMs: 10_000 } })
    const worker = await stage.warm('warm')
    stage.runner.trouble = new RunnerError('ENGINE_UNAVAILABLE', 'The engine is away.')
    const id = await stage.submit('warm')
    await stage.reached(id, 'STARTING')
    for (let seconds = 0; seconds < 30; seconds++) {
      stage.clock.advance(1_000)
      await turns()
    }
    expect(await stage.task(id)).toMatchObject({ status: 'STARTING', attempt: 1 })
    stage.runner.trouble = null
    const run = await handedInTime(stage, worker)
    stage.clock.advance(8_000)
    worker.finish(run)
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
  })

  test('is asked again to stop where the connection was closed that asked for it', async () => {
    await using stage = await open(DEAF)
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    worker.take(await stage.handed(worker))
    await stage.reached(id, 'RUNNING')
    worker.refusals.push(new RunnerError('INPUT_CLOSED', 'The connection had ended.'))
    await stage.dispatcher.cancel(id, null)
    await eventually(async () => {
      stage.clock.advance(100)
      expect((await stage.task(id)).status).toBe('CANCELLED')
    })
    expect(worker.commands.map(({ kind }) => kind)).toEqual(['run', 'cancel'])
    expect(worker.isRunning).toBe(true)
  })

  test('may have been taken where the engine went away, and is waited for', async () => {
    await using stage = await open(DEAF)
    const worker = await stage.warm('warm')
    worker.refusals.push(new RunnerError('ENGINE_UNAVAILABLE', 'The engine is away.'))
    const id = await stage.submit('warm')
    await eventually(() => {
      expect(worker.refusals).toEqual([])
    })
    worker.finish({ runId: `${id}.1`, attempt: 1, input: null, files: [], previous: [] })
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
  })

  test('and is acknowledged too late by the first one is done by the second alone', async () => {
    await using stage = await open({ timeouts: { ackMs: 1_000, stopGraceMs: 60_000 } })
    const worker = await stage.warm('warm')
    worker.heedsShutdown = false
    const id = await stage.submit('warm')
    const run = await stage.handed(worker)
    stage.clock.advance(1_000)
    const second = await stage.worker(2)
    const again = await stage.handed(second)
    worker.say(delta('too late', run))
    worker.finish(run)
    await eventually(async () => {
      expect((await stage.workerLog(worker)).filter(({ type }) => type === 'fault')).toHaveLength(2)
    })
    second.say(delta('in time', again))
    second.finish(again)
    await stage.reached(id, 'COMPLETED')
    expect(await stage.text(id)).toBe('in time')
    worker.exit()
  })
})
