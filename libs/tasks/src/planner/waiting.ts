import type { TaskId } from '../ids.ts'
import type { QueuedTask, Waiting, WaitingTasks } from './plan-input.ts'

/**
 * Tasks that wait, for the reasons at the same places. Nothing is made per task until it is asked for: plans are made far more often than
 * anybody asks one about a task.
 */
export function createWaitingTasks(tasks: readonly QueuedTask[], reasons: readonly Waiting[]): WaitingTasks {
  let byId: ReadonlyMap<TaskId, Waiting> | null = null
  const known = (): ReadonlyMap<TaskId, Waiting> => (byId ??= new Map(entries()))

  function* entries(): Generator<[TaskId, Waiting]> {
    for (const [at, { id }] of tasks.entries()) {
      const reason = reasons[at]
      if (reason !== undefined) yield [id, reason]
    }
  }

  return {
    size: tasks.length,
    get: (id) => known().get(id),
    has: (id) => known().has(id),
    *keys() {
      for (const { id } of tasks) yield id
    },
    values: () => reasons,
    [Symbol.iterator]: entries,
  }
}
