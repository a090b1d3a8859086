import type { TaskId } from '../ids.ts'
import type { PlanInput, QueuedTask } from './plan-input.ts'

/** So many of the first tasks are looked at in each step, and of so many kinds behind them that are not among these so many each. */
const WINDOW = 24
const MORE_KINDS = 12
const OF_EACH_KIND = 2

/** Tasks that the same workers serve, and whose key has not more or less room than the others'. */
export function kindOf({ specHash, session, owner, keyId }: QueuedTask, keys: PlanInput['keys']): string {
  const kind = session?.isolation === 'owner' ? `${specHash} ${owner}` : specHash
  return keyId !== null && keys.has(keyId) ? `${kind} ${keyId}` : kind
}

/** The part of the queue that is looked at in each step. */
export function createView(
  ordered: readonly QueuedTask[],
  keysWithCaps: PlanInput['keys'],
): {
  next(): ReadonlyMap<TaskId, QueuedTask>
  /** There is more than `next` has given. */
  isLonger(): boolean
  remove(task: QueuedTask): void
} {
  const gone = new Set<TaskId>()
  const kinds = new Map<string, { readonly tasks: QueuedTask[]; from: number }>()
  for (const task of ordered) {
    const kind = kindOf(task, keysWithCaps)
    const known = kinds.get(kind)
    if (known === undefined) kinds.set(kind, { tasks: [task], from: 0 })
    else known.tasks.push(task)
  }
  let from = 0
  let given = 0
  return {
    next() {
      const looked = new Map<TaskId, QueuedTask>()
      const seen = new Set<string>()
      while (from < ordered.length && gone.has(ordered[from]?.id ?? ('' as TaskId))) from += 1
      for (let at = from; at < ordered.length && looked.size < WINDOW; at += 1) {
        const task = ordered[at]
        if (task === undefined || gone.has(task.id)) continue
        looked.set(task.id, task)
        seen.add(kindOf(task, keysWithCaps))
      }
      let more = MORE_KINDS
      for (const [kind, list] of kinds) {
        if (more === 0) break
        if (seen.has(kind)) continue
        const { tasks } = list
        while (list.from < tasks.length && gone.has(tasks[list.from]?.id ?? ('' as TaskId))) list.from += 1
        const left = tasks.slice(list.from, list.from + OF_EACH_KIND).filter(({ id }) => !gone.has(id))
        if (left.length === 0) continue
        more -= 1
        for (const task of left) looked.set(task.id, task)
      }
      given = looked.size + gone.size
      return looked
    },
    isLonger: () => given < ordered.length,
    remove(task) {
      gone.add(task.id)
    },
  }
}
