import { expect, test } from 'vitest'
import type { Dispatcher, SubmitProblem, SubmitRequest, TaskFilter } from '@gpu-service/tasks'
import { createStage, GPU_ID, PRESET_ID, task, TASK_ID, WORKER_ID } from './stage.ts'

const PROBLEM = `... on UnknownPresetProblem { message presetId index } ... on InvalidInputProblem { message index issues { path message } }
  ... on RefusedProblem { message code index }`
const SUBMIT = `mutation ($input: SubmitTaskInput!) { submitTask(input: $input) {
  __typename ... on SubmitTaskSuccess { duplicate task { id owner } } ${PROBLEM} } }`
const SUBMIT_MANY = `mutation ($inputs: [SubmitTaskInput!]!) { submitTasks(inputs: $inputs) {
  __typename ... on SubmitTasksSuccess { tasks { duplicate task { id } } } ${PROBLEM} } }`
const RETRY = `mutation ($id: ID!) { retryTask(id: $id) { __typename ... on SubmitTaskSuccess { task { id retryOf } }
  ${PROBLEM} ... on UnknownTaskProblem { message id } } }`
const DRY_RUN = `query ($input: SubmitTaskInput!) { dryRun(input: $input) { __typename ... on DryRunSuccess {
  action reason gpuIds workerId evicts startEstimate { at earliest latest warm how calibration { samples within } } } ${PROBLEM} } }`

const NUL = '\0'

/** How each problem of the domain looks to clients, apart from its index. */
const PROBLEMS: readonly (readonly [SubmitProblem, Record<string, unknown>])[] = [
  [
    { status: 'unknown-preset', index: 0, message: 'No preset x/y.' },
    { __typename: 'UnknownPresetProblem', message: 'No preset x/y.', presetId: PRESET_ID },
  ],
  [
    { status: 'invalid-input', index: 0, issues: [{ path: '/a', message: 'must be a number' }] },
    {
      __typename: 'InvalidInputProblem',
      message: 'The input is not valid: /a must be a number',
      issues: [{ path: '/a', message: 'must be a number' }],
    },
  ],
  [
    { status: 'refused', index: 0, code: 'QUEUE_FULL', message: 'Too many tasks wait.' },
    { __typename: 'RefusedProblem', message: 'Too many tasks wait.', code: 'QUEUE_FULL' },
  ],
]

test('submits one task for the owner of the request', async () => {
  const seen: SubmitRequest[] = []
  const { ask } = createStage({
    dispatcher: {
      submit(requests) {
        seen.push(...requests)
        return Promise.resolve({ status: 'submitted', tasks: [{ task: task(), duplicate: true }] })
      },
    },
  })
  expect(await ask(SUBMIT, { input: { presetId: PRESET_ID, affinity: 'a', gpuIds: [GPU_ID] } })).toEqual({
    submitTask: {
      __typename: 'SubmitTaskSuccess',
      duplicate: true,
      task: { id: TASK_ID, owner: 'ada' },
    },
  })
  expect(seen).toEqual([
    {
      owner: 'ada',
      keyId: null,
      presetId: PRESET_ID,
      privacy: 'full',
      input: null,
      priority: 0,
      labels: {},
      idempotencyKey: null,
      affinity: 'a',
      timeoutMs: null,
      gpuIds: [GPU_ID],
      files: [],
    },
  ])
})

test.each(PROBLEMS)(
  'tells of the problem $status with one task, a retry and a dry run',
  async (problem, told) => {
    const { ask } = createStage({
      dispatcher: {
        submit: () => Promise.resolve(problem),
        dryRun: () => Promise.resolve(problem),
        retry: () => Promise.resolve(problem),
      },
      store: { task: () => Promise.resolve(task()) },
    })
    const input = { presetId: PRESET_ID }
    expect(await ask(SUBMIT, { input })).toEqual({ submitTask: { ...told, index: null } })
    expect(await ask(DRY_RUN, { input })).toEqual({ dryRun: { ...told, index: null } })
    expect(await ask(RETRY, { id: TASK_ID })).toEqual({ retryTask: { ...told, index: null } })
  },
)

test.each(PROBLEMS)('tells which of many tasks has the problem $status', async (problem, told) => {
  const { ask } = createStage({
    dispatcher: { submit: () => Promise.resolve({ ...problem, index: 1 }) },
  })
  const inputs = [{ presetId: 'other/one' }, { presetId: PRESET_ID }]
  const message = String(told['message']).replace('The input', 'Input 1')
  expect(await ask(SUBMIT_MANY, { inputs })).toEqual({ submitTasks: { ...told, message, index: 1 } })
})

test('submits many tasks in their order and at once', async () => {
  const calls: (readonly SubmitRequest[])[] = []
  const { ask } = createStage({
    dispatcher: {
      submit(requests) {
        calls.push(requests)
        return Promise.resolve({
          status: 'submitted',
          tasks: requests.map(() => ({ task: task(), duplicate: false })),
        })
      },
    },
  })
  const inputs = Array.from({ length: 100 }, (_, n) => ({ presetId: `test/p${n}` }))
  expect(await ask(SUBMIT_MANY, { inputs })).toEqual({
    submitTasks: {
      __typename: 'SubmitTasksSuccess',
      tasks: inputs.map(() => ({ duplicate: false, task: { id: TASK_ID } })),
    },
  })
  expect(calls).toHaveLength(1)
  expect(calls[0]?.map(({ presetId }) => presetId)).toEqual(inputs.map(({ presetId }) => presetId))
})

test('submits none of many where one cannot be stored, and says which', async () => {
  const { ask } = createStage({})
  const inputs = [{ presetId: PRESET_ID }, { presetId: PRESET_ID, input: { a: [NUL] }, labels: { b: 1 } }]
  expect(await ask(SUBMIT_MANY, { inputs })).toMatchObject({
    submitTasks: {
      __typename: 'InvalidInputProblem',
      index: 1,
      issues: [{ path: '/a/0' }, { path: 'labels.b' }],
    },
  })
})

test.each([0, 101])('refuses a list of %i tasks', async (length) => {
  const { ask } = createStage({})
  const inputs = Array.from({ length }, () => ({ presetId: PRESET_ID }))
  expect(await ask(SUBMIT_MANY, { inputs })).toEqual([
    `BAD_USER_INPUT: inputs must hold 1 to 100 tasks, not ${length}.`,
  ])
})

test('repeats a task for who asks', async () => {
  const { ask } = createStage({
    dispatcher: {
      retry: (id, { owner }) =>
        Promise.resolve({
          status: 'submitted',
          tasks: [{ task: task({ retryOf: id, owner }), duplicate: false }],
        }),
    },
  })
  expect(await ask(RETRY, { id: TASK_ID })).toEqual({
    retryTask: { __typename: 'SubmitTaskSuccess', task: { id: TASK_ID, retryOf: TASK_ID } },
  })
})

test('knows that there is nothing to repeat', async () => {
  const { ask } = createStage({ dispatcher: { retry: () => Promise.resolve(null) } })
  expect(await ask(RETRY, { id: 'x' })).toEqual({
    retryTask: { __typename: 'UnknownTaskProblem', message: 'There is no task x.', id: 'x' },
  })
})

test.each([
  ['start', 'START_WORKER'],
  ['assign', 'USE_SESSION'],
  ['wait', 'WAIT'],
] as const)('tells the plan %s of a dry run as %s', async (action, told) => {
  const estimate = { at: 2_000, earliest: 1_000, latest: 3_000, warm: true, how: 'It is warm.' }
  const { ask } = createStage({
    dispatcher: {
      dryRun: () =>
        Promise.resolve({
          status: 'planned',
          action,
          reason: 'Because.',
          gpuIds: [GPU_ID],
          workerId: WORKER_ID,
          evicts: [WORKER_ID],
          estimate,
        }),
      calibration: { samples: 3, within: 0.5 },
    },
  })
  expect(await ask(DRY_RUN, { input: { presetId: PRESET_ID } })).toEqual({
    dryRun: {
      __typename: 'DryRunSuccess',
      action: told,
      reason: 'Because.',
      gpuIds: [GPU_ID],
      workerId: WORKER_ID,
      evicts: [WORKER_ID],
      startEstimate: {
        at: '1970-01-01T00:00:02.000Z',
        earliest: '1970-01-01T00:00:01.000Z',
        latest: '1970-01-01T00:00:03.000Z',
        warm: true,
        how: 'It is warm.',
        calibration: { samples: 3, within: 0.5 },
      },
    },
  })
})

test('checks the input of a dry run as that of a submission', async () => {
  const { ask } = createStage({})
  expect(await ask(DRY_RUN, { input: { presetId: PRESET_ID, priority: 10 ** 9 } })).toMatchObject({
    dryRun: { __typename: 'InvalidInputProblem', index: null, issues: [{ path: 'priority' }] },
  })
})

const CANCEL = `mutation ($filter: TaskFilter!) { cancelTasks(filter: $filter, reason: "enough") { count ids } }`

test('cancels all tasks that match', async () => {
  const seen: [TaskFilter, string | null][] = []
  const cancelMatching: Dispatcher['cancelMatching'] = (filter, reason) => {
    seen.push([filter, reason])
    return Promise.resolve([task({ status: 'CANCELLED' })])
  }
  const { ask } = createStage({ dispatcher: { cancelMatching } })
  expect(await ask(CANCEL, { filter: { label: { key: 'team' }, status: ['QUEUED'] } })).toEqual({
    cancelTasks: { count: 1, ids: [TASK_ID] },
  })
  expect(seen).toEqual([[{ label: { key: 'team', value: null }, status: ['QUEUED'] }, 'enough']])
})

test.each([{}, { text: ' ' }, { presetId: null }])(
  'does not cancel everything for a filter that says nothing: %j',
  async (filter) => {
    const { ask } = createStage({})
    expect(await ask(CANCEL, { filter })).toEqual([
      'BAD_USER_INPUT: filter must say which tasks are meant; it says nothing.',
    ])
  },
)
