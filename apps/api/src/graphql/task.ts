import {
  FeedError,
  isAtLeast,
  unknownTaskText,
  type EventBatch,
  type Task as DomainTask,
  type TaskFilter,
  type TaskId,
  type TaskOutput,
} from '@gpu-service/tasks'
import { StoreError } from '@gpu-service/task-store'
import { shownSpec } from '../shown-spec.ts'
import { checkStretch } from './arguments.ts'
import type { Context } from './context.ts'
import { refusal } from './errors.ts'
import type {
  FailureEvidenceResolvers,
  QueryResolvers,
  StartEstimateResolvers,
  SubscriptionResolvers,
  TaskResolvers,
} from './generated/resolvers.ts'
import { flatten } from './iterate.ts'
import { parseFilter, searching } from './task-filter.ts'
import { isVisible, restricted, visibleTask } from './visibility.ts'
import { workerOf } from './worker.ts'

const MAX_PAGE = 100
const MAX_EVENTS = 1_000
const MAX_COUNT = 10_000

export const taskQueries = {
  task: (_parent, { id }, context) => visibleTask(id, context),
  async tasks(_parent, { filter, first, after }, { store, principal }) {
    checkStretch({ first }, MAX_PAGE)
    const parsed = restricted(parseFilter(filter), principal)
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

export const taskSubscriptions = {
  taskEvents: {
    async subscribe(_parent, { taskId, after }, context) {
      const { dispatcher } = context
      if (!(await isVisible(taskId, context))) throw refusal('NOT_FOUND', unknownTaskText(taskId))
      return tellingBatches(await told(dispatcher.feeds.open(taskId as TaskId, { after })))
    },
    resolve: (batch: EventBatch) => batch,
  },
  taskUpdated: {
    subscribe(_parent, { filter }, { dispatcher, store, principal }) {
      const parsed = restricted(parseFilter(filter), principal)
      return flatten(
        dispatcher.taskChanges.watch(),
        () => searching(store.matching(dispatcher.activeTasks(), parsed)),
        (ids) => searching(store.matching(ids, parsed)),
      )
    },
    resolve: (task: DomainTask) => task,
  },
} satisfies SubscriptionResolvers

export const FailureEvidence = {
  spec: ({ spec }) => shownSpec(spec),
} satisfies FailureEvidenceResolvers

/** What a feed refuses is told to the client, and that a task was removed while it was being read. */
async function told<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof FeedError) throw refusal(error.code, error.message)
    if (error instanceof StoreError && error.code === 'NOT_FOUND') throw refusal(error.code, error.message)
    throw error
  }
}

function tellingBatches(batches: AsyncIterableIterator<EventBatch>): AsyncIterableIterator<EventBatch> {
  return {
    [Symbol.asyncIterator]() {
      return this
    },
    next: () => told(batches.next()),
    return: async () => (await batches.return?.()) ?? { done: true, value: undefined },
  }
}

export const Task = {
  attempts: ({ id }, _args, { store }) => store.attempts(id),
  stoppedAt: ({ release }) => release.stoppedAt,
  gpuFreeAt: ({ release }) => release.gpuFreeAt,
  killed: ({ release }) => release.killed,
  gpus: ({ gpuIds }, _args, { dispatcher }) => dispatcher.gpus().filter(({ id }) => gpuIds.includes(id)),
  worker: ({ workerId }, _args, context) =>
    workerId === null || !isAtLeast(context.principal.role, 'operate') ? null : workerOf(workerId, context),
  text: async (task, _args, context) => (await outputOf(task, context)).text,
  result: async (task, _args, context) => (await outputOf(task, context)).result,
  usage: async (task, _args, context) => (await outputOf(task, context)).usage,
  artifacts: ({ id }, _args, { store }) => store.artifacts(id),
  files: ({ id, files }) =>
    files.map(({ id: uploadId, ...file }, index) => ({
      ...file,
      uploadId,
      url: `/tasks/${id}/files/${index}`,
    })),
  queuePosition: ({ id, status }, _args, { dispatcher }) =>
    status === 'QUEUED' ? dispatcher.queuePosition(id) : null,
  startEstimate: (task, _args, { dispatcher }) =>
    task.status === 'QUEUED' || task.status === 'STARTING' ? dispatcher.estimate(task) : null,
  explanation: (task, _args, { dispatcher }) => dispatcher.explain(task),
  async events({ id, lastSeq }, { first, after }, { store }) {
    checkStretch({ first, after }, MAX_EVENTS)
    const events = await store.events(id, after, first)
    return { events, lastSeq: Math.max(lastSeq, events.at(-1)?.seq ?? 0) }
  },
} satisfies TaskResolvers

export const StartEstimate = {
  calibration: (_estimate, _args, { dispatcher }) => dispatcher.calibration,
} satisfies StartEstimateResolvers

/** Three fields come from one row: it is read once per task object. */
const outputs = new WeakMap<DomainTask, Promise<TaskOutput>>()

function outputOf(task: DomainTask, { store }: Context): Promise<TaskOutput> {
  const known = outputs.get(task)
  if (known !== undefined) return known
  const output = told(store.output(task.id))
  outputs.set(task, output)
  return output
}
