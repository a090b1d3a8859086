import { GpuClientError, passing } from './error.ts'
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
  /** At most `first` of a task's events after `after`, without waiting for more; `null`: there is no such task. */
  readonly read: (
    taskId: string,
    stretch: { readonly first: number; readonly after: number },
    signal: AbortSignal,
  ) => Promise<(TaskEvents & { readonly status: TaskStatus }) | null>
}

/** Of messages, each of at most 500 events and some 256 KiB. */
const MAX_WAITING = 16

const FINAL: readonly TaskStatus[] = ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT']

export function isFinal(status: TaskStatus): boolean {
  return FINAL.includes(status)
}

/** So many connections that broke before they brought anything are bad luck; more of them are too weak for a large batch. */
const MAX_BARREN = 2
/** How many events are asked for at once over such a connection, and half as many after each further one that broke. */
const SMALL_STRETCH = 64

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
  /** Connections in a row that broke before they brought anything. */
  let barren = 0

  return resuming(follower, options, async function* (stop, worked) {
    if (barren >= MAX_BARREN && (yield* small(stop, worked)) === 'over') return 'over'
    const leg = await Leg.open(
      follower.wire,
      FollowTaskDocument,
      { taskId, after },
      { shelf: createQueue<TaskEvents>(MAX_WAITING), valueOf: ({ taskEvents }) => taskEvents, signal: stop },
    )
    let hasBrought = false
    try {
      let taken: Taken<TaskEvents>
      while ((taken = await leg.take()).kind === 'values') {
        hasBrought = true
        barren = 0
        worked()
        if ((yield* fresh(taken.values)) === 'over') return 'over'
      }
      if (taken.kind !== 'completed') return 'again'
      // Without a final status before, this was all only where the task has ended and `after` is its last event.
      const state = await follower.read(taskId, { first: 1, after }, stop)
      if (state !== null && isFinal(state.status) && state.lastSeq === after) return 'over'
      throw passing('HOLE', `The events of task ${taskId} ended at ${after}, and the task did not.`)
    } catch (error) {
      if (!hasBrought && error instanceof GpuClientError && error.code === 'DISCONNECTED') barren++
      throw error
    } finally {
      leg.close()
    }
  })

  /** Reads up to what is stored in stretches that get through where a large batch does not. */
  async function* small(stop: AbortSignal, worked: () => void): AsyncGenerator<TaskEvents, 'over' | 'again'> {
    for (;;) {
      const first = Math.max(1, SMALL_STRETCH >> (barren - MAX_BARREN))
      const stretch = await follower.read(taskId, { first, after }, stop)
      if (stretch === null || stretch.events.length === 0) return 'again'
      worked()
      if ((yield* fresh([stretch])) === 'over') return 'over'
    }
  }

  /** Gives what is new of it, as one batch. */
  function* fresh(batches: readonly TaskEvents[]): Generator<TaskEvents, 'over' | 'again'> {
    const batch = joined(batches, after)
    const last = batch.events.at(-1)
    if (last === undefined) return 'again'
    after = last.seq
    yield batch
    return last.__typename === 'TaskStatusEvent' && isFinal(last.taskStatus) ? 'over' : 'again'
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
