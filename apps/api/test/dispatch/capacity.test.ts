import type { SubmitResult } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { eventually, NO_GPU, oneOff, session, Stage } from './stage.ts'

type Answer = { readonly status: string; readonly code?: string }

const told = ({ status, code }: Answer): string => code ?? status

/** No GPU is ever held by more than one worker. */
function expectOneHolder(stage: Stage): void {
  for (const { workerIds, memoryClaimedMb, memoryTotalMb } of stage.dispatcher.gpus()) {
    expect(workerIds.length).toBeLessThanOrEqual(1)
    expect(memoryClaimedMb).toBeLessThanOrEqual(memoryTotalMb)
  }
}

describe('sessions that are started by hand', () => {
  test('two at once on one exclusive GPU: one starts, the other is refused', async () => {
    await using stage = await Stage.open({ presets: [session('warm')] })
    const answers = await Promise.all(
      ['ada', 'bob'].map((owner) => stage.dispatcher.startSession('test/warm', owner)),
    )
    expect(answers.map(told).sort()).toEqual(['NO_ROOM', 'started'])
    await stage.planned()
    expectOneHolder(stage)
    expect(stage.runner.starts).toHaveLength(1)
    expect(stage.gpu().workerIds).toHaveLength(1)
  })

  test('two at once of different presets on one exclusive GPU: one starts, the other is refused', async () => {
    await using stage = await Stage.open({ presets: [session('red'), session('blue')] })
    const answers = await Promise.all(
      ['red', 'blue'].map((kind) => stage.dispatcher.startSession(`test/${kind}`, 'ada')),
    )
    expect(answers.map(told).sort()).toEqual(['NO_ROOM', 'started'])
    await stage.planned()
    expectOneHolder(stage)
    expect(stage.runner.starts).toHaveLength(1)
  })

  test.each(['warm', 'plain'])(
    'one while a task (%s) is submitted: one worker gets the GPU, and the task is done',
    async (kind) => {
      await using stage = await Stage.open({ presets: [session('warm'), oneOff('plain')] })
      const [answer, id] = await Promise.all([
        stage.dispatcher.startSession('test/warm', 'ada'),
        stage.submit(kind),
      ])
      await stage.planned()
      expectOneHolder(stage)
      // Its session goes for the task that needs the place, where that is not its own.
      const worker = await stage.worker(kind === 'plain' && answer.status === 'started' ? 2 : 1)
      const run = worker.order.run ?? (await stage.handed(worker))
      worker.finish(run)
      if (kind === 'plain') worker.exit()
      await stage.reached(id, 'COMPLETED')
    },
  )

  test('one while a task is just being given the GPU: it is refused', async () => {
    await using stage = await Stage.open({ presets: [session('warm'), oneOff('plain')] })
    const answers: Promise<Answer>[] = []
    stage.beforeStore('claim', () => {
      answers.push(stage.dispatcher.startSession('test/warm', 'ada'))
    })
    await stage.submit('plain')
    await stage.worker()
    expect((await Promise.all(answers)).map(told)).toEqual(['NO_ROOM'])
    await stage.planned()
    expectOneHolder(stage)
  })

  test('one that is just being started takes the GPU from a task that comes then', async () => {
    await using stage = await Stage.open({
      presets: [session('warm', { session: { minResidencyMs: 60_000 } }), oneOff('plain')],
    })
    const submitted: Promise<string>[] = []
    stage.beforeStore('createWorker', () => {
      submitted.push(stage.submit('plain'))
    })
    await stage.startSession('warm')
    await Promise.all(submitted)
    await stage.planned()
    expectOneHolder(stage)
    expect(stage.dispatcher.load).toEqual({ queued: 1, running: 0 })
  })

  test('never more than the preset may have, however many ask', async () => {
    await using stage = await Stage.open({
      presets: [session('few', { gpus: NO_GPU, session: { maxWorkers: 2 } })],
    })
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => stage.dispatcher.startSession('test/few', 'ada')),
    )
    expect(answers.filter(({ status }) => status === 'started')).toHaveLength(2)
    expect(answers.map(told).filter((code) => code === 'NO_ROOM')).toHaveLength(8)
    await stage.planned()
    expect(stage.runner.starts).toHaveLength(2)
  })

  test('one of a preset whose workers are their owners’ alone serves its owner and nobody else', async () => {
    await using stage = await Stage.open({
      presets: [session('own', { gpus: NO_GPU, session: { isolation: 'owner' } })],
    })
    const { id } = await stage.startSession('own', 'ada')
    await eventually(() => {
      expect(stage.live(id)).toMatchObject({ owner: 'ada', status: 'READY' })
    })
    const bobs = await stage.submit('own', { owner: 'bob' })
    const adas = await stage.submit('own', { owner: 'ada' })
    const [first, second] = [await stage.worker(1), await stage.worker(2)]
    first.finish(await stage.handed(first))
    second.finish(await stage.handed(second))
    expect(await stage.reached(adas, 'COMPLETED')).toMatchObject({ workerId: id })
    expect((await stage.reached(bobs, 'COMPLETED')).workerId).not.toBe(id)
  })
})

test('tasks and sessions together never have more workers than MAX_WORKERS', async () => {
  const maxWorkers = 3
  await using stage = await Stage.open({
    presets: [session('warm', { gpus: NO_GPU }), oneOff('plain', { gpus: NO_GPU })],
    maxWorkers,
  })
  const [ids] = await Promise.all([
    Promise.all(Array.from({ length: 10 }, () => stage.submit('plain'))),
    Promise.all(Array.from({ length: 5 }, () => stage.dispatcher.startSession('test/warm', 'ada'))),
  ])
  let most = 0
  await eventually(() => {
    most = Math.max(most, stage.runner.running.length)
    for (const worker of stage.runner.running) {
      if (worker.order.run === null) continue
      worker.finish(worker.order.run)
      worker.exit()
    }
    expect(stage.dispatcher.load).toEqual({ queued: 0, running: 0 })
  })
  for (const id of ids) expect(await stage.task(id)).toMatchObject({ status: 'COMPLETED' })
  expect(most).toBeLessThanOrEqual(maxWorkers)
  expect(most).toBeGreaterThan(0)
})

describe('the limit of the queue', () => {
  const open = async (): Promise<Stage> => {
    const stage = await Stage.open({ presets: [oneOff('plain')], maxQueued: 5 })
    await stage.dispatcher.drainGpu(stage.gpuId(), null)
    return stage
  }
  const submit = (stage: Stage, count: number): Promise<SubmitResult> =>
    stage.dispatcher.submit(Array.from({ length: count }, () => stage.request('plain')))

  test('holds when 50 tasks come at once', async () => {
    await using stage = await open()
    const answers = await Promise.all(Array.from({ length: 50 }, () => submit(stage, 1)))
    expect(answers.filter(({ status }) => status === 'submitted')).toHaveLength(5)
    expect(answers.map(told).filter((code) => code === 'QUEUE_FULL')).toHaveLength(45)
    expect(stage.dispatcher.load.queued).toBe(5)
    expect(await stage.store.activeTasks()).toHaveLength(5)
  })

  test('refuses a batch that does not fit as a whole, and no smaller one for it', async () => {
    await using stage = await open()
    expect(told(await submit(stage, 3))).toBe('submitted')
    expect(told(await submit(stage, 3))).toBe('QUEUE_FULL')
    expect(await stage.store.activeTasks()).toHaveLength(3)
    expect(told(await submit(stage, 2))).toBe('submitted')
    expect(await stage.store.activeTasks()).toHaveLength(5)
  })

  test('refuses one of two batches that come at once and do not fit together', async () => {
    await using stage = await open()
    const answers = await Promise.all([submit(stage, 3), submit(stage, 3)])
    expect(answers.map(told).sort()).toEqual(['QUEUE_FULL', 'submitted'])
    expect(await stage.store.activeTasks()).toHaveLength(3)
  })

  test('gives the place back of a task that could not be stored', async () => {
    await using stage = await open()
    stage.storeFails('create', 5)
    const answers = await Promise.allSettled(Array.from({ length: 5 }, () => submit(stage, 1)))
    expect(answers.every(({ status }) => status === 'rejected')).toBe(true)
    expect(told(await submit(stage, 5))).toBe('submitted')
  })
})
