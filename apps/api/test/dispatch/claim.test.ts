import { specHashOf, type TaskId, type WorkerId, type WorkerName } from '@gpu-service/tasks'
import { v7 as uuidv7 } from 'uuid'
import { describe, expect, test } from 'vitest'
import type { ScriptedWorker } from './scripted-worker.ts'
import { eventually, NO_GPU, oneOff, session, Stage, turns, type SpecChange } from './stage.ts'

const finishes = async (stage: Stage, worker: ScriptedWorker, id: TaskId): Promise<void> => {
  worker.finish(await stage.handed(worker))
  await stage.reached(id, 'COMPLETED')
}

describe('a task that is being given to a session', () => {
  const open = (change: SpecChange = {}): Promise<Stage> =>
    Stage.open({ presets: [session('warm', { gpus: NO_GPU, ...change })] })

  test.each<[string, (stage: Stage, worker: ScriptedWorker) => Promise<void> | void]>([
    [
      'which dies',
      (_stage, worker) => {
        worker.exit(1)
      },
    ],
    [
      'whose death has been seen',
      async (_stage, worker) => {
        worker.exit(1)
        await eventually(() => {
          expect(worker.readers).toBe(0)
        })
        await turns(50)
      },
    ],
    [
      'which is lost',
      async (_stage, worker) => {
        worker.lose()
        await turns(50)
      },
    ],
    [
      'which a client ends',
      (stage, worker) => {
        void stage.dispatcher.endSession(worker.order.workerId, false)
      },
    ],
    [
      'which a client has ended',
      async (stage, worker) => {
        await stage.dispatcher.endSession(worker.order.workerId, false)
        await eventually(() => {
          expect(worker.readers).toBe(0)
        })
        await turns(50)
      },
    ],
    [
      'which a client ends by force',
      async (stage, worker) => {
        await stage.dispatcher.endSession(worker.order.workerId, true)
        await turns(50)
      },
    ],
  ])('%s meanwhile goes to another one', async (_how, befall) => {
    await using stage = await open()
    const first = await stage.warm('warm')
    let befallen = false
    stage.beforeStore('claim', async () => {
      if (befallen) return
      befallen = true
      await befall(stage, first)
    })
    const id = await stage.submit('warm')
    const second = await stage.worker(2)
    await finishes(stage, second, id)
    expect(first.runs).toEqual([])
    expect(await stage.task(id)).toMatchObject({ status: 'COMPLETED', workerId: second.order.workerId })
    await eventually(async () => {
      expect(await stage.store.worker(first.order.workerId)).toMatchObject({ status: 'EXITED' })
    })
  })

  test('which is retired meanwhile, while it still works, goes to another one', async () => {
    await using stage = await open({ session: { maxConcurrency: 3 } })
    const first = await stage.warm('warm')
    const [failing, working] = [await stage.submit('warm'), await stage.submit('warm')]
    await eventually(() => {
      expect(first.runs).toHaveLength(2)
    })
    for (const run of first.runs) first.take(run)
    await stage.reached(working, 'RUNNING')
    let befallen = false
    stage.beforeStore('claim', async () => {
      if (befallen) return
      befallen = true
      const error = { code: 'OUT_OF_MEMORY', message: 'CUDA out of memory' }
      first.say({ event: 'finish', status: 'failed', error, task_id: `${failing}.1` })
      await stage.reached(failing, 'FAILED')
    })
    const id = await stage.submit('warm')
    await finishes(stage, await stage.worker(2), id)
    expect(first.runs.map(({ runId }) => runId.split('.')[0])).toEqual([failing, working])
  })

  test('which dies meanwhile ends where nothing is tried again: it does not stay STARTING', async () => {
    await using stage = await open({ retry: { maxAttempts: 1, on: [] } })
    const first = await stage.warm('warm')
    let died = false
    stage.beforeStore('claim', async () => {
      if (died) return
      died = true
      first.exit(1)
      await turns(50)
    })
    const id = await stage.submit('warm')
    await eventually(async () => {
      const worker = stage.runner.workers[1]
      const run = worker?.runs[0]
      if (run !== undefined) worker?.finish(run)
      expect(['COMPLETED', 'FAILED']).toContain((await stage.task(id)).status)
    })
    expect(stage.dispatcher.load).toEqual({ queued: 0, running: 0 })
  })

  test('is CANCELLED where that is asked for before its worker is told, and the worker goes on', async () => {
    await using stage = await open()
    const worker = await stage.warm('warm')
    stage.onceStored('claim', async () => {
      await stage.dispatcher.cancel(await stage.onlyTask(), null)
    })
    const id = await stage.submit('warm')
    await stage.reached(id, 'CANCELLED')
    expect((await stage.statuses(id)).filter((status) => status === 'CANCELLED')).toHaveLength(1)
    const next = await stage.submit('warm')
    const run = await eventually(() => {
      const last = worker.runs.at(-1)
      expect(last?.runId).toBe(`${next}.1`)
      return last
    })
    if (run !== undefined) worker.finish(run)
    expect(await stage.reached(next, 'COMPLETED')).toMatchObject({ attempt: 1 })
  })
})

const MODES = [
  ['of a session', session],
  ['one-off', oneOff],
] as const

describe('a task that an earlier process gave to a worker which has ended', () => {
  /** A task in the store as such a process leaves it: STARTING, its worker EXITED. */
  async function leave(stage: Stage, kind: string): Promise<TaskId> {
    const id = await stage.submit(kind)
    await stage.dispatcher[Symbol.asyncDispose]()
    const { spec, presetId, lastSeq } = await stage.task(id)
    const workerId = uuidv7() as WorkerId
    const worker = {
      ...{ id: workerId, name: `gpu-${stage.store.installation}-${workerId}` as WorkerName },
      ...{ presetId, mode: spec.mode, spec, specHash: specHashOf(spec), owner: null },
      ...{ claim: { gpuIds: [], memoryMb: null }, at: stage.clock.now() },
    } as const
    const claim = { taskId: id, attempt: 1, after: lastSeq, at: stage.clock.now(), reason: '', worker }
    const [claimed] = await stage.store.claim([{ ...claim, warm: spec.mode === 'SESSION' }])
    expect(claimed).toMatchObject({ status: 'STARTING' })
    const exitedAt = stage.clock.now()
    const ready = spec.mode === 'SESSION' ? { readyAt: exitedAt } : {}
    await stage.store.updateWorker(workerId, { status: 'EXITED', exitedAt, containerId: 'c', ...ready })
    await stage.up({ maxWorkers: 20 })
    return id
  }

  test.each(MODES)('is tried again where its policy says so (%s)', async (_mode, preset) => {
    const retry = { maxAttempts: 2, backoffMs: 0, on: ['engine'] as const }
    await using stage = await Stage.open({ presets: [preset('one', { gpus: NO_GPU, retry })], maxWorkers: 0 })
    const id = await leave(stage, 'one')
    const worker = await stage.worker()
    worker.finish(worker.order.run ?? (await stage.handed(worker)))
    if (worker.order.run !== null) worker.exit()
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 2 })
    expect(await stage.store.attempts(id)).toMatchObject([
      { status: 'FAILED', error: { code: 'LOST' }, failureClass: 'engine' },
      { status: 'COMPLETED' },
    ])
  })

  test.each(MODES)('is LOST otherwise (%s)', async (_mode, preset) => {
    const retry = { maxAttempts: 1, on: [] }
    await using stage = await Stage.open({ presets: [preset('one', { gpus: NO_GPU, retry })], maxWorkers: 0 })
    const id = await leave(stage, 'one')
    expect(await stage.reached(id, 'FAILED')).toMatchObject({ error: { code: 'LOST' }, attempt: 1 })
    expect(stage.runner.starts).toEqual([])
    expect(stage.dispatcher.load).toEqual({ queued: 0, running: 0 })
  })
})
