import type { TaskId } from '../ids.ts'
import type { QueuedTask } from '../planner/index.ts'
import { specHashOf } from '../spec-hash.ts'
import type { Task } from '../task.ts'

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
  readonly #perSpec = new Map<string, number>()

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

  add(task: Task): void {
    const entry = queueEntry(task)
    this.delete(task.id)
    this.#entries.set(task.id, entry)
    this.#count(entry.specHash, 1)
    if (entry.dueAt !== null) this.#due.set(task.id, entry.dueAt)
  }

  delete(id: TaskId): boolean {
    const entry = this.#entries.get(id)
    if (entry === undefined) return false
    this.#due.delete(id)
    this.#count(entry.specHash, -1)
    return this.#entries.delete(id)
  }

  /** Whether tasks of the spec are waiting. */
  hasOf(specHash: string): boolean {
    return this.#perSpec.has(specHash)
  }

  /** Those that have waited too long by `now`. */
  overdue(now: number): readonly TaskId[] {
    return [...this.#due].flatMap(([id, dueAt]) => (dueAt <= now ? [id] : []))
  }

  #count(specHash: string, by: 1 | -1): void {
    const count = (this.#perSpec.get(specHash) ?? 0) + by
    if (count === 0) this.#perSpec.delete(specHash)
    else this.#perSpec.set(specHash, count)
  }

  /** When the next one will have waited too long; `null`: none will. */
  get nextDueAt(): number | null {
    return this.#due.size === 0 ? null : Math.min(...this.#due.values())
  }
}

/** What of a task makes its entry. */
type Entered = Pick<
  Task,
  | 'id'
  | 'owner'
  | 'priority'
  | 'queuedAt'
  | 'retryAt'
  | 'presetId'
  | 'spec'
  | 'affinity'
  | 'attempt'
  | 'lastSeq'
>

export function queueEntry(task: Entered): QueueEntry {
  const { id, owner, priority, queuedAt, retryAt, presetId, spec, affinity, attempt, lastSeq } = task
  const { queueMs } = spec.timeouts
  return {
    ...{ id, owner, priority, queuedAt, retryAt, presetId, affinity, attempt, lastSeq },
    specHash: specHashOf(spec),
    gpus: spec.gpus,
    session: spec.session,
    dueAt: queueMs === null ? null : Math.max(queuedAt, retryAt ?? 0) + queueMs,
  }
}
