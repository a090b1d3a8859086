import type { LiveWorker, Worker as DomainWorker, WorkerId } from '@gpu-service/tasks'
import { checkStretch } from './arguments.ts'
import type { Context } from './context.ts'
import type {
  MutationResolvers,
  QueryResolvers,
  SubscriptionResolvers,
  WorkerResolvers,
} from './generated/resolvers.ts'
import { flatten } from './iterate.ts'
import { refusedProblem, unknownPresetProblem, unknownWorkerProblem } from './problem.ts'
import { logEntry } from './worker-log.ts'

const MAX_LOG = 1_000

export const workerQueries = {
  workers: (_parent, _args, { dispatcher }) => dispatcher.workers().filter(isLive),
  worker: (_parent, { id }, context) => workerOf(id as WorkerId, context),
} satisfies QueryResolvers

export const workerMutations = {
  async startSession(_parent, { presetId }, { dispatcher, principal, actor }) {
    const result = await dispatcher.startSession(presetId, principal.owner, actor)
    switch (result.status) {
      case 'started':
        return { __typename: 'StartSessionSuccess', worker: result.worker }
      case 'unknown-preset':
        return unknownPresetProblem(presetId, result.message)
      case 'refused':
        return refusedProblem(result)
    }
  },
  async endSession(_parent, { id, force }, { dispatcher, actor }) {
    const result = await dispatcher.endSession(id as WorkerId, force, actor)
    if (result === null) return unknownWorkerProblem(id)
    return result.status === 'refused'
      ? refusedProblem(result)
      : { __typename: 'EndSessionSuccess', worker: result }
  },
} satisfies MutationResolvers

export const workerSubscriptions = {
  workerUpdated: {
    subscribe: (_parent, _args, context) =>
      flatten(
        context.dispatcher.workerChanges.watch(),
        () => context.dispatcher.workers().filter(isLive),
        async (ids) => {
          const workers = await Promise.all(ids.map((id) => workerOf(id, context)))
          return workers.filter((worker) => worker !== null)
        },
      ),
    resolve: (worker: LiveWorker) => worker,
  },
} satisfies SubscriptionResolvers

export const Worker = {
  // A worker that has been given a task may not have said so yet.
  status: ({ status, taskIds }) => (status === 'READY' && taskIds.length > 0 ? 'WORKING' : status),
  gpus: (worker, _args, context) => gpusOf(worker, context),
  memoryClaimedMb(worker, _args, context) {
    const { gpuIds, memoryMb } = worker.claim
    if (memoryMb !== null) return memoryMb * gpuIds.length
    return gpusOf(worker, context).reduce((sum, { memoryTotalMb }) => sum + memoryTotalMb, 0)
  },
  pinned: ({ spec }) => spec.session?.pinned ?? false,
  tasks: ({ taskIds, status }, _args, { store }) => (status === 'EXITED' ? [] : store.tasksById(taskIds)),
  async log({ id }, { first, after }, { store }) {
    checkStretch({ first, after }, MAX_LOG)
    const events = await store.workerLog(id, after, first)
    return events.map((event, index) => logEntry(event, after + index + 1))
  },
} satisfies WorkerResolvers

/** As it is now; one that the dispatcher has let go of as its row tells it. */
export async function workerOf(id: WorkerId, { dispatcher, store }: Context): Promise<LiveWorker | null> {
  const live = dispatcher.workers().find((worker) => worker.id === id)
  if (live !== undefined) return live
  const row = await store.worker(id)
  return row === null ? null : recorded(row)
}

function recorded(worker: DomainWorker): LiveWorker {
  const { startedAt, readyAt, exit, endReason } = worker
  const how =
    exit === null
      ? 'It is gone'
      : exit.oomKilled
        ? 'It was killed because it ran out of memory'
        : `It has exited${exit.exitCode === null ? '' : ` with ${exit.exitCode}`}`
  return {
    ...worker,
    loadMs: readyAt === null ? null : readyAt - startedAt,
    loadProgress: null,
    idleSince: null,
    endsAt: null,
    memoryUsedMb: null,
    explanation: endReason === null ? `${how}.` : `${how}. ${endReason}`,
  }
}

function isLive({ status }: DomainWorker): boolean {
  return status !== 'EXITED'
}

function gpusOf({ claim }: DomainWorker, { dispatcher }: Context) {
  return dispatcher.gpus().filter(({ id }) => claim.gpuIds.includes(id))
}
