import type { TaskEvent } from './event.ts'
import type { TaskId } from './ids.ts'

/** A run of a task's events as a subscriber gets it. The same run is the same object for every reader, so that work on it can be shared. */
export interface EventBatch {
  /** Consecutive, at least one unless a reader asked for events that are not there. */
  readonly events: readonly TaskEvent[]
  /** The last one stored for the task when the batch was made. */
  readonly lastSeq: number
}

/** The most events in one batch. */
export const MAX_BATCH_EVENTS = 500
/** An event's memory beside its text. */
const EVENT_WEIGHT = 128
/** About the most bytes in one batch of more than one event. */
const MAX_BATCH_WEIGHT = 256 * 1024
const MAX_TASK_EVENTS = 4_096
const MAX_TASK_WEIGHT = 2 * 1024 * 1024
const MAX_TOTAL_WEIGHT = 48 * 1024 * 1024

interface TaskTail {
  /** Gapless and in order; the first batch's events start after `startsAfter`. */
  batches: EventBatch[]
  /** Of each batch, in bytes. */
  weights: number[]
  startsAfter: number
  lastSeq: number
  events: number
  weight: number
  /** Batches joined for readers that are behind, by the seq that they read on from; valid until the next push. */
  joined: Map<number, EventBatch>
}

/**
 * The most recent events of the tasks that have some: what a reader that is up to date needs never touches the database. Bounded per task
 * and in whole; a reader further behind finds nothing here and reads the store.
 */
export class Tail {
  readonly #tails = new Map<TaskId, TaskTail>()
  #weight = 0

  /** Approximate memory held, in bytes. */
  get weight(): number {
    return this.#weight
  }

  /** Adds events that have just been committed. `events` must be consecutive and must not be changed any more; they are `bytes` large in all. */
  push(id: TaskId, events: readonly TaskEvent[], bytes: number): void {
    const first = events[0]
    if (first === undefined) return
    let tail = this.#tails.get(id)
    if (tail === undefined || tail.lastSeq !== first.seq - 1) {
      // Somebody else wrote in between: what is held is no longer gapless with what comes.
      this.drop(id)
      tail = {
        batches: [],
        weights: [],
        startsAfter: first.seq - 1,
        lastSeq: first.seq - 1,
        events: 0,
        weight: 0,
        joined: new Map(),
      }
    }
    // Re-inserted, so that the map's order is the order of last use.
    this.#tails.delete(id)
    this.#tails.set(id, tail)
    tail.joined.clear()
    const lastSeq = first.seq + events.length - 1
    // Of how many bytes each event is is not known; a commit's events are taken to be alike.
    const each = Math.ceil(bytes / events.length) + EVENT_WEIGHT
    for (const run of split(events, each)) {
      const weight = run.length * each
      tail.batches.push({ events: run, lastSeq })
      tail.weights.push(weight)
      tail.events += run.length
      tail.weight += weight
      this.#weight += weight
    }
    tail.lastSeq = lastSeq
    while (tail.batches.length > 1 && (tail.events > MAX_TASK_EVENTS || tail.weight > MAX_TASK_WEIGHT))
      this.#shift(tail)
    for (const oldest of this.#tails.keys()) {
      if (this.#weight <= MAX_TOTAL_WEIGHT || oldest === id) break
      this.drop(oldest)
    }
  }

  /**
   * The next batch after `after`. `up-to-date`: nothing comes after it yet; `unknown`: the tail does not reach back that far, or holds
   * nothing of the task.
   */
  after(id: TaskId, after: number): EventBatch | 'up-to-date' | 'unknown' {
    const tail = this.#tails.get(id)
    if (tail === undefined || after < tail.startsAfter || after > tail.lastSeq) return 'unknown'
    if (after === tail.lastSeq) return 'up-to-date'
    const known = tail.joined.get(after)
    if (known !== undefined) return known
    const batch = this.#join(tail, after)
    tail.joined.set(after, batch)
    return batch
  }

  /** Forgets the task's events: what is asked for next is `unknown`. */
  drop(id: TaskId): void {
    const tail = this.#tails.get(id)
    if (tail === undefined) return
    this.#weight -= tail.weight
    this.#tails.delete(id)
  }

  #shift(tail: TaskTail): void {
    const batch = tail.batches.shift()
    const weight = tail.weights.shift()
    if (batch === undefined || weight === undefined) return
    tail.events -= batch.events.length
    tail.weight -= weight
    this.#weight -= weight
    tail.startsAfter += batch.events.length
  }

  #join(tail: TaskTail, after: number): EventBatch {
    let from = tail.startsAfter
    let at = 0
    for (; at < tail.batches.length; at++) {
      const length = tail.batches[at]?.events.length ?? 0
      if (after < from + length) break
      from += length
    }
    const first = tail.batches[at]
    if (first === undefined) throw new Error('a tail that ends before its lastSeq')
    // The common case, a reader that is up to date: the batch itself, the same object for all.
    if (after === from && at === tail.batches.length - 1) return first
    const events = first.events.slice(after - from)
    let weight = tail.weights[at] ?? 0
    for (at++; at < tail.batches.length; at++) {
      const next = tail.batches[at]
      if (next === undefined || events.length + next.events.length > MAX_BATCH_EVENTS) break
      weight += tail.weights[at] ?? 0
      if (weight > MAX_BATCH_WEIGHT) break
      events.push(...next.events)
    }
    return { events, lastSeq: tail.lastSeq }
  }
}

function split(events: readonly TaskEvent[], each: number): (readonly TaskEvent[])[] {
  const size = Math.max(1, Math.min(MAX_BATCH_EVENTS, Math.floor(MAX_BATCH_WEIGHT / each)))
  if (events.length <= size) return [events]
  const runs: (readonly TaskEvent[])[] = []
  for (let from = 0; from < events.length; from += size) runs.push(events.slice(from, from + size))
  return runs
}
