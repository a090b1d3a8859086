import type { PlanInput, QueuedTask } from './plan-input.ts'

/**
 * The queue in the order in which it is looked at: by one moment per task, the smallest first, equal ones by id.
 *
 * The moment is that of the submission, earlier by `priorityStepMs` per step of priority and later by `fairnessStepMs`, at most
 * `maxFairnessMs`, per task of the same owner that is running or comes before it. So a task is passed only by tasks that were submitted less
 * than `maxFairnessMs` plus `priorityStepMs` times their lead in priority after it: nothing waits for ever, and of an owner with many
 * tasks only the first few compete with the first one of somebody else.
 */
export function inOrder({ queue, workers, rules }: PlanInput): readonly QueuedTask[] {
  const tasks = [...queue]
  const keys = new Float64Array(tasks.length)
  let at = 0
  for (const { queuedAt, priority } of tasks) keys[at++] = queuedAt - priority * rules.priorityStepMs

  const owners = new Map<string, { count: number }>()
  const countOf = (owner: string): { count: number } => {
    let known = owners.get(owner)
    if (known === undefined) {
      known = { count: 0 }
      owners.set(owner, known)
    }
    return known
  }
  for (const worker of workers) for (const owner of worker.runningOwners) countOf(owner).count += 1

  const submitted = sorted({ tasks, keys })
  at = 0
  for (const { owner } of submitted.tasks) {
    const before = countOf(owner)
    const key = submitted.keys[at] ?? 0
    submitted.keys[at++] = key + Math.min(rules.maxFairnessMs, rules.fairnessStepMs * before.count)
    before.count += 1
  }
  return sorted(submitted).tasks
}

interface Keyed {
  readonly tasks: readonly QueuedTask[]
  readonly keys: Float64Array
}

function sorted(given: Keyed): Keyed {
  if (isSorted(given)) return given
  const positions = byKey(given.keys)
  const tasks: QueuedTask[] = []
  const keys = new Float64Array(given.keys.length)
  for (const position of positions) {
    const task = given.tasks[position]
    if (task === undefined) continue
    keys[tasks.length] = given.keys[position] ?? 0
    tasks.push(task)
  }
  sortEqualById(tasks, keys)
  return { tasks, keys }
}

/** Puts those with equal keys, which are neighbours, in the order of their ids. */
function sortEqualById(tasks: QueuedTask[], keys: Float64Array): void {
  for (let from = 0; from < tasks.length;) {
    let to = from + 1
    while (to < tasks.length && keys[to] === keys[from]) to += 1
    if (to - from > 1) {
      const equal = tasks.slice(from, to)
      equal.sort(byId)
      for (const task of equal) tasks[from++] = task
    }
    from = to
  }
}

function byId(a: QueuedTask, b: QueuedTask): number {
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0
}

function isSorted({ tasks, keys }: Keyed): boolean {
  let before = tasks[0]
  for (let at = 1; at < tasks.length; at += 1) {
    const task = tasks[at]
    const difference = (keys[at] ?? 0) - (keys[at - 1] ?? 0)
    if (difference < 0) return false
    if (difference === 0 && before !== undefined && task !== undefined && before.id > task.id) return false
    before = task
  }
  return true
}

/** The positions in the order of their keys. */
function byKey(keys: Float64Array): Iterable<number> {
  const { length } = keys
  let smallest = Infinity
  let largest = -Infinity
  let isWhole = true
  for (const key of keys) {
    if (key < smallest) smallest = key
    if (key > largest) largest = key
    if (!Number.isInteger(key)) isWhole = false
  }
  const size = 2 ** Math.ceil(Math.log2(length))
  if (!isWhole || (largest - smallest + 1) * size > Number.MAX_SAFE_INTEGER) {
    return Array.from(keys.keys()).sort((a, b) => (keys[a] ?? 0) - (keys[b] ?? 0))
  }
  // Key and position in one number: a typed array sorts numbers several times faster than a comparator does.
  const packed = new Float64Array(length)
  for (let at = 0; at < length; at += 1) packed[at] = ((keys[at] ?? 0) - smallest) * size + at
  packed.sort()
  const positions = new Uint32Array(length)
  for (let at = 0; at < length; at += 1) {
    const value = packed[at] ?? 0
    positions[at] = value - Math.floor(value / size) * size
  }
  return positions
}
