import { SESSION_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { heapMb, MEASURED } from './heap.ts'
import { RUNNERS, CONNECTED, FINISHED, script } from './scripts.ts'
import {
  faultsOf,
  TestService,
  WORKER_FIELDS,
  type SeenHistory,
  type SeenWorker,
  type TestServiceOptions,
} from './service.ts'
import { ENDLESS, isThere, killWorker, memoryOf, session } from './sessions.ts'

const CUDA_ERROR = { code: 'CUDA_ERROR', message: 'CUDA error: an illegal memory access was encountered' }

/** From a task's submission to its first sign of life, in milliseconds. */
const startMs = ({ createdAt, runningAt }: SeenHistory): number =>
  Date.parse(runningAt ?? '') - Date.parse(createdAt)

const workerIdsOf = (tasks: readonly SeenHistory[]): Set<string> =>
  new Set(tasks.flatMap(({ attempts }) => attempts.map(({ workerId }) => workerId)))

interface SessionAnswer {
  readonly __typename: string
  readonly worker?: SeenWorker
  readonly code?: string
}

async function startSession(service: TestService, kind: string): Promise<SessionAnswer> {
  const { startSession: answer } = await service.query<{ startSession: SessionAnswer }>(
    `mutation ($id: ID!) { startSession(presetId: $id) { __typename ... on StartSessionSuccess { worker { ${WORKER_FIELDS} } }
      ... on RefusedProblem { code } } }`,
    { id: `test/${kind}` },
  )
  return answer
}

async function endSession(service: TestService, id: string, force = false): Promise<SessionAnswer> {
  const { endSession: answer } = await service.query<{ endSession: SessionAnswer }>(
    `mutation ($id: ID!, $force: Boolean!) { endSession(id: $id, force: $force) { __typename
      ... on EndSessionSuccess { worker { ${WORKER_FIELDS} } } ... on RefusedProblem { code } } }`,
    { id, force },
  )
  return answer
}

for (const { runner, skipped } of RUNNERS) {
  const start = async (
    presets: TestServiceOptions['presets'],
    env: Readonly<Record<string, string>> = {},
  ): Promise<TestService> => {
    await testEngine()?.ensureImage(SESSION_WORKER_IMAGE)
    return TestService.start({ runner, presets, env })
  }

  /** Waits for the one worker of a kind, as `holds` wants it. */
  async function workerOf(
    service: TestService,
    kind: string,
    holds: (worker: SeenWorker) => boolean = () => true,
  ): Promise<SeenWorker> {
    return vi.waitFor(
      async () => {
        const workers = await service.workers(kind)
        expect(workers).toHaveLength(1)
        const [worker] = workers
        if (worker === undefined || !holds(worker)) throw new Error(`not yet: ${JSON.stringify(worker)}`)
        return worker
      },
      { timeout: 10_000 },
    )
  }

  async function gone(service: TestService, workerId: string): Promise<void> {
    await vi.waitFor(
      async () => {
        expect((await service.workers()).map(({ id }) => id)).not.toContain(workerId)
      },
      { timeout: 10_000 },
    )
  }

  describe.skipIf(skipped)(`a session with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await start({
        warm: session({}, { LOAD_SECONDS: '1' }),
        slow: session({}, { LOAD_SECONDS: '3' }),
        pair: session({ session: { max_concurrency: 2, max_workers: 1 } }),
        once: session({ mode: undefined }),
        plain: script(`${CONNECTED}; ${FINISHED}`),
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test('serves a cold task and then a warm one, at once, in the same worker', async () => {
      const cold = await service.run('warm', { input: { text: 'the first one' } })
      const warm = await service.run('warm', { input: { text: 'and  the second' } })
      expect(cold).toMatchObject({ status: 'COMPLETED', text: 'the first one', attempts: [{ warm: false }] })
      expect(warm).toMatchObject({ status: 'COMPLETED', text: 'and  the second', attempts: [{ warm: true }] })
      expect(warm.worker).toEqual(cold.worker)
      expect(startMs(cold)).toBeGreaterThanOrEqual(1_000)
      expect(startMs(warm)).toBeLessThan(startMs(cold) / 4)

      const [coldEvents, warmEvents] = [await service.events(cold.id), await service.events(warm.id)]
      expect([...faultsOf(coldEvents), ...faultsOf(warmEvents)]).toEqual([])
      // What the worker says while it loads is told to the task that it is started for, which is STARTING until then.
      const loading = coldEvents.filter(({ status }) => status === 'loading')
      expect(loading.map((event) => event['progress'])).toEqual(
        Array.from({ length: 11 }, (_, step) => step / 10),
      )
      const running = coldEvents.find(({ taskStatus }) => taskStatus === 'RUNNING')
      expect(running?.seq).toBeGreaterThan(loading.at(-1)?.seq ?? Number.NaN)
      expect(warmEvents.map(({ status }) => status)).not.toContain('loading')
      expect(await workerOf(service, 'warm')).toMatchObject({
        mode: 'SESSION',
        status: 'READY',
        tasksServed: 2,
        endReason: null,
      })
    })

    test('tells its progress while it loads, and how long it took', async () => {
      const id = await service.submit('slow')
      const loading = await workerOf(service, 'slow', ({ loadProgress }) => (loadProgress ?? 0) > 0)
      expect(loading).toMatchObject({ status: 'STARTING', loadMs: null })
      expect(loading.loadProgress).toBeLessThan(1)
      expect(loading.tasks).toEqual([{ id }])
      await service.ended(id)
      expect((await workerOf(service, 'slow')).loadMs).toBeGreaterThanOrEqual(3_000)
    })

    test('works on two tasks at a time and keeps their outputs apart', async () => {
      const texts = ['one voice', 'quite another voice', 'the third']
      const ids = await Promise.all(
        texts.map((text) => service.submit('pair', { input: { text, tokens: 60, interval_ms: 10 } })),
      )
      const tasks = await Promise.all(
        ids.map(async (id) => {
          expect(faultsOf(await service.events(id))).toEqual([])
          return service.history(id)
        }),
      )
      expect(workerIdsOf(tasks).size).toBe(1)
      tasks.forEach(({ status, text }, index) => {
        const words = texts[index]?.split(' ') ?? []
        const said = Array.from({ length: 60 }, (_, token) => words[token % words.length]).join(' ')
        expect({ status, text }).toEqual({ status: 'COMPLETED', text: said })
      })
      const spans = tasks
        .map(({ runningAt, finishedAt }) => ({
          from: Date.parse(runningAt ?? ''),
          to: Date.parse(finishedAt ?? ''),
        }))
        .sort((a, b) => a.from - b.from)
      const [first, second, third] = spans
      expect(second?.from).toBeLessThan(first?.to ?? 0)
      // Never three.
      expect(third?.from).toBeGreaterThanOrEqual(Math.min(first?.to ?? Infinity, second?.to ?? Infinity))
    })

    test('stays warm through the cancel of one task, and goes on with the other', async () => {
      const [stopped, other] = [
        await service.submit('pair', { input: ENDLESS }),
        await service.submit('pair', { input: ENDLESS }),
      ]
      await Promise.all([stopped, other].map((id) => service.reached(id, 'RUNNING')))
      const worker = await workerOf(service, 'pair')
      await service.cancel(stopped)
      expect(faultsOf(await service.events(stopped))).toEqual([])
      const proof = await vi.waitFor(async () => {
        const task = await service.history(stopped)
        expect(task.stoppedAt).not.toBeNull()
        return task
      })
      expect(proof).toMatchObject({ status: 'CANCELLED', killed: false, exitCode: null })
      expect(Date.parse(proof.stoppedAt ?? '') - Date.parse(proof.cancelRequestedAt ?? '')).toBeLessThan(
        2_000,
      )
      const { lastSeq } = await service.task(other)
      await service.events(other, lastSeq, ({ seq }) => seq > lastSeq + 5)
      const next = await service.run('pair', { input: { text: 'next' } })
      expect(next).toMatchObject({ status: 'COMPLETED', attempts: [{ warm: true, workerId: worker.id }] })
      await service.cancel(other)
      expect(await service.ended(other)).toMatchObject({ status: 'CANCELLED' })
    })

    test('a task that is cancelled while its worker loads ends without waiting for it', async () => {
      const [worker] = await service.workers('slow')
      if (worker !== undefined) {
        await endSession(service, worker.id)
        await gone(service, worker.id)
      }
      const id = await service.submit('slow')
      await workerOf(service, 'slow', ({ status }) => status === 'STARTING')
      await service.cancel(id)
      const task = await service.ended(id)
      expect(task).toMatchObject({ status: 'CANCELLED', attempt: 1 })
      expect(faultsOf(await service.events(id))).toEqual([])
      expect(await service.run('slow')).toMatchObject({ status: 'COMPLETED' })
    })

    test('the same worker serves a preset that is none of sessions: one task, then it is gone', async () => {
      const task = await service.run('once', { input: { text: 'just once' } })
      expect(task).toMatchObject({ status: 'COMPLETED', text: 'just once', exitCode: 0 })
      await gone(service, task.attempts[0]?.workerId ?? '')
    })

    test('is started and ended by hand', async () => {
      for (const { id } of await service.workers('warm')) {
        expect(await endSession(service, id)).toMatchObject({ __typename: 'EndSessionSuccess' })
        await gone(service, id)
      }
      const { worker } = await startSession(service, 'warm')
      expect(worker).toMatchObject({ presetId: 'test/warm', mode: 'SESSION', status: 'STARTING', tasks: [] })
      await workerOf(service, 'warm', ({ status }) => status === 'READY')
      const task = await service.run('warm')
      expect(task.attempts).toMatchObject([{ warm: true, workerId: worker?.id }])

      // A busy one does first what it has.
      const busy = await service.submit('warm', { input: { text: 'busy', tokens: 50, interval_ms: 20 } })
      await service.reached(busy, 'RUNNING')
      expect(await endSession(service, worker?.id ?? '')).toMatchObject({ __typename: 'EndSessionSuccess' })
      expect(await service.ended(busy)).toMatchObject({ status: 'COMPLETED', attempt: 1 })
      await gone(service, worker?.id ?? '')
    })

    test('is ended at once by force, and its task is tried on another one', async () => {
      const id = await service.submit('pair', { input: { text: 'again', tokens: 50, interval_ms: 20 } })
      await service.events(id, 0, ({ __typename }) => __typename === 'TextDeltaEvent')
      const worker = await workerOf(service, 'pair')
      expect(await endSession(service, worker.id, true)).toMatchObject({ __typename: 'EndSessionSuccess' })
      expect(await service.ended(id)).toMatchObject({ status: 'COMPLETED', attempt: 2, error: null })
      expect((await service.history(id)).attempts[1]?.workerId).not.toBe(worker.id)
      await gone(service, worker.id)
    })

    test('is refused by hand where there is no such preset, session or worker', async () => {
      expect(await startSession(service, 'nothing')).toMatchObject({ __typename: 'UnknownPresetProblem' })
      expect(await startSession(service, 'plain')).toMatchObject({ code: 'NOT_A_SESSION' })
      expect(await endSession(service, '0192d3a5-0000-7000-8000-000000000000')).toMatchObject({
        __typename: 'UnknownWorkerProblem',
      })
    })
  })

  describe.skipIf(skipped)(`a session that misbehaves with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      const quick = { timeouts: { acknowledge: '1s', stop_grace: '1s' }, session: { max_workers: 1 } }
      service = await start({
        again: session(quick),
        never: session({ ...quick, retry: { on: [] } }),
        deaf: session(quick, { FAULTS: 'deaf' }),
        hopeless: session(quick, { FAULTS: 'exit_loading' }),
        tidy: session({ session: { max_workers: 1, max_concurrency: 4 } }),
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    /** Both attempts of a task that was done by a second worker; the first one is gone. */
    async function retried(id: string): Promise<SeenHistory['attempts']> {
      expect(faultsOf(await service.events(id))).toEqual([])
      const { status, text, attempts } = await service.history(id)
      expect({ status, text }).toEqual({ status: 'COMPLETED', text: 'hear hear hear hear' })
      expect(attempts).toMatchObject([
        { status: 'FAILED' },
        { status: 'COMPLETED', error: null, warm: false },
      ])
      expect(attempts[1]?.workerId).not.toBe(attempts[0]?.workerId)
      await gone(service, attempts[0]?.workerId ?? '')
      return attempts
    }
    const HEAR = { text: 'hear', tokens: 4 }

    test('is killed in the middle of a task: a fresh one does it again', async () => {
      const id = await service.submit('again', { input: { ...HEAR, interval_ms: 300 } })
      await service.events(id, 0, ({ __typename }) => __typename === 'TextDeltaEvent')
      await killWorker(runner, await workerOf(service, 'again'))
      expect(await retried(id)).toMatchObject([
        {
          error: { code: 'WORKER_DIED' },
          failureClass: 'SESSION_DIED',
          // The whole group of processes is killed, and with it the one that would have told.
          exitCode: runner === 'docker' ? 137 : null,
        },
        { exitCode: null },
      ])
    })

    test.each(['silent', 'foreign'])(
      'does not take a task (%s): it is retired, and another one does it',
      async (fault) => {
        const id = await service.submit('again', { input: { ...HEAR, fault, until_attempt: 1 } })
        expect(await retried(id)).toMatchObject([
          { error: { code: 'UNACKNOWLEDGED' }, failureClass: 'UNACKNOWLEDGED', runningAt: null },
          {},
        ])
      },
    )

    test('does not read its input at all: the task fails after as many workers as it may have', async () => {
      const task = await service.run('deaf')
      expect(task).toMatchObject({ status: 'FAILED', error: { code: 'UNACKNOWLEDGED' } })
      expect(task.attempts).toHaveLength(2)
      expect(workerIdsOf([task]).size).toBe(2)
      await vi.waitFor(
        async () => {
          expect(await service.workers('deaf')).toEqual([])
        },
        { timeout: 10_000 },
      )
    })

    test('reports a broken GPU context: it is retired, and the task is tried on another one', async () => {
      const input = { ...HEAR, fault: 'fail', error: CUDA_ERROR, until_attempt: 1 }
      const attempts = await retried(await service.submit('again', { input }))
      expect(attempts[0]?.error?.message).toContain('illegal memory access')
    })

    test.each([
      ['exits', { fault: 'exit', exit_code: 7 }, 'WORKER_DIED', 7],
      ['is killed', { fault: 'signal', signal: 9 }, 'WORKER_DIED', 137],
    ])('%s where nothing is tried again: the task fails', async (_how, fault, code, exitCode) => {
      const task = await service.run('never', { input: { ...HEAR, ...fault } })
      expect(task).toMatchObject({ status: 'FAILED', error: { code }, exitCode })
      expect(task.attempts).toHaveLength(1)
      expect(await service.run('never', { input: HEAR })).toMatchObject({ status: 'COMPLETED' })
    })

    test('dies while it loads: the task fails, and nothing goes round in circles', async () => {
      const task = await service.run('hopeless')
      expect(task.status).toBe('FAILED')
      expect(task.attempts.length).toBeLessThanOrEqual(2)
      expect(task.attempts.at(-1)?.exitCode).toBe(3)
      await vi.waitFor(async () => {
        expect(await service.workers('hopeless')).toEqual([])
      })
    })

    test('fails a task for its input: it goes on, and the task is not tried again', async () => {
      const before = await service.run('tidy')
      const task = await service.run('tidy', { input: { text: 7 } })
      expect(task).toMatchObject({ status: 'FAILED', error: { code: 'WORKER_FAILED' } })
      expect(task.error?.message).toContain('INVALID_INPUT')
      expect(task.attempts).toHaveLength(1)
      expect((await service.run('tidy')).worker).toEqual(before.worker)
    })

    test('prints more after a finish: nothing of it reaches that task or another', async () => {
      const [late, other] = await Promise.all([
        service.run('tidy', { input: { ...HEAR, fault: 'late' } }),
        service.run('tidy', { input: { ...HEAR, interval_ms: 50 } }),
      ])
      for (const { id, status, text } of [late, other]) {
        expect({ status, text }).toEqual({ status: 'COMPLETED', text: 'hear hear hear hear' })
        const events = await service.events(id)
        expect(faultsOf(events)).toEqual([])
        expect(events.filter((event) => event.__typename === 'FinishEvent')).toHaveLength(1)
      }
    })

    test('leaves a hole in its numbers: none of its tasks is COMPLETED', async () => {
      const other = await service.submit('tidy', { input: { ...HEAR, interval_ms: 200 } })
      await service.reached(other, 'RUNNING')
      const holed = await service.run('tidy', { input: { ...HEAR, fault: 'seq_hole' } })
      await service.ended(other)
      for (const id of [holed.id, other]) {
        expect(await service.task(id)).toMatchObject({ status: 'FAILED', error: { code: 'OUTPUT_LOST' } })
        expect((await service.events(id)).map(({ __typename }) => __typename)).toContain('GapEvent')
      }
    })

    test('has a task that does not heed its cancel: it is ended, and the task CANCELLED', async () => {
      const id = await service.submit('again', { input: { ...ENDLESS, fault: 'ignore_cancel' } })
      await service.reached(id, 'RUNNING')
      const { id: workerId } = await workerOf(service, 'again')
      await service.cancel(id)
      expect(await service.ended(id)).toMatchObject({ status: 'CANCELLED' })
      await gone(service, workerId)
      expect((await service.history(id)).stoppedAt).not.toBeNull()
    })
  })

  describe.skipIf(skipped)(`how sessions live with the ${runner} runner`, () => {
    const brief = { session: { idle: '1s' } }
    const presets: TestServiceOptions['presets'] = {
      brief: session(brief),
      pinned: session({ session: { idle: '1s', pinned: true } }),
      prewarmed: session({ session: { prewarm: 1, max_workers: 1 } }),
      two: session({ session: { max_tasks: 2 } }),
      own: session({ session: { isolation: 'owner' } }),
      keys: session({ session: { max_workers: 2 } }),
      edited: session({}, { MODEL_NAME: 'before' }),
      busy: session({}, { MODEL_NAME: 'before' }),
      untouched: session({}, { MODEL_NAME: 'before' }),
    }
    let service: TestService
    beforeAll(async () => {
      service = await start(presets)
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test('one that is wanted warm is there before any task', async () => {
      const worker = await workerOf(service, 'prewarmed', ({ status }) => status === 'READY')
      expect(worker).toMatchObject({ tasksServed: 0, tasks: [] })
      expect((await service.run('prewarmed')).attempts).toMatchObject([{ warm: true, workerId: worker.id }])
    })

    test('ends when it was idle for long enough, but not where it is pinned', async () => {
      const pinned = await service.run('pinned')
      const task = await service.run('brief')
      const idle = await workerOf(service, 'brief', ({ idleSince }) => idleSince !== null)
      expect(Date.parse(idle.endsAt ?? '') - Date.parse(idle.idleSince ?? '')).toBe(1_000)
      await gone(service, idle.id)
      expect(await workerOf(service, 'pinned')).toMatchObject({
        id: pinned.attempts[0]?.workerId,
        pinned: true,
        endsAt: null,
      })
      const next = await service.run('brief')
      expect(next.attempts[0]?.workerId).not.toBe(task.attempts[0]?.workerId)
    })

    test('ends after as many tasks as it may serve', async () => {
      const tasks = [await service.run('two'), await service.run('two'), await service.run('two')]
      const [first, second, third] = tasks.map(({ attempts }) => attempts[0]?.workerId)
      expect(second).toBe(first)
      expect(third).not.toBe(first)
      await gone(service, first ?? '')
    })

    test('serves its own owner alone where the preset says so, else everybody', async () => {
      const [own, shared] = [await service.run('own'), await service.run('untouched')]
      expect((await workerOf(service, 'own')).owner).toBe(own.owner)
      expect((await workerOf(service, 'untouched')).owner).toBeNull()
      expect(own.owner).toBe(shared.owner)
    })

    test('prefers the tasks of a key that it has served last', async () => {
      const run = (affinity: string, ms: number): Promise<SeenHistory> =>
        service.run('keys', { affinity, input: { text: affinity, tokens: 2, interval_ms: ms } })
      const [red, blue] = await Promise.all([run('red', 500), run('blue', 500)])
      expect(workerIdsOf([red, blue]).size).toBe(2)
      const order = ['red', 'blue', 'blue', 'red', 'blue', 'red']
      const servers: (string | undefined)[] = []
      for (const affinity of order) servers.push((await run(affinity, 0)).worker?.id)
      expect(servers).toEqual(order.map((affinity) => (affinity === 'red' ? red : blue).worker?.id))
    })

    test('an edit of its preset replaces the idle one, lets the busy one finish, and leaves others alone', async () => {
      const [edited, untouched] = [await service.run('edited'), await service.run('untouched')]
      const busy = await service.submit('busy', { input: { text: 'busy', tokens: 100, interval_ms: 20 } })
      await service.reached(busy, 'RUNNING')
      const edit = { MODEL_NAME: 'after' }
      await service.writePresets({ ...presets, edited: session({}, edit), busy: session({}, edit) })
      await service.query('mutation { reloadPresets { ... on ReloadPresetsSuccess { changed } } }')

      await gone(service, edited.attempts[0]?.workerId ?? '')
      const next = await service.run('edited')
      expect(next.attempts[0]?.workerId).not.toBe(edited.attempts[0]?.workerId)
      const messages = (await service.events(next.id)).map((event) => event['message'])
      expect(messages).toContain('Loading after: 0%')

      const finished = await service.ended(busy)
      expect(finished).toMatchObject({ status: 'COMPLETED', attempt: 1 })
      await gone(service, finished.worker?.id ?? '')
      expect((await service.run('untouched')).worker).toEqual(untouched.worker)
    })

    test.each(['SIGTERM', 'SIGKILL'] as const)(
      'the same worker goes on after the service was restarted by %s, with the task that it has and with the next',
      async (signal) => {
        const { worker } = await service.run('untouched')
        const id = await service.submit('untouched', {
          input: { text: 'still here', tokens: 100, interval_ms: 20 },
        })
        await service.events(id, 0, ({ __typename }) => __typename === 'TextDeltaEvent')
        await service.down(signal)
        await service.up()
        expect(faultsOf(await service.events(id))).toEqual([])
        expect(await service.history(id)).toMatchObject({ status: 'COMPLETED', worker, attempt: 1 })
        const next = await service.run('untouched')
        expect(next).toMatchObject({ status: 'COMPLETED', worker, attempts: [{ warm: true }] })
      },
    )
  })

  describe.skipIf(skipped)(`many tasks with the ${runner} runner`, () => {
    test(
      '1,000 go through one session, whose memory and the service’s stay flat',
      { timeout: 120_000 },
      async () => {
        await using service = await start(
          { one: session({ session: { max_workers: 1, max_concurrency: 4 } }) },
          MEASURED,
        )
        const submitted: string[] = []
        const serve = async (count: number): Promise<void> => {
          const lane = async (): Promise<void> => {
            for (let n = 0; n < count / 20; n++) {
              const id = await service.submit('one', {
                input: { text: `task ${submitted.length}`, tokens: 20 },
              })
              submitted.push(id)
            }
          }
          await Promise.all(Array.from({ length: 20 }, lane))
          await vi.waitFor(
            async () => {
              const { tasks } = await service.query<{ tasks: { totalCount: number } }>(
                '{ tasks(filter: { status: [QUEUED, STARTING, RUNNING] }) { totalCount } }',
              )
              expect(tasks.totalCount).toBe(0)
            },
            { timeout: 60_000, interval: 100 },
          )
        }
        const memory = async (): Promise<{ worker: number; service: number }> => ({
          worker: await memoryOf(runner, await workerOf(service, 'one')),
          service: await heapMb(service),
        })

        await serve(300)
        const before = await memory()
        await serve(700)
        const after = await memory()
        expect(after.worker).toBeLessThan(before.worker + 4)
        // What 700 tasks leave behind, if anything, is less than 10 KB each.
        expect(((after.service - before.service) * 1_024) / 700).toBeLessThan(10)

        expect((await workerOf(service, 'one')).tasksServed).toBe(1_000)
        const { tasks } = await service.query<{ tasks: { totalCount: number } }>(
          '{ tasks(filter: { status: [COMPLETED] }) { totalCount } }',
        )
        expect(tasks.totalCount).toBe(1_000)
        for (const id of submitted.filter((_, index) => index % 50 === 0)) {
          expect(faultsOf(await service.events(id))).toEqual([])
        }
      },
    )

    test('leave no worker of theirs behind when the service stops them', async () => {
      const service = await start({ one: session() }, { SHUTDOWN: 'stop' })
      try {
        await service.run('one')
        const { containerId } = await workerOf(service, 'one')
        expect(await service.down('SIGTERM')).toBe(0)
        expect(await isThere(runner, containerId ?? '')).toBe(false)
      } finally {
        await service[Symbol.asyncDispose]()
      }
    })
  })
}
