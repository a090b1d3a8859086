import type { TaskId } from '../ids.ts'
import type { QueuedTask } from '../planner/index.ts'
import { specHashOf } from '../spec-hash.ts'
import type { Task } from '../task.ts'
import { MAX_BACKOFF_MS } from '../workers/run.ts'

/** What the planner and a claim need of a QUEUED task; inputs and specs stay in the store. */
export interface QueueEntry extends QueuedTask {
  readonly attempt: number
  readonly lastSeq: number
  /** When it has waited too long; `null`: it may wait for ever. */
  readonly dueAt: number | null
}

/** The QUEUED tasks, in the order in which they came. */
export class TaskQueue {
  readonly #entries = new Map<TaskId, QueueEntry>()
  readonly #due = new Map<TaskId, number>()
  readonly #perSpec = new Tally()
  readonly #perKey = new Tally()

  get size(): number {
    return this.#entries.size
  }

  entries(): readonly QueueEntry[] {
    return [...this.#entries.values()]
  }

  ids(): Iterable<TaskId> {
    return this.#entries.keys()
  }

  get(id: TaskId): QueueEntry | undefined {
    return this.#entries.get(id)
  }

  /** At `now`. */
  add(task: Task, now: number): void {
    this.delete(task.id)
    this.#set(queueEntry(task, now))
  }

  /** The clock was set forward by so many milliseconds (back: below 0): what waits has waited for as long as before. */
  clockJumped(ms: number): void {
    for (const entry of this.entries()) {
      const { id, queuedAt, retryAt, dueAt } = entry
      this.delete(id)
      this.#set({
        ...entry,
        queuedAt: queuedAt + ms,
        retryAt: retryAt === null ? null : retryAt + ms,
        dueAt: dueAt === null ? null : dueAt + ms,
      })
    }
  }

  #set(entry: QueueEntry): void {
    const { id, specHash, keyId, dueAt } = entry
    this.#entries.set(id, entry)
    this.#perSpec.add(specHash, 1)
    if (keyId !== null) this.#perKey.add(keyId, 1)
    if (dueAt !== null) this.#due.set(id, dueAt)
  }

  delete(id: TaskId): boolean {
    const entry = this.#entries.get(id)
    if (entry === undefined) return false
    this.#due.delete(id)
    this.#perSpec.add(entry.specHash, -1)
    if (entry.keyId !== null) this.#perKey.add(entry.keyId, -1)
    return this.#entries.delete(id)
  }

  /** Whether tasks of the spec are waiting. */
  hasOf(specHash: string): boolean {
    return this.#perSpec.of(specHash) > 0
  }

  /** How many tasks of the API key are waiting. */
  countOf(keyId: string): number {
    return this.#perKey.of(keyId)
  }

  /** The API keys whose tasks are waiting. */
  keyIds(): Iterable<string> {
    return this.#perKey.names()
  }

  /** Those that have waited too long by `now`. */
  overdue(now: number): readonly TaskId[] {
    return [...this.#due].flatMap(([id, dueAt]) => (dueAt <= now ? [id] : []))
  }

  /** When the next one will have waited too long; `null`: none will. */
  get nextDueAt(): number | null {
    return this.#due.size === 0 ? null : Math.min(...this.#due.values())
  }
}

/** How many there are of each. */
class Tally {
  readonly #counts = new Map<string, number>()

  of(name: string): number {
    return this.#counts.get(name) ?? 0
  }

  names(): Iterable<string> {
    return this.#counts.keys()
  }

  add(name: string, by: 1 | -1): void {
    const count = this.of(name) + by
    if (count === 0) this.#counts.delete(name)
    else this.#counts.set(name, count)
  }
}

/** What of a task makes its entry. */
type Entered = Pick<
  Task,
  | 'id'
  | 'owner'
  | 'keyId'
  | 'priority'
  | 'queuedAt'
  | 'retryAt'
  | 'presetId'
  | 'spec'
  | 'affinity'
  | 'attempt'
  | 'lastSeq'
>

export function queueEntry(task: Entered, now: number): QueueEntry {
  const { id, owner, keyId, priority, presetId, spec, affinity, attempt, lastSeq } = task
  const { queueMs } = spec.timeouts
  // Where the clock was set back while no process was there, nothing waits for it to come round again.
  const queuedAt = Math.min(task.queuedAt, now)
  const retryAt = task.retryAt === null ? null : Math.min(task.retryAt, now + MAX_BACKOFF_MS)
  return {
    ...{ id, owner, keyId, priority, queuedAt, retryAt, presetId, affinity, attempt, lastSeq },
    specHash: specHashOf(spec),
    gpus: spec.gpus,
    session: spec.session,
    dueAt: queueMs === null ? null : Math.max(queuedAt, retryAt ?? 0) + queueMs,
  }
}
