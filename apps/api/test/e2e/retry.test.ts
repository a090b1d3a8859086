import { SESSION_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, RUNNERS, noDocker, say, script } from './scripts.ts'
import { faultsOf, TestService, type PresetSource, type SeenHistory } from './service.ts'
import { ENDLESS, isThere, session } from './sessions.ts'

/** Fails in each attempt before this one. */
const failsBefore = (attempt: number, more: PresetSource): PresetSource =>
  script(
    `${CONNECTED}; case "$TASK_ID" in *.${attempt}) ${say('done')}; ${FINISHED};; *) exit 9;; esac`,
    more,
  )

interface RetryAnswer {
  readonly __typename: string
  readonly task?: SeenHistory
  readonly code?: string
}

async function retry(service: TestService, id: string): Promise<RetryAnswer> {
  const { retryTask } = await service.query<{ retryTask: RetryAnswer }>(
    `mutation ($id: ID!) { retryTask(id: $id) { __typename ... on SubmitTaskSuccess { task { id retryOf status } }
      ... on RefusedProblem { code } } }`,
    { id },
  )
  return retryTask
}

/** Leaves two checkpoints of one name and then fails, unless it finds one: that it tells, and completes. */
const GOES_ON = `${CONNECTED}; if [ -n "$PREVIOUS_DIR" ]; then
  read -r found < "$PREVIOUS_DIR/checkpoint"; echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$found\\"}"; ${FINISHED}
else
  for part in one two; do echo $part > "$OUTPUT_DIR/$part"; echo "{\\"event\\":\\"artifact\\",\\"path\\":\\"$part\\",\\"name\\":\\"checkpoint\\"}"; done; exit 9
fi`

/** Milliseconds between the end of an attempt and the start of the next one. */
function pausesOf({ attempts }: SeenHistory): number[] {
  return attempts
    .slice(1)
    .map(({ startedAt }, index) => Date.parse(startedAt) - Date.parse(attempts[index]?.finishedAt ?? ''))
}

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`another attempt with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({
        runner,
        presets: {
          third: failsBefore(3, { retry: { on: ['worker_failed'], max_attempts: 3, backoff: '500ms' } }),
          fourth: failsBefore(4, { retry: { on: ['worker_failed'], max_attempts: 3, backoff: '0s' } }),
          off: failsBefore(2, { retry: { on: [] } }),
          otherwise: failsBefore(2, { retry: { on: ['gpu_lost', 'out_of_memory'] } }),
          later: failsBefore(2, { retry: { on: ['worker_failed'], backoff: '5m' } }),
          refuses: script(
            `${CONNECTED}; echo '{"event":"finish","status":"failed","error":{"code":"INVALID_INPUT","message":"no prompt"}}'`,
            { retry: { on: ['worker_failed'], backoff: '0s' } },
          ),
          long: script(`${CONNECTED}; sleep 600`),
          'goes-on': script(GOES_ON, { retry: { on: ['worker_failed'], backoff: '0s' } }),
          'goes-on-by-hand': script(GOES_ON, { retry: { on: [] } }),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test('follows a failure of a class that the preset names, after a wait that doubles', async () => {
      const task = await service.run('third')
      expect(task).toMatchObject({ status: 'COMPLETED', attempt: 3, text: 'done', error: null })
      expect(task.attempts).toMatchObject([
        { attempt: 1, status: 'FAILED', failureClass: 'WORKER_FAILED', exitCode: 9 },
        { attempt: 2, status: 'FAILED', failureClass: 'WORKER_FAILED', exitCode: 9 },
        { attempt: 3, status: 'COMPLETED', failureClass: null, exitCode: 0 },
      ])
      const [first, second] = pausesOf(task)
      expect(first).toBeGreaterThanOrEqual(500)
      expect(second).toBeGreaterThanOrEqual(1_000)
      const events = await service.events(task.id)
      expect(faultsOf(events)).toEqual([])
      expect(events.flatMap(({ taskStatus }) => taskStatus ?? [])).toEqual([
        ...[
          'QUEUED',
          'STARTING',
          'RUNNING',
          'QUEUED',
          'STARTING',
          'RUNNING',
          'QUEUED',
          'STARTING',
          'RUNNING',
        ],
        'COMPLETED',
      ])
      expect(events.map((event) => event['attempt'])).toEqual(
        events.map((event) => event['attempt']).toSorted((a, b) => Number(a) - Number(b)),
      )
    })

    test.each([
      ['fourth', 3],
      ['off', 1],
      ['otherwise', 1],
      ['refuses', 1],
    ])('does not go beyond what the preset allows (%s: %d)', async (kind, attempts) => {
      const task = await service.run(kind)
      expect(task).toMatchObject({ status: 'FAILED', attempt: attempts, error: { code: 'WORKER_FAILED' } })
      expect(task.attempts).toHaveLength(attempts)
    })

    test('waits for its time where it can be seen and cancelled, also across a restart', async () => {
      const id = await service.submit('later')
      await service.events(id, 0, ({ taskStatus, attempt }) => taskStatus === 'QUEUED' && attempt === 1)
      await service.down('SIGKILL')
      await service.up()
      const { status, attempt, retryAt, explanation } = await service.history(id)
      expect({ status, attempt }).toEqual({ status: 'QUEUED', attempt: 1 })
      expect(Date.parse(retryAt ?? '')).toBeGreaterThan(Date.now() + 200_000)
      expect(explanation).toMatch(/attempt|again/i)
      expect(await service.cancel(id)).toMatchObject({ status: 'CANCELLED' })
      expect((await service.history(id)).attempts).toHaveLength(1)
    })

    test('finds the artifacts that the one before it has left', async () => {
      expect(await service.run('goes-on')).toMatchObject({ status: 'COMPLETED', attempt: 2, text: 'two' })
    })

    test('by hand finds those of the old task', async () => {
      const failed = await service.run('goes-on-by-hand')
      expect(failed).toMatchObject({ status: 'FAILED', attempt: 1 })
      const { task } = await retry(service, failed.id)
      expect(await service.ended(task?.id ?? '')).toMatchObject({ status: 'COMPLETED', text: 'two' })
    })

    test('by hand is a new task that names the old one, which stays as it ended', async () => {
      const failed = await service.run('off', { input: { prompt: 'again' }, labels: { team: 'red' } })
      const { task } = await retry(service, failed.id)
      expect(task).toMatchObject({ retryOf: failed.id })
      expect(task?.id).not.toBe(failed.id)
      const again = await service.ended(task?.id ?? '')
      expect(again).toMatchObject({ status: 'FAILED', attempt: 1 })
      const { task: repeated } = await service.query<{ task: { input: unknown; labels: unknown } }>(
        'query ($id: ID!) { task(id: $id) { input labels } }',
        { id: again.id },
      )
      expect(repeated).toEqual({ input: { prompt: 'again' }, labels: { team: 'red' } })
      expect(await service.history(failed.id)).toEqual(failed)
    })

    test('by hand is refused while the task goes on, and for one that is not there', async () => {
      const id = await service.submit('long')
      await service.reached(id, 'RUNNING')
      expect(await retry(service, id)).toMatchObject({ code: 'NOT_ENDED' })
      expect(await retry(service, '0192d3a5-0000-7000-8000-000000000000')).toMatchObject({
        __typename: 'UnknownTaskProblem',
      })
      await service.cancel(id)
      await service.ended(id)
    })
  })

  describe.skipIf(skipped)(`deadlines with the ${runner} runner`, () => {
    const second = { stop_grace: '0s', finish_grace: '0s' }
    let service: TestService
    beforeAll(async () => {
      await testEngine()?.ensureImage(SESSION_WORKER_IMAGE)
      service = await TestService.start({
        runner,
        env: { GPUS: 'simulated:1x8192' },
        presets: {
          holder: script(`${CONNECTED}; sleep 600`, { gpus: { count: 1 } }),
          queued: script(FINISHED, { gpus: { count: 1 }, timeouts: { queue: '1s' } }),
          mute: script('sleep 600', { timeouts: { ...second, start: '1s' } }),
          silent: script(`${CONNECTED}; sleep 600`, { timeouts: { ...second, silence: '1s' } }),
          chatty: script(`${CONNECTED}; for i in 1 2 3 4 5; do sleep 0.4; ${say('.')}; done; ${FINISHED}`, {
            timeouts: { ...second, silence: '1s' },
          }),
          long: script(`${CONNECTED}; while :; do ${say('.')}; sleep 0.2; done`, {
            timeouts: { ...second, run: '1s' },
          }),
          unready: session({ timeouts: { ...second, start: '1s' } }, { FAULTS: 'hang_loading' }),
          warm: session({ timeouts: { ...second, silence: '1s', run: '6s' } }),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test('of the queue: QUEUE_TIMEOUT, without an attempt', async () => {
      const holder = await service.submit('holder')
      await service.reached(holder, 'RUNNING')
      const task = await service.run('queued')
      expect(task).toMatchObject({ status: 'TIMED_OUT', attempt: 0, error: { code: 'QUEUE_TIMEOUT' } })
      expect(Date.parse(task.finishedAt ?? '') - Date.parse(task.createdAt)).toBeGreaterThanOrEqual(1_000)
      expect(faultsOf(await service.events(task.id))).toEqual([])
      await service.cancel(holder)
      await service.ended(holder)
      expect(await service.run('queued')).toMatchObject({ status: 'COMPLETED' })
    })

    test.each([
      ['mute', 'START_TIMEOUT', {}],
      ['unready', 'START_TIMEOUT', {}],
      ['silent', 'SILENCE_TIMEOUT', {}],
      ['long', 'RUN_TIMEOUT', {}],
      ['warm', 'SILENCE_TIMEOUT', { input: { text: 'a b', fault: 'hang' } }],
      ['warm', 'RUN_TIMEOUT', { input: ENDLESS }],
    ])('of %s: %s, and its worker is not in the way', async (kind, code, input) => {
      const task = await service.run(kind, input)
      expect(task).toMatchObject({ status: 'TIMED_OUT', attempt: 1, error: { code } })
      expect(faultsOf(await service.events(task.id))).toEqual([])
      await vi.waitFor(async () => {
        expect((await service.workers(kind)).flatMap(({ tasks }) => tasks)).toEqual([])
        expect((await service.history(task.id)).stoppedAt).not.toBeNull()
      })
    })

    test('of silence counts from the last line', async () => {
      expect(await service.run('chatty')).toMatchObject({ status: 'COMPLETED', text: '.....' })
    })
  })

  describe.skipIf(skipped)(`stubborn workers with the ${runner} runner`, () => {
    const GRACE_MS = 1_000
    const LANES = 2
    /** A longer run: `STUBBORN_CANCELS=200 npx vitest run --root apps/api test/e2e/retry.test.ts`. */
    const CANCELS = Number(process.env['STUBBORN_CANCELS'] ?? 20)
    let service: TestService
    beforeAll(async () => {
      await testEngine()?.ensureImage(SESSION_WORKER_IMAGE)
      service = await TestService.start({
        runner,
        env: { GPUS: 'simulated:4x8192' },
        presets: {
          stubborn: script(`trap '' TERM; ${CONNECTED}; while :; do sleep 0.2; done`, {
            gpus: { count: 1 },
            timeouts: { stop_grace: '1s' },
          }),
          session: session(
            { gpus: { count: 1 }, timeouts: { stop_grace: '1s' } },
            { FAULTS: 'ignore_cancel,ignore_shutdown' },
          ),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    /** Cancels a task of the kind and gives how long after that its container or process was gone, in milliseconds. Its claim is free then. */
    async function stop(kind: string, input: Record<string, unknown>): Promise<number> {
      const id = await service.submit(kind, input)
      await service.reached(id, 'RUNNING')
      const { worker, gpuIds } = await service.task(id)
      expect(gpuIds).toHaveLength(1)
      const begin = performance.now()
      await service.cancel(id)
      await vi.waitFor(
        async () => {
          expect(await isThere(runner, worker?.containerId ?? '')).toBe(false)
        },
        { timeout: 20_000, interval: 50 },
      )
      const took = performance.now() - begin
      await vi.waitFor(
        async () => {
          expect((await service.workers()).map((one) => one.id)).not.toContain(worker?.id)
          expect((await service.history(id)).gpuFreeAt).not.toBeNull()
        },
        { timeout: 2_000, interval: 50 },
      )
      expect(await service.history(id)).toMatchObject({ status: 'CANCELLED', killed: true })
      return took
    }

    test(
      `${CANCELS} are gone within their grace and 2 s, killed, with their GPUs free`,
      async () => {
        const took: number[] = []
        const lane = async (): Promise<void> => {
          for (let n = 0; n < CANCELS / LANES; n++) took.push(await stop('stubborn', {}))
        }
        await Promise.all(Array.from({ length: LANES }, lane))
        expect(took).toHaveLength(CANCELS)
        const p99 = took.sort((a, b) => a - b)[Math.ceil(CANCELS * 0.99) - 1]
        expect(p99).toBeLessThan(GRACE_MS + 2_000)
        expect(
          (await service.gpus()).map(({ status, memoryClaimedMb }) => ({ status, memoryClaimedMb })),
        ).toEqual(Array.from({ length: 4 }, () => ({ status: 'AVAILABLE', memoryClaimedMb: 0 })))
      },
      60_000 + CANCELS * 3_000,
    )

    test('a session has its grace for the cancel, and is gone within 2 s after that', async () => {
      const took = await stop('session', { input: ENDLESS })
      expect(took).toBeGreaterThanOrEqual(GRACE_MS)
      expect(took).toBeLessThan(GRACE_MS + 2_000)
    })
  })
}

describe.skipIf(noDocker)('a worker that runs out of memory', () => {
  test('is tried again where the preset says so', async () => {
    await using service = await TestService.start({
      runner: 'docker',
      presets: {
        hungry: script(`${CONNECTED}; case "$TASK_ID" in *.1) exec tail /dev/zero;; esac; ${FINISHED}`, {
          resources: { memory: '32MiB' },
          retry: { on: ['out_of_memory'], backoff: '0s' },
        }),
      },
    })
    const task = await service.run('hungry')
    expect(task).toMatchObject({ status: 'COMPLETED', attempt: 2 })
    expect(task.attempts).toMatchObject([
      { error: { code: 'OUT_OF_MEMORY' }, failureClass: 'OUT_OF_MEMORY', exitCode: 137 },
      { error: null },
    ])
  })
})
