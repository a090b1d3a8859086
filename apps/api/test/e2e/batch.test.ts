import { SESSION_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, noDocker, script } from './scripts.ts'
import { TestService, type SeenEvent } from './service.ts'
import { ENDLESS, session } from './sessions.ts'

interface BatchAnswer {
  readonly __typename: string
  readonly tasks?: readonly { readonly task: { readonly id: string }; readonly duplicate: boolean }[]
  readonly code?: string
}

async function submitAll(
  service: TestService,
  inputs: readonly Record<string, unknown>[],
): Promise<BatchAnswer> {
  const { submitTasks } = await service.query<{ submitTasks: BatchAnswer }>(
    `mutation ($inputs: [SubmitTaskInput!]!) { submitTasks(inputs: $inputs) { __typename
      ... on SubmitTasksSuccess { tasks { task { id } duplicate } } ... on RefusedProblem { code } } }`,
    { inputs },
  )
  return submitTasks
}

async function cancelAll(
  service: TestService,
  filter: Record<string, unknown>,
  reason?: string,
): Promise<{ readonly count: number; readonly ids: readonly string[] }> {
  const { cancelTasks } = await service.query<{ cancelTasks: { count: number; ids: string[] } }>(
    'mutation ($filter: TaskFilter!, $reason: String) { cancelTasks(filter: $filter, reason: $reason) { count ids } }',
    { filter, reason },
  )
  return cancelTasks
}

const UNFINISHED = { status: ['QUEUED', 'STARTING', 'RUNNING'] }

async function countTasks(service: TestService): Promise<number> {
  return (await service.query<{ tasks: { totalCount: number } }>('{ tasks { totalCount } }')).tasks.totalCount
}

async function cancelRest(service: TestService): Promise<void> {
  const { ids } = await cancelAll(service, UNFINISHED)
  for (const id of ids) await service.ended(id)
}

describe('batches', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      env: { GPUS: 'simulated:1x8192' },
      presets: {
        quick: script(`${CONNECTED}; ${FINISHED}`, {
          input: { type: 'object', properties: { prompt: { type: 'string' } } },
        }),
        long: script(`${CONNECTED}; sleep 600`, { gpus: { count: 1 } }),
        two: script(FINISHED, { gpus: { count: 2 } }),
      },
    })
  })
  afterEach(() => cancelRest(service))
  afterAll(() => service[Symbol.asyncDispose]())

  test('give a task for each input, in their order', async () => {
    const inputs = Array.from({ length: 30 }, (_, n) => ({
      presetId: 'test/quick',
      input: { prompt: `number ${n}` },
    }))
    const { tasks } = await submitAll(service, inputs)
    expect(tasks).toHaveLength(30)
    const ids = tasks?.map(({ task }) => task.id) ?? []
    expect(ids).toEqual(ids.toSorted())
    for (const [n, id] of ids.entries()) {
      expect(await service.ended(id)).toMatchObject({ status: 'COMPLETED' })
      const { task } = await service.query<{ task: { input: unknown } }>(
        'query ($id: ID!) { task(id: $id) { input } }',
        { id },
      )
      expect(task.input).toEqual({ prompt: `number ${n}` })
    }
  })

  test.each([
    ['UnknownPresetProblem', { presetId: 'test/nothing' }, undefined],
    ['InvalidInputProblem', { presetId: 'test/quick', input: { prompt: 7 } }, undefined],
    ['RefusedProblem', { presetId: 'test/two' }, 'NO_SUCH_GPU'],
    ['RefusedProblem', { presetId: 'test/quick', idempotencyKey: 'taken' }, 'IDEMPOTENCY_CONFLICT'],
  ])('are refused as a whole for one input (%s), with nothing written', async (problem, bad, code) => {
    const good = { presetId: 'test/quick', input: { prompt: 'good' } }
    await service.submit('quick', { idempotencyKey: 'taken', input: { prompt: 'first' } })
    const before = await countTasks(service)
    const answer = await submitAll(service, [good, good, bad, good])
    expect(answer).toEqual({ __typename: problem, ...(code !== undefined && { code }) })
    expect(await countTasks(service)).toBe(before)
  })

  test('that are submitted 50 times at once under one key each are stored once', async () => {
    const before = await countTasks(service)
    const inputs = ['red', 'blue'].map((key) => ({ presetId: 'test/quick', idempotencyKey: key }))
    const answers = await Promise.all(Array.from({ length: 50 }, () => submitAll(service, inputs)))
    expect(new Set(answers.flatMap(({ tasks }) => tasks?.map(({ task }) => task.id))).size).toBe(2)
    expect(answers.flatMap(({ tasks }) => tasks?.filter(({ duplicate }) => !duplicate))).toHaveLength(2)
    expect(await countTasks(service)).toBe(before + 2)
  })

  test('are cancelled by a filter, and nothing else is', async () => {
    const labelled = (team: string): Record<string, unknown> => ({ presetId: 'test/long', labels: { team } })
    const { tasks } = await submitAll(service, [labelled('red'), labelled('blue'), labelled('red')])
    const [running, other, queued] = tasks?.map(({ task }) => task.id) ?? []
    await service.reached(running ?? '', 'RUNNING')
    const done = await service.run('quick', { labels: { team: 'red' } })

    const answer = await cancelAll(service, { label: { key: 'team', value: 'red' } }, 'not needed')
    expect(answer.count).toBe(2)
    expect([...answer.ids].sort()).toEqual([running, queued].sort())
    for (const id of answer.ids) {
      expect(await service.ended(id)).toMatchObject({
        status: 'CANCELLED',
        explanation: expect.stringContaining('not needed') as string,
      })
    }
    expect(await service.history(done.id)).toEqual(done)
    await service.reached(other ?? '', 'RUNNING')
    expect(await service.task(other ?? '')).toMatchObject({ status: 'RUNNING', cancelRequestedAt: null })
    expect(await cancelAll(service, { label: { key: 'team', value: 'nobody' } })).toEqual({
      count: 0,
      ids: [],
    })
  })
})

interface DryRun {
  readonly __typename: string
  readonly action?: 'START_WORKER' | 'USE_SESSION' | 'WAIT'
  readonly reason?: string
  readonly gpuIds?: readonly string[]
  readonly workerId?: string | null
  readonly evicts?: readonly string[]
  readonly startEstimate?: StartEstimate | null
  readonly code?: string
}

interface StartEstimate {
  readonly at: string
  readonly earliest: string
  readonly latest: string
  readonly warm: boolean
  readonly how: string
  readonly calibration: { readonly samples: number; readonly within: number | null }
}

const ESTIMATE = 'startEstimate { at earliest latest warm how calibration { samples within } }'

describe.skipIf(noDocker)('a dry run', () => {
  let service: TestService
  beforeAll(async () => {
    await testEngine()?.ensureImage(SESSION_WORKER_IMAGE)
    const whole = { gpus: { count: 1 }, session: { min_residency: '0s' } }
    service = await TestService.start({
      runner: 'docker',
      env: { GPUS: 'simulated:1x8192' },
      presets: {
        a: session(whole),
        b: session(whole),
        free: script(`${CONNECTED}; ${FINISHED}`),
        gpu: script(`${CONNECTED}; ${FINISHED}`, { gpus: { count: 1 } }),
        two: script(FINISHED, { gpus: { count: 2 } }),
      },
    })
  })
  afterEach(async () => {
    await cancelRest(service)
    for (const { id } of await service.workers()) {
      await service.query('mutation ($id: ID!) { endSession(id: $id) { __typename } }', { id })
    }
    await vi.waitFor(
      async () => {
        expect(await service.workers()).toEqual([])
        expect(await service.gpu()).toMatchObject({ status: 'AVAILABLE' })
      },
      { timeout: 10_000 },
    )
  })
  afterAll(() => service[Symbol.asyncDispose]())

  async function ask(input: Record<string, unknown>): Promise<DryRun> {
    const { dryRun } = await service.query<{ dryRun: DryRun }>(
      `query ($input: SubmitTaskInput!) { dryRun(input: $input) { __typename
        ... on DryRunSuccess { action reason gpuIds workerId evicts ${ESTIMATE} } ... on RefusedProblem { code } } }`,
      { input },
    )
    return dryRun
  }

  /** What it says, and then the task itself. */
  async function tryAndSubmit(kind: string): Promise<{ dry: DryRun; id: string; events: SeenEvent[] }> {
    const before = await countTasks(service)
    const dry = await ask({ presetId: `test/${kind}` })
    expect(await countTasks(service)).toBe(before)
    expect(dry.reason).toBeTypeOf('string')
    const id = await service.submit(kind)
    const events = dry.action === 'WAIT' ? [] : await service.events(id)
    return { dry, id, events }
  }

  test.each(['free', 'gpu'])('starts a worker (%s), as then happens', async (kind) => {
    const { dry, id, events } = await tryAndSubmit(kind)
    expect(dry).toMatchObject({ action: 'START_WORKER', workerId: null, evicts: [] })
    const task = await service.history(id)
    expect(task).toMatchObject({ status: 'COMPLETED', gpuIds: dry.gpuIds, attempts: [{ warm: false }] })
    expect(events.find(({ taskStatus }) => taskStatus === 'STARTING')).toMatchObject({ reason: dry.reason })
  })

  test('uses a warm session, as then happens', async () => {
    await service.run('a')
    const { dry, id } = await tryAndSubmit('a')
    expect(dry).toMatchObject({ action: 'USE_SESSION', evicts: [], startEstimate: { warm: true } })
    expect((await service.history(id)).attempts).toMatchObject([{ workerId: dry.workerId, warm: true }])
  })

  test('names the idle session that has to go, which then goes', async () => {
    await service.run('a')
    const [idle] = await service.workers('a')
    const { dry, id } = await tryAndSubmit('b')
    expect(dry.evicts).toEqual([idle?.id])
    expect(await service.ended(id)).toMatchObject({ status: 'COMPLETED' })
    expect((await service.workers()).map((worker) => worker.id)).not.toContain(idle?.id)
  })

  test('waits for a busy GPU, with the reason that the task then has', async () => {
    const busy = await service.submit('a', { input: ENDLESS })
    await service.reached(busy, 'RUNNING')
    const { dry, id } = await tryAndSubmit('gpu')
    expect(dry).toMatchObject({ action: 'WAIT', gpuIds: [], workerId: null, evicts: [] })
    expect(await service.task(id)).toMatchObject({ status: 'QUEUED', explanation: dry.reason })
    await service.cancel(busy)
    await service.ended(id)
  })

  test('is refused as the submission is', async () => {
    expect(await ask({ presetId: 'test/nothing' })).toMatchObject({ __typename: 'UnknownPresetProblem' })
    expect(await ask({ presetId: 'test/two' })).toMatchObject({ code: 'NO_SUCH_GPU' })
    expect(await ask({ presetId: 'test/free', labels: { a: 1 } })).toMatchObject({
      __typename: 'InvalidInputProblem',
    })
  })

  test('and a waiting task know when it starts, warm, once that was measured, and how well that was known', async () => {
    for (let n = 0; n < 3; n++) await service.run('a', { input: { text: 'a b c', interval_ms: 100 } })

    /** What is said of the start of a task that waits for another one; when it has ended, it is known how true that was. */
    async function waits(): Promise<StartEstimate> {
      const busy = await service.submit('a', { input: { text: 'a', tokens: 30, interval_ms: 100 } })
      await service.reached(busy, 'RUNNING')
      const dry = await ask({ presetId: 'test/a' })
      const id = await service.submit('a')
      const { task } = await service.query<{ task: { startEstimate: StartEstimate | null } }>(
        `query ($id: ID!) { task(id: $id) { ${ESTIMATE} } }`,
        { id },
      )
      const { startEstimate } = task
      if (startEstimate === null) throw new Error('nothing is known of its start')
      expect(dry).toMatchObject({ action: 'WAIT', startEstimate: { warm: startEstimate.warm } })
      await service.ended(id)
      return startEstimate
    }

    const first = await waits()
    expect(first).toMatchObject({ warm: true })
    const moments = [first.earliest, first.at, first.latest].map((moment) => Date.parse(moment))
    expect(moments).toEqual(moments.toSorted((a, b) => a - b))
    const { calibration } = await waits()
    expect(calibration.samples).toBeGreaterThan(first.calibration.samples)
    expect(calibration.within).toBeGreaterThanOrEqual(0)
    expect(calibration.within).toBeLessThanOrEqual(1)
  })
})
