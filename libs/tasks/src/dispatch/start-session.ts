import type { Actor } from '../audit.ts'
import type { Refused } from '../dispatcher.ts'
import { plan, type WantedSession } from '../planner/index.ts'
import { specHashOf } from '../spec-hash.ts'
import type { PresetId } from '../ids.ts'
import type { WorkerSpec } from '../spec.ts'
import type { WorkerLife } from '../workers/worker-life.ts'
import type { PlanLoop, StartAction } from './plan-loop.ts'
import { refused } from './submission.ts'
import type { WorkerPool } from './worker-pool.ts'

/** Starts a session worker because a client asks for it, where the planner finds room beside all that is there. To be called in turn. */
export async function startSession(
  loop: PlanLoop,
  pool: WorkerPool,
  presetId: PresetId,
  spec: WorkerSpec,
  owner: string,
  by: Actor,
): Promise<WorkerLife | Refused> {
  const { session } = spec
  if (session === null)
    return refused('NOT_A_SESSION', `The preset ${presetId} has no session workers (mode: one-off).`)
  if (pool.blocked !== null) return refused('NO_ROOM', pool.blocked)
  const specHash = specHashOf(spec)
  const live = pool
    .lives()
    .filter((life) => life.worker.specHash === specHash && !life.isEnding && life.retiring === null).length
  const { maxWorkers, isolation } = session
  if (maxWorkers !== null && live >= maxWorkers)
    return refused('NO_ROOM', `The preset has ${live} workers, and session.max_workers is ${maxWorkers}.`)
  // Whose it is does not matter for its room.
  const wanted: WantedSession = {
    ...{ presetId, specHash, gpus: spec.gpus, session: { ...session, isolation: 'shared' } },
    count: live + 1,
    notBefore: 0,
  }
  const start = plan({ ...loop.input(), wanted: [wanted] }).actions.find(
    (action): action is StartAction =>
      action.kind === 'start' && action.taskId === null && action.presetId === presetId,
  )
  if (start === undefined)
    return refused(
      'NO_ROOM',
      'There is no room for another worker beside those that are there and the tasks that wait.',
    )
  return loop.startWorker(
    presetId,
    spec,
    start.claim,
    'A client asked for it.',
    isolation === 'owner' ? owner : null,
    by,
  )
}
