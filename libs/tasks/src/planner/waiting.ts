import type { TaskId } from '../ids.ts'
import type { QueuedTask, Waiting, WaitingTasks } from './plan-input.ts'
import type { Untold } from './reasons.ts'

/**
 * The tasks at the positions, for the reasons at the same places; those with `null` do not wait, all others are `size`. Nothing is made per
 * task until it is asked for: plans are made far more often than anybody asks one about a task.
 */
export function createWaitingTasks(
  tasks: readonly QueuedTask[],
  positions: Uint32Array,
  reasons: readonly (Waiting | Untold | null)[],
  size: number,
): WaitingTasks {
  let byId: ReadonlyMap<TaskId, Waiting | Untold> | null = null
  const known = (): ReadonlyMap<TaskId, Waiting | Untold> => (byId ??= new Map(places()))

  function* places(): Generator<[TaskId, Waiting | Untold]> {
    for (const [at, reason] of reasons.entries()) {
      const task = tasks[positions[at] ?? 0]
      if (reason !== null && task !== undefined) yield [task.id, reason]
    }
  }

  return {
    size,
    get(id) {
      const reason = known().get(id)
      return reason === undefined ? undefined : told(reason)
    },
    has: (id) => known().has(id),
    *keys() {
      for (const [id] of places()) yield id
    },
    *values() {
      for (const [, reason] of places()) yield told(reason)
    },
    *[Symbol.iterator]() {
      for (const [id, reason] of places()) yield [id, told(reason)]
    },
  }
}

function told(reason: Waiting | Untold): Waiting {
  return typeof reason === 'function' ? reason() : reason
}
