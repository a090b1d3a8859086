import { StoreError } from '@gpu-service/task-store'
import {
  FeedError,
  type EventBatch,
  type Task as DomainTask,
  type TaskFilter,
  type TaskId,
  type TaskOutput,
} from '@gpu-service/tasks'
import { GraphQLError } from 'graphql'
import type { Context } from './context.ts'
import type {
  MutationResolvers,
  QueryResolvers,
  SubscriptionResolvers,
  TaskFilter as TaskFilterInput,
  TaskResolvers,
} from './generated/resolvers.ts'
import { flatten } from './iterate.ts'
import { parseSubmission } from './submission.ts'

const MAX_PAGE = 100
const MAX_EVENTS = 1_000
const MAX_COUNT = 10_000

export const taskQueries = {
  task: (_parent, { id }, { store }) => store.task(id as TaskId),
  async tasks(_parent, { filter, first, after }, { store }) {
    checkFirst(first, MAX_PAGE)
    const parsed = parseFilter(filter)
    const page = await searching(
      store.tasks({ filter: parsed, first, after: (after ?? null) as TaskId | null }),
    )
    return {
      edges: page.tasks.map((node) => ({ cursor: node.id, node })),
      pageInfo: { hasNextPage: page.hasNextPage, endCursor: page.tasks.at(-1)?.id ?? null },
      filter: parsed,
    }
  },
} satisfies QueryResolvers

export const TaskConnection = {
  /** Counted only where it is asked for: it costs a scan. */
  totalCount: (
    { filter }: { readonly filter: TaskFilter },
    _args: unknown,
    { store }: Context,
  ): Promise<number | null> => store.countTasks(filter, MAX_COUNT),
}

export const taskMutations = {
  async submitTask(_parent, { input }, { dispatcher, owner }) {
    const parsed = parseSubmission(input, owner)
    const result =
      'issues' in parsed
        ? ({ status: 'invalid-input', ...parsed } as const)
        : await dispatcher.submit(parsed.request)
    switch (result.status) {
      case 'submitted':
        return { __typename: 'SubmitTaskSuccess', task: result.task, duplicate: result.duplicate }
      case 'unknown-preset':
        return { __typename: 'UnknownPresetProblem', message: result.message, presetId: input.presetId }
      case 'invalid-input': {
        const { issues } = result
        const first = issues[0]
        const message =
          first === undefined
            ? 'The input is not valid.'
            : `The input is not valid: ${first.path === '' ? 'it' : first.path} ${first.message}`
        return { __typename: 'InvalidInputProblem', message, issues }
      }
      case 'refused':
        return { __typename: 'RefusedProblem', message: result.message, code: result.code }
    }
  },
  async cancelTask(_parent, { id, reason }, { dispatcher }) {
    const task = await dispatcher.cancel(id as TaskId, reason ?? null)
    return task === null
      ? { __typename: 'UnknownTaskProblem', message: `There is no task ${id}.`, id }
      : { __typename: 'CancelTaskSuccess', task }
  },
} satisfies MutationResolvers

export const taskSubscriptions = {
  taskEvents: {
    async subscribe(_parent, { taskId, after }, { dispatcher }) {
      try {
        return await dispatcher.feeds.open(taskId as TaskId, { after })
      } catch (error) {
        if (!(error instanceof FeedError)) throw error
        throw new GraphQLError(error.message, { extensions: { code: error.code } })
      }
    },
    resolve: (batch: EventBatch) => batch,
  },
  taskUpdated: {
    subscribe(_parent, { filter }, { dispatcher, store }) {
      const parsed = parseFilter(filter)
      return flatten(
        dispatcher.taskChanges.watch(),
        () => searching(store.matching(dispatcher.activeTasks(), parsed)),
        (ids) => searching(store.matching(ids, parsed)),
      )
    },
    resolve: (task: DomainTask) => task,
  },
} satisfies SubscriptionResolvers

export const Task = {
  gpus: ({ gpuIds }, _args, { gpus }) => gpus.list().filter((gpu) => gpuIds.includes(gpu.id)),
  async worker({ workerId }, _args, { dispatcher, store }) {
    if (workerId === null) return null
    return dispatcher.workers().find((worker) => worker.id === workerId) ?? store.worker(workerId)
  },
  text: async (task, _args, context) => (await outputOf(task, context)).text,
  result: async (task, _args, context) => (await outputOf(task, context)).result,
  usage: async (task, _args, context) => (await outputOf(task, context)).usage,
  artifacts: ({ id }, _args, { store }) => store.artifacts(id),
  queuePosition: ({ id, status }, _args, { dispatcher }) =>
    status === 'QUEUED' ? dispatcher.queuePosition(id) : null,
  explanation: (task, _args, { dispatcher }) => dispatcher.explain(task),
  async events({ id, lastSeq }, { first, after }, { store }) {
    checkFirst(first, MAX_EVENTS)
    if (after < 0) throw badInput('after must be at least 0.')
    const events = await store.events(id, after, first)
    return { events, lastSeq: Math.max(lastSeq, events.at(-1)?.seq ?? 0) }
  },
} satisfies TaskResolvers

/** Three fields come from one row: it is read once per task object. */
const outputs = new WeakMap<DomainTask, Promise<TaskOutput>>()

function outputOf(task: DomainTask, { store }: Context): Promise<TaskOutput> {
  const known = outputs.get(task)
  if (known !== undefined) return known
  const output = store.output(task.id)
  outputs.set(task, output)
  return output
}

function parseFilter(filter: TaskFilterInput | null | undefined): TaskFilter {
  const { status, presetId, createdAfter, createdBefore, label, text } = filter ?? {}
  return {
    ...(status != null && { status }),
    ...(presetId != null && { presetId }),
    ...(createdAfter != null && { createdAfter }),
    ...(createdBefore != null && { createdBefore }),
    ...(label != null && { label: { key: label.key, value: label.value ?? null } }),
    ...(text != null && { text }),
  }
}

/** A filter that the store cannot search by is the client's fault. */
async function searching<T>(search: Promise<T>): Promise<T> {
  try {
    return await search
  } catch (error) {
    if (error instanceof StoreError && error.code === 'INVALID_FILTER') throw badInput(error.message)
    throw error
  }
}

function checkFirst(first: number, most: number): void {
  if (first < 1 || first > most) throw badInput(`first must lie between 1 and ${most}.`)
}

function badInput(message: string): GraphQLError {
  return new GraphQLError(message, { extensions: { code: 'BAD_USER_INPUT' } })
}
