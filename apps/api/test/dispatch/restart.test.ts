import { describe, expect, test } from 'vitest'
import type { ScriptedWorker } from './scripted-worker.ts'
import { eventually, NO_GPU, oneOff, session, Stage } from './stage.ts'

describe('a restart of the service', () => {
  test('finds an idle session as it was, and gives it the next task', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    const worker = await stage.warm('warm')
    await stage.restart()
    await eventually(() => {
      expect(stage.live(worker.order.workerId)).toMatchObject({ status: 'READY', taskIds: [] })
    })
    expect(stage.gpu().workerIds).toEqual([worker.order.workerId])
    const id = await stage.submit('warm')
    worker.finish(await stage.handed(worker))
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ workerId: worker.order.workerId })
    expect(await stage.store.attempts(id)).toMatchObject([{ warm: true }])
    expect(stage.runner.starts).toHaveLength(1)
  })

  test('lets a session load on, which then gets the task that waits for it', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    stage.runner.isReadyAtOnce = false
    const id = await stage.submit('warm')
    const worker = await stage.worker()
    worker.say({ event: 'worker', status: 'loading', progress: 0.5 })
    await eventually(async () => {
      expect(await stage.said(id, 'worker')).toHaveLength(1)
    })
    await stage.dispatcher[Symbol.asyncDispose]()
    worker.say({ event: 'worker', status: 'loading', progress: 0.9 })
    worker.ready()
    await stage.up()
    const run = await stage.handed(worker)
    worker.finish(run)
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
    expect((await stage.said(id, 'worker')).map(({ progress }) => progress)).toEqual(
      expect.arrayContaining([0.5, 0.9]),
    )
    expect(worker.runs).toHaveLength(1)
  })

  test('takes up a task that a session works on, without losing or repeating a word', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    const run = await stage.handed(worker)
    const say = (delta: string): void => {
      worker.say({ event: 'text_delta', delta, task_id: run.runId })
    }
    say('a')
    await stage.reached(id, 'RUNNING')
    // A line that is cut in two by the restart is read as one.
    const cut = `{"event":"text_delta","delta":"b","task_id":"${run.runId}"}\n`
    worker.print(cut.slice(0, 20))
    await stage.dispatcher[Symbol.asyncDispose]()
    worker.print(cut.slice(20))
    say('c')
    await stage.up()
    say('d')
    worker.finish(run)
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
    expect((await stage.store.output(id)).text).toBe('abcd')
    expect(worker.runs).toHaveLength(1)
    const events = await stage.events(id)
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, at) => at + 1))
  })

  test('of a task that was handed over and not taken: it is, or another one does it', async () => {
    await using stage = await Stage.open({
      presets: [session('warm', { gpus: NO_GPU, timeouts: { ackMs: 10_000 } })],
    })
    const worker = await stage.warm('warm')
    const [taken, other] = [await stage.submit('warm'), await stage.submit('warm', { owner: 'bob' })]
    const second = await eventually(() => {
      const [, started] = stage.runner.workers
      return started ?? Promise.reject(new Error('not started'))
    })
    const mine = await stage.handed(worker)
    await stage.handed(second)
    await stage.restart()
    worker.take(mine)
    worker.finish(mine)
    await stage.reached(taken, 'COMPLETED')
    expect(worker.runs).toHaveLength(1)
    // The other one never says anything: after its time a third worker, or the first one, does it.
    stage.clock.advance(10_000)
    await eventually(async () => {
      for (const one of stage.runner.running)
        for (const run of one.runs) if (run.runId === `${other}.2`) one.finish(run)
      expect(await stage.task(other)).toMatchObject({ status: 'COMPLETED', attempt: 2 })
    })
    expect(await stage.store.attempts(taken)).toHaveLength(1)
  })

  test('of a task that was claimed and never handed over: another one does it', async () => {
    await using stage = await Stage.open({
      presets: [session('warm', { gpus: NO_GPU, timeouts: { ackMs: 10_000 } })],
    })
    const worker = await stage.warm('warm')
    const never = new Promise(() => undefined)
    worker.opening = never
    const id = await stage.submit('warm')
    await stage.reached(id, 'STARTING')
    await stage.dispatcher[Symbol.asyncDispose]()
    worker.opening = Promise.resolve()
    await stage.up()
    await stage.planned()
    stage.clock.advance(10_000)
    await eventually(async () => {
      for (const one of stage.runner.running) for (const run of one.runs) one.finish(run)
      expect(await stage.task(id)).toMatchObject({ status: 'COMPLETED' })
    })
  })

  test('takes up a one-off task, also where it ended meanwhile', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain', { gpus: NO_GPU })] })
    const first = { id: await stage.submit('plain'), worker: await stage.worker(1) }
    const second = { id: await stage.submit('plain'), worker: await stage.worker(2) }
    for (const { id, worker } of [first, second]) {
      worker.say({ event: 'text_delta', delta: 'a' })
      await stage.reached(id, 'RUNNING')
    }
    await stage.dispatcher[Symbol.asyncDispose]()
    const ends = (worker: ScriptedWorker): void => {
      worker.say({ event: 'text_delta', delta: 'b' }, { event: 'finish', status: 'completed' })
      worker.exit()
    }
    ends(first.worker)
    await stage.up()
    await stage.reached(first.id, 'COMPLETED')
    expect((await stage.task(second.id)).status).toBe('RUNNING')
    ends(second.worker)
    await stage.reached(second.id, 'COMPLETED')
    for (const { id } of [first, second]) expect((await stage.store.output(id)).text).toBe('ab')
    expect(stage.runner.starts).toHaveLength(2)
    await stage.allGone()
  })

  test('never starts a worker twice that was being made', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const held = stage.runner.holdStart()
    const id = await stage.submit('plain')
    await held.reached
    const disposed = stage.dispatcher[Symbol.asyncDispose]()
    held.release()
    await disposed
    await stage.up()
    const worker = await stage.worker()
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
    expect(stage.runner.workers).toHaveLength(1)
  })

  test('starts the worker of a task that was claimed, where the process died before it could', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const held = stage.runner.holdStart('pulling')
    const id = await stage.submit('plain')
    await held.reached
    const disposed = stage.dispatcher[Symbol.asyncDispose]()
    await disposed
    expect((await stage.task(id)).status).toBe('STARTING')
    await stage.up()
    const worker = await stage.worker()
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
  })

  test('finishes a cancel that had been asked for, and removes what nobody needs', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    worker.ignoresStop = true
    await stage.dispatcher.cancel(id, null)
    await eventually(() => {
      expect(worker.stops).toHaveLength(1)
    })
    await stage.dispatcher[Symbol.asyncDispose]()
    worker.exit(137)
    await stage.up()
    await stage.reached(id, 'CANCELLED')
    await stage.allGone()
    await eventually(() => {
      expect(stage.runner.removed).toContain(worker.name)
    })
    await eventually(async () => {
      expect((await stage.task(id)).release).toMatchObject({
        stoppedAt: expect.any(Number) as number,
        gpuFreeAt: expect.any(Number) as number,
      })
    })
  })

  test('keeps the owner of a session, and its affinity to nobody else', async () => {
    await using stage = await Stage.open({
      presets: [session('own', { gpus: NO_GPU, session: { isolation: 'owner' } })],
    })
    const worker = await stage.warm('own')
    await stage.restart()
    const bobs = await stage.submit('own', { owner: 'bob' })
    const second = await stage.worker(2)
    second.finish(await stage.handed(second))
    await stage.reached(bobs, 'COMPLETED')
    expect(worker.runs).toEqual([])
  })
})

describe('a dispatcher that is disposed', () => {
  test('lets go of everything: its workers go on, nothing of its own does', async () => {
    await using stage = await Stage.open({
      presets: [
        session('warm', { gpus: { share: 'shared', memoryMb: 1_000 }, session: { idleMs: 1_000 } }),
        oneOff('plain', {
          gpus: NO_GPU,
          timeouts: { queueMs: 5_000, silenceMs: 5_000, startMs: 5_000, runMs: 50_000 },
        }),
      ],
      maxWorkers: 3,
    })
    const idle = await stage.warm('warm')
    for (let n = 0; n < 3; n++) await stage.submit('plain')
    const [, running] = await Promise.all([stage.worker(2), stage.worker(3)])
    running.say({ event: 'connection', status: 'connected' })
    await stage.planned()
    expect(stage.clock.pending).toBeGreaterThan(0)
    expect(stage.runner.openOutputs).toBe(3)
    await stage.dispatcher[Symbol.asyncDispose]()
    expect(stage.clock.pending).toBe(0)
    expect(stage.runner.openOutputs).toBe(0)
    expect(stage.runner.openInputs).toBe(0)
    expect(stage.presets.listeners).toBe(0)
    expect(stage.runner.running).toHaveLength(3)
    expect([idle.stops, running.stops]).toEqual([[], []])
  })

  test('refuses what comes then, and may be disposed again', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    stage.dispatcher.refuse()
    const refused = { status: 'refused', code: 'SHUTTING_DOWN' }
    expect(await stage.dispatcher.submit([stage.request('warm')])).toMatchObject(refused)
    expect(await stage.dispatcher.dryRun(stage.request('warm'))).toMatchObject(refused)
    expect(await stage.dispatcher.startSession('test/warm', 'ada')).toMatchObject(refused)
    await stage.dispatcher[Symbol.asyncDispose]()
    expect(await stage.dispatcher.startSession('test/warm', 'ada')).toMatchObject(refused)
  })
})
