import type { TaskId } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { Deferred } from './deferred.ts'
import { delta, type Said } from './scripted-worker.ts'
import { eventually, NO_GPU, session, Stage, type SpecChange } from './stage.ts'

const open = (change: SpecChange = {}): Promise<Stage> =>
  Stage.open({ presets: [session('warm', { gpus: NO_GPU, ...change })] })

const ALONE: SpecChange = { session: { maxWorkers: 1 } }
const PAIR: SpecChange = { session: { maxWorkers: 1, maxConcurrency: 2 }, retry: { on: [] } }

describe('what a session says without naming a task', () => {
  test.each(['in the same breath', 'before the next task is given to it'])(
    'after a finish (%s) reaches neither that task nor the next',
    async (when) => {
      await using stage = await open(ALONE)
      const worker = await stage.warm('warm')
      const adas = await stage.submit('warm', { owner: 'ada' })
      const first = await stage.handed(worker)
      const bobs = await stage.submit('warm', { owner: 'bob' })
      const finish = { event: 'finish', status: 'completed', task_id: first.runId }
      if (when === 'in the same breath') worker.say(delta('done', first), finish, delta('SECRET OF ADA'))
      else {
        stage.beforeStore('claim', () => {
          worker.say(delta('SECRET OF ADA'))
        })
        worker.say(delta('done', first), finish)
      }
      const second = await stage.handed(worker, 2)
      worker.say(delta('mine', second))
      worker.finish(second)
      await stage.reached(bobs, 'COMPLETED')
      expect(await stage.text(adas)).toBe('done')
      expect(await stage.text(bobs)).toBe('mine')
      expect(await stage.workerLog(worker)).toContainEqual({ type: 'text_delta', delta: 'SECRET OF ADA' })
    },
  )

  test.each<[string, Said]>([
    ['text', delta('SECRET OF ADA')],
    ['what it is at', { event: 'worker', status: 'waiting for work' }],
    ['a finish', { event: 'finish', status: 'completed' }],
    ['an artifact', { event: 'artifact', data: 'QUJD', name: 'secret.txt' }],
    ['a line that is no event', { event: 'log', level: 'info', message: 'SECRET OF ADA' }],
  ])(
    'before its stdin is open (%s) is no word of the task that waits for that, and does not acknowledge it',
    async (_what, said) => {
      await using stage = await open({ timeouts: { ackMs: 1_000 } })
      const worker = await stage.warm('warm')
      const opening = new Deferred<undefined>()
      worker.opening = opening.promise
      const id = await stage.submit('warm')
      await stage.reached(id, 'STARTING')
      const before = (await stage.workerLog(worker)).length
      worker.say(said)
      await eventually(async () => {
        expect((await stage.workerLog(worker)).length).toBeGreaterThan(before)
      })
      expect(await stage.statuses(id)).toEqual(['QUEUED', 'STARTING'])
      opening.resolve(undefined)
      await stage.handed(worker)
      expect(await stage.task(id)).toMatchObject({ status: 'STARTING', runningAt: null })
      stage.clock.advance(1_000)
      const second = await stage.worker(2)
      second.finish(await stage.handed(second))
      expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 2 })
      expect(await stage.text(id)).toBeNull()
      expect(await stage.store.attempts(id)).toMatchObject([{ error: { code: 'UNACKNOWLEDGED' } }, {}])
    },
  )

  test('with its readiness does not acknowledge the task that it was started for', async () => {
    await using stage = await open({ timeouts: { ackMs: 1_000 } })
    stage.runner.isReadyAtOnce = false
    const id = await stage.submit('warm')
    const worker = await stage.worker()
    worker.say({ event: 'worker', status: 'ready' }, { event: 'worker', status: 'waiting for work' })
    await stage.handed(worker)
    expect(await stage.task(id)).toMatchObject({ status: 'STARTING', runningAt: null })
    stage.runner.isReadyAtOnce = true
    stage.clock.advance(1_000)
    const second = await stage.worker(2)
    second.finish(await stage.handed(second))
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 2 })
  })

  test('that it is ready again does not acknowledge the task that it has just been given', async () => {
    await using stage = await open({ timeouts: { ackMs: 1_000 } })
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    const run = await stage.handed(worker)
    const before = (await stage.workerLog(worker)).length
    worker.ready()
    await eventually(async () => {
      expect((await stage.workerLog(worker)).length).toBe(before + 1)
    })
    expect(await stage.task(id)).toMatchObject({ status: 'STARTING', runningAt: null })
    worker.take(run)
    await stage.reached(id, 'RUNNING')
    worker.finish(run)
    await stage.reached(id, 'COMPLETED')
  })

  test('while it works on one task is that task’s', async () => {
    await using stage = await open()
    const worker = await stage.warm('warm')
    const id = await stage.submit('warm')
    await stage.handed(worker)
    worker.say({ event: 'worker', status: 'working' }, delta('a'), delta('b'))
    worker.print('a warning\n', 'stderr')
    await eventually(async () => {
      expect(await stage.said(id, 'log')).toHaveLength(1)
    })
    worker.say({ event: 'finish', status: 'completed' })
    await stage.reached(id, 'COMPLETED')
    expect(await stage.text(id)).toBe('ab')
  })

  test('while it works on two tasks is a fault of both and the output of none', async () => {
    await using stage = await open(PAIR)
    const worker = await stage.warm('warm')
    const ids = [await stage.submit('warm'), await stage.submit('warm')]
    const runs = [await stage.handed(worker, 1), await stage.handed(worker, 2)]
    for (const run of runs) worker.take(run)
    worker.say(delta('whose?'))
    for (const run of runs) worker.finish(run)
    for (const id of ids) {
      await stage.reached(id, 'COMPLETED')
      expect(await stage.text(id)).toBeNull()
      expect(await stage.said(id, 'fault')).toMatchObject([{ kind: 'AMBIGUOUS_TASK' }])
    }
  })
})

describe('what a session says of its tasks', () => {
  test('late, after the finish, is a fault in its own log and reaches no task', async () => {
    await using stage = await open(ALONE)
    const worker = await stage.warm('warm')
    const first = await stage.submit('warm')
    const run = await stage.handed(worker)
    worker.finish(run)
    await stage.reached(first, 'COMPLETED')
    const second = await stage.submit('warm')
    const next = await stage.handed(worker, 2)
    worker.take(next)
    worker.say(delta('late', run))
    worker.finish(run, 'failed')
    worker.finish(next)
    await stage.reached(second, 'COMPLETED')
    expect(await stage.task(first)).toMatchObject({ status: 'COMPLETED' })
    expect([await stage.text(first), await stage.text(second)]).toEqual([null, null])
    for (const id of [first, second]) expect(await stage.said(id, 'fault')).toEqual([])
    const faults = (await stage.workerLog(worker)).filter(({ type }) => type === 'fault')
    expect(faults).toMatchObject([{ kind: 'AFTER_FINISH' }, { kind: 'AFTER_FINISH' }])
    expect(stage.live(worker.order.workerId)).toMatchObject({ status: 'READY' })
  })

  test('with a hole in its count leaves none of its two tasks COMPLETED, but the one that comes then', async () => {
    await using stage = await open(PAIR)
    const worker = await stage.warm('warm')
    const ids = [await stage.submit('warm'), await stage.submit('warm')]
    const [one, two] = [await stage.handed(worker, 1), await stage.handed(worker, 2)]
    worker.say({ ...delta('a', one), seq: 1 }, { ...delta('b', two), seq: 2 }, { ...delta('c', one), seq: 4 })
    for (const [at, { runId }] of [one, two].entries())
      worker.say({ event: 'finish', status: 'completed', task_id: runId, seq: 5 + at })
    for (const id of ids) {
      expect(await stage.reached(id, 'FAILED')).toMatchObject({ error: { code: 'OUTPUT_LOST' } })
      expect(await stage.said(id, 'gap')).toHaveLength(1)
    }
    const next = await stage.submit('warm')
    const { runId } = await stage.handed(worker, 3)
    worker.say({ event: 'finish', status: 'completed', task_id: runId, seq: 7 })
    await stage.reached(next, 'COMPLETED')
  })

  test('of two tasks in one stretch of bytes, cut anywhere, is told apart', async () => {
    await using stage = await open(PAIR)
    const worker = await stage.warm('warm')
    const ids = [await stage.submit('warm'), await stage.submit('warm')]
    const runs = [await stage.handed(worker, 1), await stage.handed(worker, 2)]
    const words = ['Ünder', 'the', '🌉', 'bridge']
    const said = words.flatMap((word, at) => runs.map((run) => delta(`${at}:${word} `, run)))
    const finishes = runs.map(({ runId }) => ({ event: 'finish', status: 'completed', task_id: runId }))
    const bytes = [...said, ...finishes].map((event) => `${JSON.stringify(event)}\n`).join('')
    const cuts = [0, 7, bytes.indexOf('🌉') - 3, bytes.indexOf('bridge') + 2, bytes.length]
    cuts.slice(1).forEach((to, at) => {
      worker.print(bytes.slice(cuts[at], to))
    })
    for (const id of ids) {
      await stage.reached(id, 'COMPLETED')
      expect(await stage.text(id)).toBe(words.map((word, at) => `${at}:${word} `).join(''))
      const events = await stage.events(id)
      expect(events.map(({ seq }) => seq)).toEqual(events.map((_, at) => at + 1))
    }
  })

  test('keeps its order where an artifact comes between the events of two tasks', async () => {
    await using stage = await open(PAIR)
    const worker = await stage.warm('warm')
    const ids = [await stage.submit('warm'), await stage.submit('warm')]
    const [one, two] = [await stage.handed(worker, 1), await stage.handed(worker, 2)]
    worker.say(
      delta('one ', one),
      delta('two ', two),
      { event: 'artifact', data: 'QUJD', name: 'of-one.txt', task_id: one.runId },
      delta('more of two', two),
      { event: 'finish', status: 'completed', task_id: two.runId },
      delta('more of one', one),
      { event: 'artifact', data: 'QUJD', name: 'again.txt', task_id: one.runId },
      { event: 'finish', status: 'completed', task_id: one.runId },
    )
    for (const id of ids) await stage.reached(id, 'COMPLETED')
    const told = async (id: TaskId | undefined): Promise<unknown[]> =>
      id === undefined
        ? []
        : (await stage.events(id)).flatMap(({ body }) =>
            body.type === 'text_delta'
              ? [body.delta]
              : body.type === 'artifact'
                ? [body.artifact.name]
                : body.type === 'finish'
                  ? [body.status]
                  : [],
          )
    expect(await told(ids[0])).toEqual(['one ', 'of-one.txt', 'more of one', 'again.txt', 'completed'])
    expect(await told(ids[1])).toEqual(['two ', 'more of two', 'completed'])
    expect((await stage.store.artifacts(ids[0] ?? ('' as TaskId))).map(({ name }) => name)).toEqual([
      'of-one.txt',
      'again.txt',
    ])
  })
})
