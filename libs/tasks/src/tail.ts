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
/** About the most characters of text in one batch of more than one event. */
const MAX_BATCH_WEIGHT = 256 * 1024
const MAX_TASK_EVENTS = 4_096
const MAX_TASK_WEIGHT = 2 * 1024 * 1024
const MAX_TOTAL_WEIGHT = 48 * 1024 * 1024

interface TaskTail {
  /** Gapless and in order; the first batch's events start after `startsAfter`. */
  batches: EventBatch[]
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

  /** Approximate memory held, in characters of text. */
  get weight(): number {
    return this.#weight
  }

  /** Adds events that have just been committed. `events` must be consecutive and must not be changed any more. */
  push(id: TaskId, events: readonly TaskEvent[]): void {
    const first = events[0]
    if (first === undefined) return
    let tail = this.#tails.get(id)
    if (tail === undefined || tail.lastSeq !== first.seq - 1) {
      // Somebody else wrote in between: what is held is no longer gapless with what comes.
      this.drop(id)
      tail = {
        batches: [],
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
    for (const run of split(events)) {
      const weight = weightOf(run)
      tail.batches.push({ events: run, lastSeq })
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
    if (batch === undefined) return
    const weight = weightOf(batch.events)
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
    let weight = weightOf(events)
    for (at++; at < tail.batches.length; at++) {
      const next = tail.batches[at]
      if (next === undefined || events.length + next.events.length > MAX_BATCH_EVENTS) break
      weight += weightOf(next.events)
      if (weight > MAX_BATCH_WEIGHT) break
      events.push(...next.events)
    }
    return { events, lastSeq: tail.lastSeq }
  }
}

function split(events: readonly TaskEvent[]): (readonly TaskEvent[])[] {
  const average = weightOf(events) / events.length
  const size = Math.max(1, Math.min(MAX_BATCH_EVENTS, Math.floor(MAX_BATCH_WEIGHT / average)))
  if (events.length <= size) return [events]
  const runs: (readonly TaskEvent[])[] = []
  for (let from = 0; from < events.length; from += size) runs.push(events.slice(from, from + size))
  return runs
}

/** About how much memory an event's text takes; structured values count as a line of average length. */
function weightOf(events: readonly TaskEvent[]): number {
  let weight = 0
  for (const { body } of events) {
    weight += 64
    switch (body.type) {
      case 'text_delta':
        weight += body.delta.length
        break
      case 'text':
        weight += body.content.length
        break
      case 'log':
      case 'fault':
        weight += body.line.length
        break
      case 'result':
      case 'custom':
        weight += 4_096
        break
      default:
        weight += 128
    }
  }
  return weight
}
