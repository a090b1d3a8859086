import { describe, expect, test } from 'vitest'
import { eventually, NO_GPU, oneOff, session, Stage, turns } from './stage.ts'

const HOUR_MS = 3_600_000

describe.each([
  ['forward', HOUR_MS],
  ['back', -HOUR_MS],
] as const)('a clock that is set %s by an hour', (_direction, jumpMs) => {
  /** Sets it when nothing is under way, and has the dispatcher look at it. */
  async function jump(stage: Stage): Promise<void> {
    await stage.planned()
    stage.clock.jump(jumpMs)
    await stage.planned()
  }

  test('ends no attempt for its silence or its time, and lets none go on for longer', async () => {
    await using stage = await Stage.open({
      presets: [
        oneOff('silent', { gpus: NO_GPU, timeouts: { silenceMs: 10_000 } }),
        oneOff('long', { gpus: NO_GPU, timeouts: { runMs: 10_000 } }),
        oneOff('cold', { gpus: NO_GPU, timeouts: { startMs: 10_000 } }),
      ],
    })
    const ids = [await stage.submit('silent'), await stage.submit('long'), await stage.submit('cold')]
    for (const n of [1, 2]) (await stage.worker(n)).say({ event: 'connection', status: 'connected' })
    await stage.worker(3)
    for (const id of ids.slice(0, 2)) await stage.reached(id, 'RUNNING')
    await jump(stage)
    stage.clock.advance(9_900)
    await turns()
    const statuses = await Promise.all(ids.map(async (id) => (await stage.task(id)).status))
    expect(statuses).toEqual(['RUNNING', 'RUNNING', 'STARTING'])
    stage.clock.advance(200)
    await stage.listened()
    const codes = ['SILENCE_TIMEOUT', 'RUN_TIMEOUT', 'START_TIMEOUT']
    for (const [index, id] of ids.entries())
      expect(await stage.reached(id, 'TIMED_OUT')).toMatchObject({ error: { code: codes[index] } })
  })

  test('neither ends what waits in the queue nor what is tried again, nor keeps it', async () => {
    await using stage = await Stage.open({
      presets: [
        oneOff('plain', { timeouts: { queueMs: 60_000 } }),
        oneOff('again', {
          gpus: NO_GPU,
          retry: { maxAttempts: 2, backoffMs: 20_000, on: ['worker_failed'] },
        }),
      ],
    })
    await stage.submit('plain')
    await stage.worker(1)
    const waiting = await stage.submit('plain')
    const again = await stage.submit('again')
    ;(await stage.worker(2)).exit(1)
    await stage.reached(again, 'QUEUED')
    await jump(stage)
    stage.clock.advance(19_900)
    await stage.planned()
    expect(stage.runner.workers).toHaveLength(2)
    stage.clock.advance(200)
    await stage.worker(3)
    expect((await stage.task(waiting)).status).toBe('QUEUED')
    stage.clock.advance(39_800)
    await stage.planned()
    expect((await stage.task(waiting)).status).toBe('QUEUED')
    stage.clock.advance(200)
    expect(await stage.reached(waiting, 'TIMED_OUT')).toMatchObject({ error: { code: 'QUEUE_TIMEOUT' } })
  })

  test('ends no session that is idle for less than it may, and every one that is for longer', async () => {
    await using stage = await Stage.open({
      presets: [session('warm', { gpus: NO_GPU, session: { idleMs: 60_000, minResidencyMs: 0 } })],
    })
    const worker = await stage.warm('warm')
    stage.clock.advance(30_000)
    await jump(stage)
    stage.clock.advance(29_900)
    await stage.planned()
    expect(worker.isRunning).toBe(true)
    stage.clock.advance(200)
    await eventually(() => {
      expect(worker.isRunning).toBe(false)
    })
  })

  test('while a worker runs does not put off the next attempt, whatever the engine has stamped', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('again', { retry: { maxAttempts: 2, backoffMs: 5_000, on: ['worker_failed'] } })],
    })
    const id = await stage.submit('again')
    const worker = await stage.worker(1)
    worker.say({ event: 'connection', status: 'connected' })
    await stage.reached(id, 'RUNNING')
    await jump(stage)
    worker.exit(1)
    await stage.reached(id, 'QUEUED')
    stage.clock.advance(5_000)
    await stage.worker(2)
  })

  test('while no process was there neither keeps a task from being tried again nor gives an attempt more time', async () => {
    await using stage = await Stage.open({
      presets: [
        oneOff('again', {
          gpus: NO_GPU,
          retry: { maxAttempts: 2, backoffMs: 20_000, on: ['worker_failed'] },
        }),
        oneOff('long', { gpus: NO_GPU, timeouts: { runMs: 2 * HOUR_MS } }),
      ],
    })
    const again = await stage.submit('again')
    ;(await stage.worker(1)).exit(1)
    await stage.reached(again, 'QUEUED')
    const long = await stage.submit('long')
    ;(await stage.worker(2)).say({ event: 'connection', status: 'connected' })
    await stage.reached(long, 'RUNNING')
    await stage.dispatcher[Symbol.asyncDispose]()
    stage.clock.jump(jumpMs)
    await stage.up()
    stage.clock.advance(600_000)
    await stage.worker(3)
    stage.clock.advance(2 * HOUR_MS)
    expect(await stage.reached(long, 'TIMED_OUT')).toMatchObject({ error: { code: 'RUN_TIMEOUT' } })
  })
})
