import { passing } from './error.ts'
import { FollowTaskDocument, type TaskEventFieldsFragment, type TaskStatus } from './generated/operations.ts'
import { createQueue, Leg, type Taken } from './leg.ts'
import { type ResumeOptions, type Resumer, resuming } from './resuming.ts'

export type TaskEvent = TaskEventFieldsFragment

/** A run of a task's events without a hole: one where they come slowly, many where the consumer is behind. */
export interface TaskEvents {
  /** At least one, in the order of `seq`. */
  readonly events: readonly TaskEvent[]
  /** The last `seq` that the task had when this was sent: the consumer is level with the task when it has that one. */
  readonly lastSeq: number
}

export interface FollowOptions extends ResumeOptions {
  /** The `seq` of the last event that is known already; absent: 0, from the start. */
  readonly after?: number | undefined
}

/** What following needs of the client. */
export interface Follower extends Resumer {
  /** A task's status and last `seq` now; `null`: there is no such task. */
  readonly stateOf: (
    taskId: string,
    signal: AbortSignal,
  ) => Promise<{ readonly status: TaskStatus; readonly lastSeq: number } | null>
}

/** Of messages, each of at most 500 events and some 256 KiB. */
const MAX_WAITING = 16

const FINAL: readonly TaskStatus[] = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']

export function isFinal(status: TaskStatus): boolean {
  return FINAL.includes(status)
}

/**
 * A task's events after `after`, each exactly once and in order, over any number of broken connections and restarts of the service. The
 * consumer sets the pace: while it takes nothing, a bounded number of events is held, and the rest stays with the service.
 */
export function followTask(
  follower: Follower,
  taskId: string,
  options: FollowOptions,
): AsyncIterableIterator<TaskEvents, undefined> {
  let after = options.after ?? 0

  return resuming(follower, options, async function* (stop, worked) {
    const leg = await Leg.open(
      follower.wire,
      FollowTaskDocument,
      { taskId, after },
      { shelf: createQueue<TaskEvents>(MAX_WAITING), valueOf: ({ taskEvents }) => taskEvents, signal: stop },
    )
    try {
      let taken: Taken<TaskEvents>
      while ((taken = await leg.take()).kind === 'values') {
        const batch = joined(taken.values, after)
        const last = batch.events.at(-1)
        if (last === undefined) continue
        worked()
        after = last.seq
        yield batch
        if (last.__typename === 'TaskStatusEvent' && isFinal(last.taskStatus)) return 'over'
      }
      if (taken.kind !== 'completed') return 'again'
      await requireEnd(stop)
      return 'over'
    } finally {
      leg.close()
    }
  })

  /** Without a final status before, this was all only where the task has ended and `after` is its last event. */
  async function requireEnd(stop: AbortSignal): Promise<void> {
    const state = await follower.stateOf(taskId, stop)
    if (state !== null && isFinal(state.status) && state.lastSeq === after) return
    throw passing('HOLE', `The events of task ${taskId} ended at ${after}, and the task did not.`)
  }
}

/**
 * One batch of all, without what is known already.
 * @throws GpuClientError HOLE where an event is missing; it comes when one reads again from `after`.
 */
function joined(batches: readonly TaskEvents[], after: number): TaskEvents {
  const events: TaskEvent[] = []
  let seq = after
  for (const event of batches.flatMap((batch) => batch.events)) {
    if (event.seq <= seq) continue
    if (event.seq !== seq + 1) throw passing('HOLE', `Event ${event.seq} came after event ${seq}.`)
    events.push(event)
    seq = event.seq
  }
  return { events, lastSeq: batches.at(-1)?.lastSeq ?? after }
}
