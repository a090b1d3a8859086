import { setImmediate as nextTurn } from 'node:timers/promises'
import type { AuditEntry, AuditFilter, Task, TaskEvent, TaskFilter, TaskStore } from '@gpu-service/tasks'

/** A task's input may have 256 KiB, an entry of the audit log a few. */
const TASKS_AT_ONCE = 20
const EVENTS_AT_ONCE = 500
const ENTRIES_AT_ONCE = 200

/**
 * All tasks that match, newest first, a page in memory at a time. The pages are told apart by the time of creation, not by a task that may
 * be removed meanwhile: what is there all the time comes once.
 */
export async function* tasksOf(store: TaskStore, filter: TaskFilter): AsyncGenerator<Task, void> {
  let { createdBefore } = filter
  /** Those of the last moment of the page before, which comes again. */
  let known = new Set<string>()
  for (;;) {
    const { tasks, hasNextPage } = await store.tasks({
      ...{ filter: createdBefore === undefined ? filter : { ...filter, createdBefore } },
      ...{ first: TASKS_AT_ONCE + known.size, after: null },
    })
    yield* tasks.filter(({ id }) => !known.has(id))
    const last = tasks.at(-1)
    if (last === undefined || !hasNextPage) return
    const sameMoment = tasks.filter(({ createdAt }) => createdAt === last.createdAt).map(({ id }) => id)
    known = new Set(createdBefore === last.createdAt + 1 ? [...known, ...sameMoment] : sameMoment)
    createdBefore = last.createdAt + 1
  }
}

/** The events of the task as far as they are stored now. */
export async function* eventsOf(store: TaskStore, { id, lastSeq }: Task): AsyncGenerator<TaskEvent, void> {
  for (let after = 0; after < lastSeq;) {
    const events = await store.events(id, after, Math.min(EVENTS_AT_ONCE, lastSeq - after))
    const last = events.at(-1)
    if (last === undefined) throw new Error(`The events of task ${id} end at ${after}, not at ${lastSeq}.`)
    yield* events
    after = last.seq
    await nextTurn()
  }
}

/** The entries of the audit log that match, newest first. */
export async function* entriesOf(store: TaskStore, filter: AuditFilter): AsyncGenerator<AuditEntry, void> {
  for (let before: number | null = null, more = true; more;) {
    const { entries, hasNextPage } = await store.auditLog({ filter, first: ENTRIES_AT_ONCE, before })
    yield* entries
    before = entries.at(-1)?.seq ?? null
    more = hasNextPage
  }
}
