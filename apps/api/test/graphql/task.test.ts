import { expect, test } from 'vitest'
import { StoreError } from '@gpu-service/task-store'
import {
  FAILURE_CLASSES,
  FeedError,
  type Dispatcher,
  type EventBatch,
  type TaskAttempt,
} from '@gpu-service/tasks'
import { createStage, GPU_ID, gpu, SPEC, task, TASK_ID, worker, WORKER_ID } from './stage.ts'

test('tells how a task was tried, in the order of the attempts', async () => {
  const attempt: TaskAttempt = {
    attempt: 1,
    workerId: WORKER_ID,
    gpuIds: [GPU_ID],
    warm: true,
    startedAt: 1_000,
    runningAt: null,
    finishedAt: 2_000,
    status: 'FAILED',
    error: { code: 'WORKER_DIED', message: 'It died.' },
    failureClass: 'session_died',
    exitCode: 137,
    evidence: {
      cause: 'killed',
      diagnosis: 'Somebody killed it.',
      signal: 'SIGKILL',
      oomKilled: false,
      stderr: ['last'],
      stdout: ['{"event":"text_delta","delta":"a"}'],
      imageDigest: 'sha256:1',
      spec: { ...SPEC, env: { TOKEN: 'secret' } },
      gpuReadings: [
        {
          gpuId: GPU_ID,
          at: 1_500,
          memoryUsedMb: 10.5,
          utilizationPercent: 99,
          temperatureC: null,
          powerW: null,
          eccErrors: null,
        },
      ],
    },
  }
  const later: TaskAttempt = {
    ...attempt,
    attempt: 2,
    warm: false,
    finishedAt: null,
    status: null,
    error: null,
    failureClass: null,
    exitCode: null,
    evidence: null,
  }
  const { ask } = createStage({
    store: {
      task: () => Promise.resolve(task({ attempt: 2, status: 'RUNNING' })),
      attempts: () => Promise.resolve([attempt, later]),
    },
  })
  expect(
    await ask(
      `{ task(id: "x") { attempts { attempt warm startedAt runningAt finishedAt status error { code message } failureClass
         exitCode gpuIds workerId evidence { cause diagnosis signal oomKilled stderr stdout imageDigest spec
         gpuReadings { gpuId at memoryUsedMb utilizationPercent temperatureC powerW eccErrors } } } } }`,
    ),
  ).toEqual({
    task: {
      attempts: [
        {
          ...attempt,
          startedAt: '1970-01-01T00:00:01.000Z',
          finishedAt: '1970-01-01T00:00:02.000Z',
          failureClass: 'SESSION_DIED',
          evidence: {
            ...attempt.evidence,
            cause: 'KILLED',
            // What the environment holds may be secret.
            spec: { ...SPEC, env: ['TOKEN'] },
            gpuReadings: [{ ...attempt.evidence?.gpuReadings[0], at: '1970-01-01T00:00:01.500Z' }],
          },
        },
        { ...later, startedAt: '1970-01-01T00:00:01.000Z' },
      ],
    },
  })
})

test.each(FAILURE_CLASSES)('has a name for the failure class %s', async (failureClass) => {
  const attempts = (): Promise<readonly TaskAttempt[]> =>
    Promise.resolve([
      {
        attempt: 1,
        workerId: WORKER_ID,
        gpuIds: [],
        warm: false,
        startedAt: 0,
        runningAt: null,
        finishedAt: null,
        status: 'FAILED',
        error: null,
        failureClass,
        exitCode: null,
        evidence: null,
      },
    ])
  const { ask } = createStage({ store: { task: () => Promise.resolve(task()), attempts } })
  expect(await ask('{ task(id: "x") { attempts { failureClass } } }')).toEqual({
    task: { attempts: [{ failureClass: failureClass.toUpperCase() }] },
  })
})

test('tells where a task comes from, when it waits until, and how it let go of its GPUs', async () => {
  const release = { stoppedAt: 5_000, gpuFreeAt: 6_000, killed: true }
  const { ask } = createStage({
    store: {
      task: () =>
        Promise.resolve(
          task({ release, affinity: 'chat-1', retryOf: TASK_ID, queuedAt: 3_000, retryAt: 4_000 }),
        ),
    },
  })
  expect(
    await ask('{ task(id: "x") { owner affinity retryOf queuedAt retryAt stoppedAt gpuFreeAt killed } }'),
  ).toEqual({
    task: {
      owner: 'ada',
      affinity: 'chat-1',
      retryOf: TASK_ID,
      queuedAt: '1970-01-01T00:00:03.000Z',
      retryAt: '1970-01-01T00:00:04.000Z',
      stoppedAt: '1970-01-01T00:00:05.000Z',
      gpuFreeAt: '1970-01-01T00:00:06.000Z',
      killed: true,
    },
  })
})

test.each([
  ['QUEUED', true],
  ['STARTING', true],
  ['RUNNING', false],
  ['COMPLETED', false],
] as const)('estimates the start of a task that is %s: %s', async (status, isEstimated) => {
  const estimate = { at: 0, earliest: 0, latest: 0, warm: false, how: 'A guess.' }
  const { ask } = createStage({
    dispatcher: { estimate: () => estimate, calibration: { samples: 0, within: null } },
    store: { task: () => Promise.resolve(task({ status })) },
  })
  const startEstimate = isEstimated ? { how: 'A guess.', calibration: { samples: 0, within: null } } : null
  expect(await ask('{ task(id: "x") { startEstimate { how calibration { samples within } } } }')).toEqual({
    task: { startEstimate },
  })
})

test('gives the worker and the GPUs of a task, also when the worker has exited', async () => {
  const ended = task({ workerId: WORKER_ID, gpuIds: [GPU_ID], status: 'COMPLETED' })
  const { ask } = createStage({
    dispatcher: { workers: () => [], gpus: () => [gpu()] },
    store: {
      task: () => Promise.resolve(ended),
      worker: () => Promise.resolve(worker({ status: 'EXITED', exitedAt: 9_000 })),
    },
  })
  expect(await ask('{ task(id: "x") { gpus { id } worker { id status loadMs idleSince } } }')).toEqual({
    task: {
      gpus: [{ id: GPU_ID }],
      worker: { id: WORKER_ID, status: 'EXITED', loadMs: 2_500, idleSince: null },
    },
  })
})

const DELETE = `mutation { deleteTask(id: "x") { __typename ... on DeleteTaskSuccess { id } ... on Problem { message }
  ... on RefusedProblem { code } } }`

test.each([
  [{ status: 'deleted' } as const, { __typename: 'DeleteTaskSuccess', id: 'x' }],
  [null, { __typename: 'UnknownTaskProblem', message: 'There is no task x.' }],
  [
    { status: 'refused', code: 'NOT_ENDED', message: 'It is RUNNING.' } as const,
    { __typename: 'RefusedProblem', code: 'NOT_ENDED', message: 'It is RUNNING.' },
  ],
])('answers a deletion that came to %j', async (result, answer) => {
  const { ask } = createStage({ dispatcher: { deleteTask: () => Promise.resolve(result) } })
  expect(await ask(DELETE)).toEqual({ deleteTask: answer })
})

test('tells a reader that the task was removed while it was being read', async () => {
  const removed = new FeedError('HISTORY_REMOVED', 'Task x was removed.')
  const feed: AsyncIterableIterator<EventBatch> = {
    [Symbol.asyncIterator]() {
      return this
    },
    next: () => Promise.reject(removed),
  }
  const { subscribe } = createStage({
    dispatcher: { feeds: { open: () => Promise.resolve(feed) } as unknown as Dispatcher['feeds'] },
  })
  const results = await subscribe('subscription { taskEvents(taskId: "x") { lastSeq } }')
  await expect(results.next()).rejects.toMatchObject({ extensions: { code: 'HISTORY_REMOVED' } })
})

test('tells a question that the task was removed meanwhile', async () => {
  const { ask } = createStage({
    store: {
      task: () => Promise.resolve(task({ status: 'COMPLETED' })),
      output: () => Promise.reject(new StoreError('NOT_FOUND', 'There is no task x.')),
    },
  })
  expect(await ask('{ task(id: "x") { text } }')).toEqual(['NOT_FOUND: There is no task x.'])
})

test('tells what is kept and what was removed', async () => {
  const usage = { databaseBytes: 2 ** 40, fileBytes: 2, logBytes: 3, artifactBytes: 4 }
  const { ask } = createStage({
    store: { usage: () => Promise.resolve(usage) },
    dispatcher: { housekeeping: { lastRoundAt: null, removedTasks: 5, removedWorkers: 6 } },
  })
  const fields = 'databaseBytes fileBytes logBytes artifactBytes removedTasks removedWorkers lastRoundAt'
  expect(await ask(`{ service { version storage { ${fields} } } }`)).toEqual({
    service: {
      version: '1.2.3',
      storage: {
        ...{ databaseBytes: '1099511627776', fileBytes: '2', logBytes: '3', artifactBytes: '4' },
        ...{ removedTasks: 5, removedWorkers: 6, lastRoundAt: null },
      },
    },
  })
})
