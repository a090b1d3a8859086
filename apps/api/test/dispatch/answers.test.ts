import type { TaskId } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import type { ScriptedWorker } from './scripted-worker.ts'
import { eventually, NO_GPU, oneOff, session, Stage } from './stage.ts'

/** A one-off worker does its task to the end, in so much time. */
async function does(stage: Stage, worker: ScriptedWorker, loadMs: number, runMs: number): Promise<TaskId> {
  const { run } = worker.order
  if (run === null) throw new Error('it has no task')
  const id = run.runId.replace(/\.\d+$/, '') as TaskId
  stage.clock.advance(loadMs)
  worker.say({ event: 'connection', status: 'connected' })
  await stage.reached(id, 'RUNNING')
  stage.clock.advance(runMs)
  worker.say({ event: 'finish', status: 'completed' })
  worker.exit()
  await stage.reached(id, 'COMPLETED')
  return id
}

describe('a GPU', () => {
  test('tells for whom it is held back, and by whom it is held, each of them', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('one'), oneOff('two', { gpus: { count: 2 } })],
      gpus: { count: 2, memoryMb: 8_192 },
      maxPassMs: 0,
    })
    await stage.submit('one')
    const worker = await stage.worker()
    const large = await stage.submit('two')
    const small = await stage.submit('one')
    await eventually(async () => {
      expect(stage.dispatcher.explain(await stage.task(small))).toContain('held back')
    })
    for (const index of [0, 1]) expect(stage.gpu(index).explanation).toContain(`held back for task ${large}`)
    const holder = worker.order.gpus[0]?.index ?? 0
    expect(stage.gpu(holder).explanation).toContain(worker.order.workerId)
    expect(stage.gpu(1 - holder).explanation).toContain('No worker has any of it')
    expect(stage.dispatcher.explain(await stage.task(large))).toContain('held back for it')
  })

  test('tells so twice in the same words: to ask changes nothing', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('one'), oneOff('two', { gpus: { count: 2 } })],
      gpus: { count: 2, memoryMb: 8_192 },
      maxPassMs: 0,
    })
    await stage.submit('one')
    await stage.worker()
    await stage.submit('two')
    await stage.planned()
    const told = (): string[] => stage.dispatcher.gpus().map(({ explanation }) => explanation)
    expect(told()).toEqual(told())
    expect(told().every((text) => text.includes('held back'))).toBe(true)
  })
})

describe('estimates', () => {
  test('are told and counted of those that waited, and of no other', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    for (let n = 1; n <= 3; n++) {
      await stage.submit('plain')
      await does(stage, await stage.worker(n), 1_000, 4_000)
      await stage.allGone()
    }
    expect(stage.dispatcher.calibration).toEqual({ samples: 0, within: null })

    const ids: TaskId[] = []
    for (let n = 0; n < 4; n++) ids.push(await stage.submit('plain'))
    await stage.worker(4)
    await stage.planned()
    for (const [at, id] of ids.slice(1).entries()) {
      const estimate = stage.dispatcher.estimate(await stage.task(id))
      // A worker takes a second to load and four to run, and up to one to go.
      const inMs = (estimate?.at ?? 0) - stage.clock.now()
      expect(inMs).toBeGreaterThanOrEqual((at + 1) * 5_000)
      expect(inMs).toBeLessThanOrEqual((at + 1) * 6_000 + 1_000)
    }
    for (let n = 4; n <= 7; n++) await does(stage, await stage.worker(n), 1_000, 4_000)
    expect(stage.dispatcher.calibration.samples).toBe(3)
    expect(stage.dispatcher.calibration.within).not.toBeNull()
  })

  test('are made though nobody asks, so that it is known how good they are', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    await stage.submit('plain')
    await does(stage, await stage.worker(), 1_000, 4_000)
    await stage.allGone()
    for (let n = 0; n < 4; n++) await stage.submit('plain')
    for (let n = 2; n <= 5; n++) await does(stage, await stage.worker(n), 1_000, 4_000)
    expect(stage.dispatcher.calibration.samples).toBe(3)
  })

  test('that were made of a task which never ran do not count', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    await stage.submit('plain')
    await does(stage, await stage.worker(), 1_000, 4_000)
    await stage.allGone()
    await stage.submit('plain')
    await stage.worker(2)
    const waiting = await stage.submit('plain')
    await stage.planned()
    expect(stage.dispatcher.estimate(await stage.task(waiting))).not.toBeNull()
    await stage.dispatcher.cancel(waiting, null)
    await does(stage, await stage.worker(2), 1_000, 4_000)
    expect(stage.dispatcher.calibration.samples).toBe(0)
  })
})

describe('a place in the queue', () => {
  test('follows the priorities, then the order of submission, and goes with the task', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    await stage.submit('plain')
    await stage.worker()
    const low = await stage.submit('plain', { priority: -1 })
    const first = await stage.submit('plain')
    stage.clock.advance(1)
    const second = await stage.submit('plain')
    const high = await stage.submit('plain', { priority: 1 })
    const places = (): (number | null)[] =>
      [high, first, second, low].map((id) => stage.dispatcher.queuePosition(id))
    expect(places()).toEqual([1, 2, 3, 4])
    await stage.dispatcher.cancel(first, null)
    expect(places()).toEqual([1, null, 2, 3])
    const worker = await stage.worker()
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    expect((await stage.worker(2)).order.run?.runId).toBe(`${high}.1`)
    expect(places()).toEqual([null, null, 1, 2])
  })

  test('takes turns between owners', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    await stage.submit('plain', { owner: 'ada' })
    await stage.worker()
    const adas = [
      await stage.submit('plain', { owner: 'ada' }),
      await stage.submit('plain', { owner: 'ada' }),
    ]
    const bobs = await stage.submit('plain', { owner: 'bob' })
    const places = [bobs, ...adas].map((id) => stage.dispatcher.queuePosition(id))
    expect(places).toEqual([1, 2, 3])
  })
})

describe('a dry run', () => {
  test('says what then happens, and changes nothing', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    const ask = () => stage.dispatcher.dryRun(stage.request('warm'))
    expect(await ask()).toMatchObject({ action: 'start', workerId: null, gpuIds: [stage.gpuId()] })
    const worker = await stage.warm('warm')
    expect(await ask()).toMatchObject({ action: 'assign', workerId: worker.order.workerId, evicts: [] })
    await stage.submit('warm')
    await stage.handed(worker)
    expect(await ask()).toMatchObject({ action: 'wait', workerId: null, gpuIds: [] })
    expect(stage.runner.starts).toHaveLength(1)
    expect(await stage.store.activeTasks()).toHaveLength(1)
  })

  test('waits for what is just being decided', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const asked: ReturnType<typeof stage.dispatcher.dryRun>[] = []
    stage.beforeStore('claim', () => {
      asked.push(stage.dispatcher.dryRun(stage.request('plain')))
    })
    await stage.submit('plain')
    await stage.worker()
    expect(await Promise.all(asked)).toMatchObject([{ action: 'wait' }])
  })
})

test('what an engine that is away keeps from starting is told, and starts when it is back', async () => {
  await using stage = await Stage.open({ presets: [oneOff('plain', { gpus: NO_GPU })] })
  stage.runner.startResult = {
    ...{ status: 'failed', code: 'ENGINE_UNAVAILABLE', message: 'The engine is away.', hint: '' },
  }
  const first = await stage.submit('plain')
  await eventually(() => {
    expect(stage.dispatcher.blocked).toContain('The engine is away.')
  })
  const second = await stage.submit('plain')
  await stage.planned()
  for (const id of [first, second])
    expect(stage.dispatcher.explain(await stage.task(id))).toContain('The engine is away.')
  stage.runner.startResult = null
  await eventually(() => {
    stage.clock.advance(250)
    expect(stage.runner.workers).toHaveLength(2)
  })
  expect(stage.dispatcher.blocked).toBeNull()
})
