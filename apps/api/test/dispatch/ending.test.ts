import { describe, expect, test } from 'vitest'
import { eventually, NO_GPU, oneOff, session, Stage, turns } from './stage.ts'

describe('a session that is ended', () => {
  test.each([false, true])(
    'while the engine makes its worker (by force: %s) is stopped once it is there, and its GPU is free',
    async (force) => {
      await using stage = await Stage.open({ presets: [session('warm')] })
      const held = stage.runner.holdStart('making')
      const { id } = await stage.startSession('warm')
      await held.reached
      expect(await stage.dispatcher.endSession(id, force)).toMatchObject({ id, status: 'STOPPING' })
      expect(stage.gpu().workerIds).toEqual([id])
      held.release()
      const worker = await stage.worker()
      await stage.allGone()
      expect([...worker.stops, ...worker.commands]).not.toEqual([])
      expect(await stage.store.worker(id)).toMatchObject({
        status: 'EXITED',
        endReason: 'A client asked for its end.',
      })
      expect(await stage.startSession('warm')).toMatchObject({ status: 'STARTING' })
    },
  )

  test('while its image is pulled is never made, and its GPU is free', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    const held = stage.runner.holdStart('pulling')
    const { id } = await stage.startSession('warm')
    await held.reached
    held.tellPull({ message: 'Half of it', progress: 0.5 })
    await stage.dispatcher.endSession(id, false)
    await stage.allGone()
    expect(stage.runner.workers).toEqual([])
    expect(await stage.store.worker(id)).toMatchObject({ status: 'EXITED' })
    const [pulling] = await stage.store.workerLog(id, 0, 10)
    expect(pulling).toMatchObject({ body: { status: 'pulling', message: 'Half of it', progress: 0.5 } })
  })

  test('while it loads, with a task that waits for it, is stopped, and the task is tried on another one', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    stage.runner.isReadyAtOnce = false
    const id = await stage.submit('warm')
    const first = await stage.worker()
    await stage.dispatcher.endSession(first.order.workerId, true)
    const second = await stage.worker(2)
    second.ready()
    second.finish(await stage.handed(second))
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 2 })
    expect(first.isRunning).toBe(false)
  })

  test('while it works does first what it has, and takes nothing more', async () => {
    await using stage = await Stage.open({ presets: [session('warm', { gpus: NO_GPU })] })
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    const run = await stage.handed(worker)
    worker.take(run)
    await stage.reached(id, 'RUNNING')
    await stage.dispatcher.endSession(worker.order.workerId, false)
    const other = await stage.submit('warm')
    const second = await stage.worker(2)
    second.finish(await stage.handed(second))
    await stage.reached(other, 'COMPLETED')
    expect(worker.isRunning).toBe(true)
    worker.finish(run)
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
    await eventually(() => {
      expect(worker.isRunning).toBe(false)
    })
    expect(worker.commands.at(-1)).toEqual({ kind: 'shutdown' })
    expect(worker.runs).toHaveLength(1)
  })

  test('by force while it works leaves its task to another one', async () => {
    await using stage = await Stage.open({ presets: [session('warm', { gpus: NO_GPU })] })
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    worker.take(await stage.handed(worker))
    await stage.reached(id, 'RUNNING')
    await stage.dispatcher.endSession(worker.order.workerId, true)
    const second = await stage.worker(2)
    second.finish(await stage.handed(second))
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 2 })
  })

  test('and does not heed it is told by a signal, and killed after its grace', async () => {
    await using stage = await Stage.open({
      presets: [session('warm', { timeouts: { stopGraceMs: 5_000 } })],
    })
    const worker = await stage.warm('warm')
    worker.heedsShutdown = false
    worker.ignoresStop = true
    await stage.dispatcher.endSession(worker.order.workerId, false)
    await eventually(() => {
      expect(worker.commands).toEqual([{ kind: 'shutdown' }])
    })
    expect(worker.stops).toEqual([])
    stage.clock.advance(2_000)
    await eventually(() => {
      expect(worker.stops).toEqual([5_000])
    })
    expect(stage.gpu().workerIds).toHaveLength(1)
    stage.clock.advance(5_000)
    await stage.allGone()
  })

  test('twice ends once, with the first reason', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    const worker = await stage.warm('warm')
    worker.heedsShutdown = false
    await stage.dispatcher.endSession(worker.order.workerId, false)
    await stage.dispatcher.endSession(worker.order.workerId, true)
    await eventually(() => {
      expect(worker.commands).toEqual([{ kind: 'shutdown' }])
    })
    stage.clock.advance(2_000)
    await stage.allGone()
    expect(worker.commands).toHaveLength(1)
    expect(worker.stops).toHaveLength(1)
    expect(await stage.dispatcher.endSession(worker.order.workerId, false)).toBeNull()
  })
})

describe('a service that stops its workers as it stops (SHUTDOWN=stop)', () => {
  test('also stops the session that the engine is just making', async () => {
    await using stage = await Stage.open({ presets: [session('warm')], shutdown: 'stop' })
    const held = stage.runner.holdStart('making')
    const { id } = await stage.startSession('warm')
    await held.reached
    const disposed = stage.dispatcher[Symbol.asyncDispose]()
    await turns()
    held.release()
    await disposed
    expect(stage.runner.workers).toHaveLength(1)
    expect(stage.runner.running).toEqual([])
    expect(await stage.store.worker(id)).toMatchObject({ status: 'EXITED' })
  })

  test('cancels what runs, waits and starts, and leaves no worker behind', async () => {
    await using stage = await Stage.open({
      presets: [session('warm', { gpus: NO_GPU }), oneOff('plain')],
      shutdown: 'stop',
    })
    await stage.warm('warm')
    const running = await stage.submit('plain')
    const plain = await stage.worker(2)
    plain.say({ event: 'connection', status: 'connected' })
    await stage.reached(running, 'RUNNING')
    const taken = await stage.submit('warm')
    await stage.handed(await stage.worker(1))
    const queued = await stage.submit('plain')
    await stage.dispatcher[Symbol.asyncDispose]()
    expect(stage.runner.running).toEqual([])
    expect((await stage.task(running)).status).toBe('CANCELLED')
    expect((await stage.task(taken)).status).toBe('CANCELLED')
    // What has not begun waits for the next start.
    expect((await stage.task(queued)).status).toBe('QUEUED')
    expect(await stage.store.liveWorkers()).toEqual([])
  })

  test('gives up a worker that cannot be stopped when its grace is over', async () => {
    await using stage = await Stage.open({ presets: [session('warm')], shutdown: 'stop' })
    const held = stage.runner.holdStart('making')
    await stage.startSession('warm')
    await held.reached
    let isOver = false
    const disposed = stage.dispatcher[Symbol.asyncDispose]().then(() => {
      isOver = true
    })
    await eventually(() => {
      // The engine hangs: only the clock ends this.
      stage.clock.advance(1_000)
      expect(isOver).toBe(true)
    })
    await disposed
    held.release()
  })
})
