import { RunnerError, type Task, type TaskId } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { delta, type ScriptedWorker } from './scripted-worker.ts'
import { eventually, NO_GPU, oneOff, session, Stage, type SpecChange } from './stage.ts'

const SECOND = 1_000
const DAY = 86_400 * SECOND

/** The task has the status a millisecond before, and has ended with the code at the moment itself. */
async function timesOut(
  stage: Stage,
  id: TaskId,
  { afterMs, from, code }: { afterMs: number; from: Task['status']; code: string },
): Promise<Task> {
  stage.clock.advance(afterMs - 1)
  await stage.planned()
  expect((await stage.task(id)).status).toBe(from)
  stage.clock.advance(1)
  if (code === 'SILENCE_TIMEOUT' || code === 'OUTPUT_LOST') await stage.listened()
  const task = await stage.reached(id, code === 'OUTPUT_LOST' ? 'FAILED' : 'TIMED_OUT')
  expect(task.error?.code).toBe(code)
  return task
}

/** However much time passes, nothing becomes of the ended task any more. */
async function staysAsItIs(stage: Stage, id: TaskId): Promise<void> {
  const before = [await stage.task(id), await stage.events(id)]
  for (let n = 0; n < 5; n++) {
    stage.clock.advance(DAY)
    await stage.planned()
  }
  expect([await stage.task(id), await stage.events(id)]).toEqual(before)
}

describe('the deadline', () => {
  const oneOffs = (timeouts: SpecChange['timeouts'], change: SpecChange = {}): Promise<Stage> =>
    Stage.open({ presets: [oneOff('plain', { gpus: NO_GPU, ...change, ...(timeouts && { timeouts }) })] })
  const sessions = (timeouts: SpecChange['timeouts']): Promise<Stage> =>
    Stage.open({ presets: [session('warm', { gpus: NO_GPU, ...(timeouts && { timeouts }) })] })

  async function started(stage: Stage): Promise<{ id: TaskId; worker: ScriptedWorker }> {
    const id = await stage.submit('plain')
    return { id, worker: await stage.worker() }
  }

  async function running(stage: Stage): Promise<{ id: TaskId; worker: ScriptedWorker }> {
    const { id, worker } = await started(stage)
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    return { id, worker }
  }

  test('of the queue ends a task that has waited so long, without an attempt', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('plain', { timeouts: { queueMs: 10 * SECOND } })],
    })
    await stage.submit('plain')
    await stage.worker()
    const id = await stage.submit('plain')
    const task = await timesOut(stage, id, { afterMs: 10 * SECOND, from: 'QUEUED', code: 'QUEUE_TIMEOUT' })
    expect(task).toMatchObject({ attempt: 0, startedAt: null })
    expect(task.error?.message).toContain('10000 ms')
    expect(stage.dispatcher.load.queued).toBe(0)
    await staysAsItIs(stage, id)
  })

  test('of the queue counts anew from the return to it, and not while the next attempt is not due', async () => {
    const retry = { maxAttempts: 2, backoffMs: 60 * SECOND, on: ['worker_failed'] as const }
    await using stage = await Stage.open({
      presets: [
        oneOff('plain', { timeouts: { queueMs: 10 * SECOND }, retry }),
        oneOff('holder', { timeouts: { runMs: DAY } }),
      ],
    })
    const { id, worker } = await started(stage)
    const holder = await stage.submit('holder')
    stage.clock.advance(9 * SECOND)
    worker.exit(1)
    await stage.reached(id, 'QUEUED')
    const second = await stage.worker(2)
    second.say({ event: 'connection', status: 'connected' })
    await stage.reached(holder, 'RUNNING')
    await timesOut(stage, id, { afterMs: 70 * SECOND, from: 'QUEUED', code: 'QUEUE_TIMEOUT' })
  })

  test('of the start ends a one-off task whose worker shows no sign of life', async () => {
    await using stage = await oneOffs({ startMs: 10 * SECOND })
    const { id, worker } = await started(stage)
    worker.print('Where is the model?\n', 'stderr')
    await eventually(async () => {
      expect(await stage.said(id, 'log')).toHaveLength(1)
    })
    const task = await timesOut(stage, id, { afterMs: 10 * SECOND, from: 'STARTING', code: 'START_TIMEOUT' })
    expect(task.error?.message).toContain('Where is the model?')
    expect(worker.isRunning).toBe(false)
    await eventually(async () => {
      expect((await stage.task(id)).release.stoppedAt).not.toBeNull()
    })
    await staysAsItIs(stage, id)
  })

  test('of the start ends a task whose session is not ready, and the session', async () => {
    await using stage = await sessions({ startMs: 10 * SECOND })
    stage.runner.isReadyAtOnce = false
    const id = await stage.submit('warm')
    const worker = await stage.worker()
    await timesOut(stage, id, { afterMs: 10 * SECOND, from: 'STARTING', code: 'START_TIMEOUT' })
    stage.clock.advance(SECOND)
    await eventually(() => {
      expect(worker.isRunning).toBe(false)
    })
    await eventually(async () => {
      expect((await stage.task(id)).release).toMatchObject({ stoppedAt: expect.any(Number) as number })
    })
    await staysAsItIs(stage, id)
  })

  test('of the start does not touch one that has come up', async () => {
    await using stage = await oneOffs({ startMs: 10 * SECOND, runMs: 2 * DAY })
    const { id, worker } = await running(stage)
    stage.clock.advance(DAY)
    await stage.planned()
    expect((await stage.task(id)).status).toBe('RUNNING')
    expect(worker.stops).toEqual([])
  })

  test('of the acknowledgement counts from the hand-over, not from the loading', async () => {
    await using stage = await sessions({ ackMs: 10 * SECOND })
    stage.runner.isReadyAtOnce = false
    const id = await stage.submit('warm')
    const worker = await stage.worker()
    stage.clock.advance(50 * SECOND)
    worker.ready()
    const run = await stage.handed(worker)
    stage.clock.advance(10 * SECOND - 1)
    await stage.planned()
    expect(await stage.task(id)).toMatchObject({ status: 'STARTING', attempt: 1 })
    worker.take(run)
    await stage.reached(id, 'RUNNING')
    stage.clock.advance(10 * SECOND)
    await stage.planned()
    expect(await stage.task(id)).toMatchObject({ status: 'RUNNING', attempt: 1 })
  })

  test('of the run ends a one-off task, its loading included', async () => {
    await using stage = await oneOffs({ runMs: 60 * SECOND })
    const { id, worker } = await started(stage)
    stage.clock.advance(20 * SECOND)
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    await timesOut(stage, id, { afterMs: 40 * SECOND, from: 'RUNNING', code: 'RUN_TIMEOUT' })
    expect(worker.isRunning).toBe(false)
    await staysAsItIs(stage, id)
  })

  test('of the run ends a task of a session from its hand-over on, and not the session', async () => {
    await using stage = await sessions({ runMs: 60 * SECOND, stopGraceMs: 5 * SECOND })
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    worker.take(await stage.handed(worker))
    await stage.reached(id, 'RUNNING')
    await timesOut(stage, id, { afterMs: 60 * SECOND, from: 'RUNNING', code: 'RUN_TIMEOUT' })
    expect(worker.commands.at(-1)?.kind).toBe('cancel')
    stage.clock.advance(10 * SECOND)
    await stage.planned()
    expect(worker.isRunning).toBe(true)
    expect(worker.stops).toEqual([])
  })

  test('of the run is the task’s own where it asked for one', async () => {
    await using stage = await oneOffs({ runMs: 60 * SECOND })
    const id = await stage.submit('plain', { timeoutMs: 5 * SECOND })
    await stage.worker()
    await timesOut(stage, id, { afterMs: 5 * SECOND, from: 'STARTING', code: 'RUN_TIMEOUT' })
  })

  test('of silence counts from the last line', async () => {
    await using stage = await oneOffs({ silenceMs: 10 * SECOND, runMs: DAY })
    const { id, worker } = await running(stage)
    for (let n = 1; n <= 3; n++) {
      stage.clock.advance(9 * SECOND)
      worker.say({ event: 'text_delta', delta: '.' })
      await eventually(async () => {
        expect(await stage.said(id, 'text_delta')).toHaveLength(n)
      })
    }
    await timesOut(stage, id, { afterMs: 10 * SECOND, from: 'RUNNING', code: 'SILENCE_TIMEOUT' })
    await staysAsItIs(stage, id)
  })

  test('of silence does not count while nobody could have heard the worker, nor before what it said meanwhile is read', async () => {
    await using stage = await oneOffs({ silenceMs: 10 * SECOND, runMs: DAY })
    const { id, worker } = await running(stage)
    stage.runner.trouble = new RunnerError('ENGINE_UNAVAILABLE', 'The engine is away.')
    for (let n = 0; n < 6; n++) {
      stage.clock.advance(10 * SECOND)
      await stage.planned()
    }
    expect((await stage.task(id)).status).toBe('RUNNING')
    stage.runner.trouble = null
    // By then the engine has been asked again.
    stage.clock.advance(5 * SECOND)
    await stage.planned()
    worker.say({ event: 'text_delta', delta: '.' })
    await eventually(async () => {
      expect(await stage.said(id, 'text_delta')).toHaveLength(1)
    })
    await stage.listened()
    await stage.planned()
    expect((await stage.task(id)).status).toBe('RUNNING')
    await timesOut(stage, id, { afterMs: 10 * SECOND, from: 'RUNNING', code: 'SILENCE_TIMEOUT' })
  })

  test('of silence is of each task of a session alone', async () => {
    await using stage = await Stage.open({
      presets: [
        session('warm', {
          gpus: NO_GPU,
          session: { maxConcurrency: 2 },
          timeouts: { silenceMs: 10 * SECOND, runMs: DAY },
        }),
      ],
    })
    const worker = await stage.warm('warm')
    const [one, two] = [await stage.submit('warm'), await stage.submit('warm')]
    const runs = [await stage.handed(worker, 1), await stage.handed(worker, 2)]
    for (const run of runs) worker.take(run)
    await stage.reached(two, 'RUNNING')
    await stage.reached(one, 'RUNNING')
    const talker = runs.find(({ runId }) => runId === `${two}.1`)
    stage.clock.advance(9 * SECOND)
    worker.say({ event: 'text_delta', delta: '.', task_id: talker?.runId })
    await eventually(async () => {
      expect(await stage.said(two, 'text_delta')).toHaveLength(1)
    })
    stage.clock.advance(SECOND)
    await stage.listened()
    expect(await stage.reached(one, 'TIMED_OUT')).toMatchObject({ error: { code: 'SILENCE_TIMEOUT' } })
    expect((await stage.task(two)).status).toBe('RUNNING')
  })

  describe('of a session task whose output has a gap', () => {
    const MINUTE = 60 * SECOND

    const open = ({ timeouts, ...change }: SpecChange): Promise<Stage> =>
      Stage.open({
        presets: [session('warm', { gpus: NO_GPU, timeouts: { runMs: 2 * DAY, ...timeouts }, ...change })],
      })

    /** A session that counts its events, this one being the second, works on a task. */
    async function talking(change: SpecChange = {}): Promise<
      AsyncDisposable & {
        readonly stage: Stage
        readonly id: TaskId
        readonly worker: ScriptedWorker
        readonly say: (text: string, seq: number) => Promise<void>
      }
    > {
      const stage = await open(change)
      stage.runner.isReadyAtOnce = false
      const id = await stage.submit('warm')
      const worker = await stage.worker()
      worker.say({ event: 'worker', status: 'ready', seq: 1 })
      const run = await stage.handed(worker)
      let said = 0
      const say = async (text: string, seq: number): Promise<void> => {
        worker.say({ ...delta(text, run), seq })
        said++
        await eventually(async () => {
          expect(await stage.said(id, 'text_delta')).toHaveLength(said)
        })
      }
      return { stage, id, worker, say, [Symbol.asyncDispose]: () => stage[Symbol.asyncDispose]() }
    }

    test('ends it after a minute of silence, its finish being lost: the session goes on', async () => {
      await using talk = await talking()
      const { stage, id, worker, say } = talk
      await say('a', 2)
      await say('c', 4)
      stage.clock.advance(MINUTE - 1)
      await say('d', 5)
      await timesOut(stage, id, { afterMs: MINUTE, from: 'RUNNING', code: 'OUTPUT_LOST' })
      expect(worker.commands.map(({ kind }) => kind)).toEqual(['run', 'cancel'])
      expect(worker.isRunning).toBe(true)
      const next = await stage.submit('warm')
      worker.finish(await stage.handed(worker, 2))
      await stage.reached(next, 'COMPLETED')
      await staysAsItIs(stage, id)
    })

    test('ends a session that does not heed the cancel, and the task with it', async () => {
      await using talk = await talking({ timeouts: { stopGraceMs: 5 * SECOND } })
      const { stage, id, worker, say } = talk
      worker.heedsCancel = false
      await say('a', 2)
      worker.gap(true)
      await eventually(async () => {
        expect(await stage.said(id, 'gap')).toHaveLength(1)
      })
      stage.clock.advance(MINUTE)
      await stage.listened()
      await eventually(() => {
        expect(worker.commands.map(({ kind }) => kind)).toEqual(['run', 'cancel'])
      })
      stage.clock.advance(5 * SECOND)
      expect(await stage.reached(id, 'FAILED')).toMatchObject({ error: { code: 'OUTPUT_LOST' } })
    })

    test('takes ten minutes where that is only suspected of one that counts', async () => {
      await using talk = await talking()
      const { stage, id, worker, say } = talk
      await say('a', 2)
      worker.gap(false)
      await eventually(async () => {
        expect(await stage.said(id, 'log')).toHaveLength(1)
      })
      await timesOut(stage, id, { afterMs: 10 * MINUTE, from: 'RUNNING', code: 'OUTPUT_LOST' })
    })

    test('holds after a restart of the service too', async () => {
      await using talk = await talking()
      const { stage, id, say } = talk
      await say('a', 2)
      await say('c', 4)
      await stage.restart()
      await timesOut(stage, id, { afterMs: MINUTE, from: 'RUNNING', code: 'OUTPUT_LOST' })
    })

    test('is none of one that has none, after a restart as before', async () => {
      await using talk = await talking()
      const { stage, id, worker, say } = talk
      await say('a', 2)
      for (const disturb of [() => Promise.resolve(), () => stage.restart()]) {
        await disturb()
        stage.clock.advance(DAY / 2)
        await stage.listened()
        await stage.planned()
        expect((await stage.task(id)).status).toBe('RUNNING')
      }
      expect(worker.commands.map(({ kind }) => kind)).toEqual(['run'])
    })

    test('does not pass for one that has not begun', async () => {
      await using stage = await open({ timeouts: { startMs: DAY } })
      stage.runner.isReadyAtOnce = false
      const id = await stage.submit('warm')
      const worker = await stage.worker()
      worker.say({ event: 'worker', status: 'loading' })
      worker.gap(true)
      await eventually(async () => {
        expect(await stage.said(id, 'gap')).toHaveLength(1)
      })
      stage.clock.advance(20 * MINUTE)
      await stage.listened()
      await stage.planned()
      expect((await stage.task(id)).status).toBe('STARTING')
    })
  })

  test('of the finish stops a worker that does not exit; its task stays COMPLETED', async () => {
    await using stage = await oneOffs({ finishGraceMs: 10 * SECOND, stopGraceMs: 5 * SECOND })
    const { id, worker } = await running(stage)
    worker.say({ event: 'finish', status: 'completed' })
    await eventually(async () => {
      expect((await stage.task(id)).finish).not.toBeNull()
    })
    stage.clock.advance(10 * SECOND - 1)
    await stage.planned()
    expect(worker.stops).toEqual([])
    stage.clock.advance(1)
    const task = await stage.reached(id, 'COMPLETED')
    expect(task.release.stoppedAt).toBeNull()
    expect((await stage.said(id, 'status')).at(-1)?.reason).toContain('did not exit')
    await staysAsItIs(stage, id)
  })

  test.each(['COMPLETED', 'FAILED', 'CANCELLED'] as const)(
    'of whatever kind does not pass for a task that is %s',
    async (status) => {
      await using stage = await oneOffs({
        ...{ queueMs: 5 * SECOND, startMs: 10 * SECOND, runMs: 20 * SECOND, silenceMs: 10 * SECOND },
      })
      const { id, worker } = await running(stage)
      if (status === 'CANCELLED') await stage.dispatcher.cancel(id, null)
      else {
        worker.say({ event: 'finish', status: status.toLowerCase() })
        worker.exit()
      }
      await stage.reached(id, status)
      await staysAsItIs(stage, id)
    },
  )

  test('that passed while the service was away counts only after what was said meanwhile has been read', async () => {
    await using stage = await oneOffs({ runMs: 60 * SECOND })
    const { id, worker } = await running(stage)
    await stage.dispatcher[Symbol.asyncDispose]()
    worker.say({ event: 'text', content: 'in time' }, { event: 'finish', status: 'completed' })
    worker.exit()
    stage.clock.advance(DAY)
    await stage.up()
    await stage.reached(id, 'COMPLETED')
    expect((await stage.store.output(id)).text).toBe('in time')
  })

  test('that passed while the service was away counts once it is back', async () => {
    await using stage = await oneOffs({ runMs: 60 * SECOND })
    const { id, worker } = await running(stage)
    await stage.dispatcher[Symbol.asyncDispose]()
    stage.clock.advance(DAY)
    await stage.up()
    await eventually(async () => {
      stage.clock.advance(500)
      expect((await stage.task(id)).status).toBe('TIMED_OUT')
    })
    expect(worker.isRunning).toBe(false)
  })
})
