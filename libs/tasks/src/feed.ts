import type { TaskId } from './ids.ts'
import { Nudge, NudgeMap } from './nudge.ts'
import type { TaskStore } from './store.ts'
import { MAX_BATCH_EVENTS, type EventBatch, Tail } from './tail.ts'
import { isFinal, unknownTaskText, type Task } from './task.ts'
import type { TaskEvent } from './event.ts'

/** Why a feed cannot be opened, or (HISTORY_REMOVED) ends before its task's final event. */
export class FeedError extends Error {
  override readonly name = 'FeedError'
  readonly code: 'NOT_FOUND' | 'BAD_CURSOR' | 'HISTORY_REMOVED'
  constructor(code: FeedError['code'], message: string) {
    super(message)
    this.code = code
  }
}

export interface FeedOptions {
  /** The seq to read on from: 0 for all. */
  readonly after: number
  readonly signal?: AbortSignal
}

/**
 * The feeds of all tasks: a task's events from a cursor on, first the stored ones, then live, as one loop. A reader holds nothing but its
 * cursor: a slow one gets larger batches and costs nobody anything, and one that comes back with its cursor gets exactly the rest.
 */
export class Feeds {
  readonly #store: Pick<TaskStore, 'task' | 'events'>
  readonly #tail = new Tail()
  readonly #nudges = new NudgeMap<TaskId>()

  constructor(store: Pick<TaskStore, 'task' | 'events'>) {
    this.#store = store
  }

  /** Says that these events of the task, about `bytes` large, have been committed. They must not be changed any more. */
  committed(id: TaskId, events: readonly TaskEvent[], bytes: number): void {
    this.#tail.push(id, events, bytes)
    this.#nudges.nudge(id)
  }

  /** Says that the store has events of the task that were not handed over by `committed`. */
  changed(id: TaskId): void {
    this.#tail.drop(id)
    this.#nudges.nudge(id)
  }

  /** Says that nothing comes any more: the ended task's recent events need not be held, readers find them in the store. */
  forget(id: TaskId): void {
    this.#tail.drop(id)
  }

  /** How many tasks are being watched. */
  get watched(): number {
    return this.#nudges.size
  }

  /**
   * Batches of the task's events after `after`; ends after the final status event, at once where `after` is the last event of an ended
   * task.
   * @throws FeedError NOT_FOUND for an unknown task, BAD_CURSOR where `after` is below 0 or above the task's lastSeq; the iterator throws
   * HISTORY_REMOVED where the task is removed before all of its events were read.
   */
  async open(id: TaskId, options: FeedOptions): Promise<AsyncIterableIterator<EventBatch>> {
    const task = await this.#store.task(id)
    if (task === null) throw new FeedError('NOT_FOUND', unknownTaskText(id))
    const { after } = options
    if (after < 0 || after > task.lastSeq) {
      throw new FeedError('BAD_CURSOR', `after is ${after}, but the task's events end at ${task.lastSeq}.`)
    }
    return this.#iterate(task, options)
  }

  /** Not a generator: one that is left at a `yield` holds the batch for as long as its reader takes, and is deaf while it waits. */
  #iterate(task: Task, { after: from, signal }: FeedOptions): AsyncIterableIterator<EventBatch> {
    const { id } = task
    const closed = new AbortController()
    const stop = signal === undefined ? closed.signal : AbortSignal.any([closed.signal, signal])
    let after = from
    let isOver = isFinal(task.status) && from === task.lastSeq
    let held: ReturnType<NudgeMap<TaskId>['hold']> | null = null
    const end = (): IteratorResult<EventBatch> => {
      isOver = true
      held?.release()
      held = null
      closed.abort()
      return { done: true, value: undefined }
    }
    const read = async (nudge: Nudge): Promise<EventBatch | null> => {
      while (!stop.aborted) {
        const { version } = nudge
        const recent = this.#tail.after(id, after)
        const batch = recent === 'unknown' ? await this.#stored(id, after) : recent
        if (batch !== 'up-to-date') {
          if (batch.events.length > 0) return batch
          await this.#checkThere(id, after)
        }
        await nudge.waitPast(version, stop)
      }
      return null
    }

    return {
      [Symbol.asyncIterator]() {
        return this
      },
      next: async () => {
        if (isOver) return end()
        held ??= this.#nudges.hold(id)
        try {
          const value = await read(held.nudge)
          const last = value?.events.at(-1)
          // Left meanwhile, it stays so.
          if (value === null || last === undefined || stop.aborted) return end()
          after = last.seq
          isOver = last.body.type === 'status' && isFinal(last.body.taskStatus)
          return { done: false, value }
        } catch (error) {
          end()
          throw error
        }
      },
      return: () => Promise.resolve(end()),
    }
  }

  /** That nothing follows may mean that nothing ever will. */
  async #checkThere(id: TaskId, after: number): Promise<void> {
    if ((await this.#store.task(id)) !== null) return
    throw new FeedError(
      'HISTORY_REMOVED',
      `Task ${id} was removed while its events after ${after} were being read.`,
    )
  }

  async #stored(id: TaskId, after: number): Promise<EventBatch> {
    const events = await this.#store.events(id, after, MAX_BATCH_EVENTS)
    const last = events.at(-1)
    if (last === undefined) return { events, lastSeq: after }
    const task = await this.#store.task(id)
    return { events, lastSeq: Math.max(last.seq, task?.lastSeq ?? 0) }
  }
}

/** What has changed since one last looked: a set of keys per watcher, so that a slow watcher holds each key at most once. */
export class Changes<K> {
  readonly #watchers = new Set<{ readonly keys: Set<K>; readonly nudge: Nudge }>()

  changed(key: K): void {
    for (const { keys, nudge } of this.#watchers) {
      keys.add(key)
      nudge.nudge()
    }
  }

  /** The sets of keys that changed, from now on; never an empty set. */
  watch(): AsyncIterableIterator<readonly K[]> {
    const watcher = { keys: new Set<K>(), nudge: new Nudge() }
    const closed = new AbortController()
    const stop = closed.signal
    const watchers = this.#watchers
    watchers.add(watcher)
    const end = (): Promise<IteratorResult<readonly K[]>> => {
      watchers.delete(watcher)
      closed.abort()
      return Promise.resolve({ done: true, value: undefined })
    }
    return {
      [Symbol.asyncIterator]() {
        return this
      },
      async next() {
        for (;;) {
          const { version } = watcher.nudge
          if (stop.aborted) return end()
          if (watcher.keys.size > 0) {
            const keys = [...watcher.keys]
            watcher.keys.clear()
            return { done: false, value: keys }
          }
          await watcher.nudge.waitPast(version, stop)
        }
      },
      return: end,
    }
  }
}
