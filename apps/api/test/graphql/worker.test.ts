import { expect, test } from 'vitest'
import type { LiveWorker, Refused, WorkerId, WorkerLogEvent } from '@gpu-service/tasks'
import { createChanges, createStage, GPU_ID, gpu, task, TASK_ID, worker, WORKER_ID } from './stage.ts'

const OTHER = 'other' as WorkerId
const REFUSED: Refused = { status: 'refused', code: 'NOT_A_SESSION', message: 'No.' }

test('lists the workers that have not exited, with all that is known of them', async () => {
  const { ask } = createStage({
    dispatcher: {
      workers: () => [
        worker({ taskIds: [TASK_ID], idleSince: null, endsAt: 60_000 }),
        worker({ id: OTHER, status: 'EXITED' }),
      ],
      gpus: () => [gpu(), gpu({ id: 'GPU-2' as LiveWorker['claim']['gpuIds'][number] })],
    },
    store: { tasksById: () => Promise.resolve([task({ status: 'RUNNING' })]) },
  })
  expect(
    await ask(
      `{ workers { id mode status owner memoryClaimedMb memoryUsedMb peakMemoryMb loadMs loadProgress idleSince endsAt exitedAt
         pinned endReason explanation tasksServed gpus { id } tasks { id } } }`,
    ),
  ).toEqual({
    workers: [
      {
        id: WORKER_ID,
        mode: 'SESSION',
        status: 'WORKING',
        owner: 'ada',
        memoryClaimedMb: 8_000,
        memoryUsedMb: 6_500,
        peakMemoryMb: 7_000,
        loadMs: 2_500,
        loadProgress: 1,
        idleSince: null,
        endsAt: '1970-01-01T00:01:00.000Z',
        exitedAt: null,
        pinned: true,
        endReason: null,
        explanation: 'It is warm and idle.',
        tasksServed: 2,
        gpus: [{ id: GPU_ID }],
        tasks: [{ id: TASK_ID }],
      },
    ],
  })
})

test.each([
  ['STARTING', [TASK_ID], 'STARTING'],
  ['READY', [], 'READY'],
  ['READY', [TASK_ID], 'WORKING'],
  ['STOPPING', [TASK_ID], 'STOPPING'],
] as const)('tells of a worker that is %s with tasks %j as %s', async (status, taskIds, told) => {
  const { ask } = createStage({ dispatcher: { workers: () => [worker({ status, taskIds })] } })
  expect(await ask('{ workers { status } }')).toEqual({ workers: [{ status: told }] })
})

test('counts the whole memory of GPUs that are claimed as a whole', async () => {
  const { ask } = createStage({
    dispatcher: {
      workers: () => [worker({ claim: { gpuIds: [GPU_ID], memoryMb: null } })],
      gpus: () => [gpu()],
    },
  })
  expect(await ask('{ workers { memoryClaimedMb } }')).toEqual({ workers: [{ memoryClaimedMb: 24_000 }] })
})

test.each([
  [{ exitCode: 137, oomKilled: false, finishedAt: 0 }, 'Evicted.', 'It has exited with 137. Evicted.'],
  [{ exitCode: null, oomKilled: false, finishedAt: 0 }, null, 'It has exited.'],
  [{ exitCode: 137, oomKilled: true, finishedAt: 0 }, null, 'It was killed because it ran out of memory.'],
  [null, 'The engine lost it.', 'It is gone. The engine lost it.'],
])('knows a worker that has exited with %j', async (exit, endReason, explanation) => {
  const row = worker({ status: 'EXITED', exitedAt: 9_000, exit, endReason, taskIds: [TASK_ID] })
  const { ask } = createStage({
    dispatcher: { workers: () => [] },
    store: { worker: () => Promise.resolve(row) },
  })
  expect(await ask('{ worker(id: "x") { status exitedAt explanation endReason tasks { id } } }')).toEqual({
    worker: { status: 'EXITED', exitedAt: '1970-01-01T00:00:09.000Z', explanation, endReason, tasks: [] },
  })
})

test('knows no worker that never was', async () => {
  const { ask } = createStage({
    dispatcher: { workers: () => [worker()] },
    store: { worker: () => Promise.resolve(null) },
  })
  expect(await ask('{ worker(id: "x") { id } }')).toEqual({ worker: null })
})

test('reads a stretch of a worker’s log, with the place of each entry in the whole', async () => {
  const entries: readonly WorkerLogEvent[] = [
    { at: 1_000, body: { type: 'worker', status: 'loading', message: 'weights', progress: 0.5 } },
    { at: 1_000, body: { type: 'log', stream: 'STDERR', level: 'warning', line: 'careful' } },
    { at: 1_000, body: { type: 'fault', kind: 'INVALID_JSON', line: '{', detail: 'cut short' } },
  ]
  const asked: unknown[] = []
  const { ask } = createStage({
    dispatcher: { workers: () => [worker()] },
    store: {
      workerLog(...args) {
        asked.push(args)
        return Promise.resolve(entries)
      },
    },
  })
  const query = `{ workers { log(first: 3, after: 7) { position at kind text stream level progress } } }`
  const at = '1970-01-01T00:00:01.000Z'
  const nothing = { stream: null, level: null, progress: null }
  expect(await ask(query)).toEqual({
    workers: [
      {
        log: [
          { ...nothing, position: 8, at, kind: 'worker', text: 'loading: weights', progress: 0.5 },
          { ...nothing, position: 9, at, kind: 'log', text: 'careful', stream: 'STDERR', level: 'warning' },
          { ...nothing, position: 10, at, kind: 'fault', text: 'INVALID_JSON: cut short' },
        ],
      },
    ],
  })
  expect(asked).toEqual([[WORKER_ID, 7, 3]])
})

test.each([
  ['first: 0', 'first must lie between 1 and 1000.'],
  ['first: 1001', 'first must lie between 1 and 1000.'],
  ['after: -1', 'after must be at least 0.'],
])('refuses a log with %s', async (args, message) => {
  const { ask } = createStage({ dispatcher: { workers: () => [worker()] } })
  expect(await ask(`{ workers { log(${args}) { position } } }`)).toEqual([`BAD_USER_INPUT: ${message}`])
})

const START = `mutation { startSession(presetId: "test/chat") { __typename ... on StartSessionSuccess { worker { id } }
  ... on UnknownPresetProblem { message presetId index } ... on RefusedProblem { message code index } } }`

test.each([
  [
    { status: 'started', worker: worker() },
    { __typename: 'StartSessionSuccess', worker: { id: WORKER_ID } },
  ],
  [
    { status: 'unknown-preset', message: 'None.' },
    { __typename: 'UnknownPresetProblem', message: 'None.', presetId: 'test/chat', index: null },
  ],
  [REFUSED, { __typename: 'RefusedProblem', message: 'No.', code: 'NOT_A_SESSION', index: null }],
] as const)('tells of a session that is asked for: %j', async (result, told) => {
  const { ask } = createStage({ dispatcher: { startSession: () => Promise.resolve(result) } })
  expect(await ask(START)).toEqual({ startSession: told })
})

const END = `mutation ($force: Boolean! = false) { endSession(id: "w", force: $force) { __typename
  ... on EndSessionSuccess { worker { id status } } ... on UnknownWorkerProblem { message id }
  ... on RefusedProblem { message code index } } }`

test.each([
  [
    worker({ status: 'STOPPING' }),
    { __typename: 'EndSessionSuccess', worker: { id: WORKER_ID, status: 'STOPPING' } },
  ],
  [null, { __typename: 'UnknownWorkerProblem', message: 'No worker w is live.', id: 'w' }],
  [REFUSED, { __typename: 'RefusedProblem', message: 'No.', code: 'NOT_A_SESSION', index: null }],
])('tells of a session that is to end: %j', async (result, told) => {
  const { ask } = createStage({ dispatcher: { endSession: () => Promise.resolve(result) } })
  expect(await ask(END)).toEqual({ endSession: told })
})

test('forces a session to end only where that is asked for', async () => {
  const forced: boolean[] = []
  const { ask } = createStage({
    dispatcher: {
      endSession(_id, force) {
        forced.push(force)
        return Promise.resolve(null)
      },
    },
  })
  await ask(END)
  await ask(END, { force: true })
  expect(forced).toEqual([false, true])
})

test('tells subscribers of the workers that are live, then of each that changes, its exit included', async () => {
  const workerChanges = createChanges<WorkerId>()
  let live: readonly LiveWorker[] = [worker(), worker({ id: OTHER, status: 'EXITED' })]
  const { subscribe } = createStage({
    dispatcher: { workerChanges, workers: () => live },
    store: { worker: (id) => Promise.resolve(id === WORKER_ID ? worker({ status: 'EXITED' }) : null) },
  })
  const results = await subscribe('subscription { workerUpdated { id status } }')
  const next = async (): Promise<unknown> => {
    const { value } = (await results.next()) as { value?: { data?: unknown } }
    return value?.data
  }
  expect(await next()).toEqual({ workerUpdated: { id: WORKER_ID, status: 'READY' } })
  live = [worker({ status: 'STOPPING' })]
  workerChanges.changed(WORKER_ID)
  expect(await next()).toEqual({ workerUpdated: { id: WORKER_ID, status: 'STOPPING' } })
  live = []
  workerChanges.changed('never' as WorkerId)
  workerChanges.changed(WORKER_ID)
  expect(await next()).toEqual({ workerUpdated: { id: WORKER_ID, status: 'EXITED' } })
  expect(await results.return?.()).toEqual({ done: true, value: undefined })
})
