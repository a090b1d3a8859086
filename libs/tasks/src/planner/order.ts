import type { PlanInput, QueuedTask } from './plan-input.ts'

/** Below so many a comparator is faster than counting digits. */
const FEW = 128
const DIGIT_BITS = 11

/**
 * The queue in the order in which it is looked at: by one moment per task, the smallest first, equal ones by id.
 *
 * The moment is that of the submission, earlier by `priorityStepMs` per step of priority and later by `fairnessStepMs`, at most
 * `maxFairnessMs`, per task of the same owner that is running or comes before it. So a task is passed only by tasks that were submitted less
 * than `maxFairnessMs` plus `priorityStepMs` times their lead in priority after it: nothing waits for ever, and of an owner with many
 * tasks only the first few compete with the first one of somebody else.
 */
export function inOrder(input: PlanInput): readonly QueuedTask[] {
  const ordered: QueuedTask[] = []
  for (const position of orderOf(input.queue, input)) {
    const task = input.queue[position]
    if (task !== undefined) ordered.push(task)
  }
  return ordered
}

/** The same as positions in the tasks: in a long queue, what is next to one another in order is far apart in memory. */
export function orderOf(
  tasks: readonly QueuedTask[],
  { workers, rules }: Pick<PlanInput, 'workers' | 'rules'>,
): Uint32Array {
  if (tasks.length < 2) return counted(tasks.length)
  const counts = new Map<string, Count>()
  for (const worker of workers) for (const owner of worker.runningOwners) countOf(counts, owner).count += 1
  const keys = new Float64Array(tasks.length)
  let last: string | null = null
  let ofLast: Count = { count: 0 }
  const owners = tasks.map(({ queuedAt, priority, owner }, at) => {
    keys[at] = queuedAt - priority * rules.priorityStepMs
    if (owner !== last) ofLast = countOf(counts, owner)
    last = owner
    return ofLast
  })
  const submitted = sorted(tasks, keys, counted(tasks.length))
  for (const position of submitted) {
    const before = owners[position] ?? ofLast
    keys[position] =
      (keys[position] ?? 0) + Math.min(rules.maxFairnessMs, rules.fairnessStepMs * before.count)
    before.count += 1
  }
  return sorted(tasks, keys, submitted)
}

interface Count {
  count: number
}

function countOf(counts: Map<string, Count>, owner: string): Count {
  let known = counts.get(owner)
  if (known === undefined) {
    known = { count: 0 }
    counts.set(owner, known)
  }
  return known
}

/** By their keys, and of those with equal ones by their ids. The positions are used up. */
function sorted(tasks: readonly QueuedTask[], keys: Float64Array, positions: Uint32Array): Uint32Array {
  const byKey = isRising(keys, positions) ? positions : positionsByKey(keys)
  sortEqualById(tasks, keys, byKey)
  return byKey
}

function isRising(keys: Float64Array, positions: Uint32Array): boolean {
  let before = -Infinity
  for (const position of positions) {
    const key = keys[position] ?? 0
    if (key < before) return false
    before = key
  }
  return true
}

/** Puts those with equal keys, which are neighbours, in the order of their ids. */
function sortEqualById(tasks: readonly QueuedTask[], keys: Float64Array, positions: Uint32Array): void {
  const idOf = (position: number): string => tasks[position]?.id ?? ''
  const { length } = positions
  for (let from = 0; from < length;) {
    const key = keyAt(keys, positions, from)
    let to = from + 1
    let isInOrder = true
    while (to < length && keyAt(keys, positions, to) === key) {
      isInOrder &&= idOf(positions[to - 1] ?? 0) < idOf(positions[to] ?? 0)
      to += 1
    }
    if (!isInOrder) positions.subarray(from, to).sort((a, b) => (idOf(a) < idOf(b) ? -1 : 1))
    from = to
  }
}

function keyAt(keys: Float64Array, positions: Uint32Array, at: number): number {
  return keys[positions[at] ?? 0] ?? 0
}

function counted(length: number): Uint32Array {
  const positions = new Uint32Array(length)
  for (let at = 0; at < length; at += 1) positions[at] = at
  return positions
}

/** The positions in the order of their keys, equal ones as they come. */
function positionsByKey(keys: Float64Array): Uint32Array {
  let smallest = Infinity
  let largest = -Infinity
  let isWhole = true
  for (const key of keys) {
    if (key < smallest) smallest = key
    if (key > largest) largest = key
    if (key !== Math.floor(key)) isWhole = false
  }
  if (keys.length < FEW || !isWhole || largest - smallest > 0xffff_ffff) {
    return counted(keys.length).sort((a, b) => (keys[a] ?? 0) - (keys[b] ?? 0) || a - b)
  }
  const offsets = new Uint32Array(keys.length)
  for (let at = 0; at < keys.length; at += 1) offsets[at] = (keys[at] ?? 0) - smallest
  return positionsByDigits(offsets, largest - smallest)
}

/** Counts digit by digit, the least significant first: much faster than comparing where whole numbers are many. */
function positionsByDigits(keys: Uint32Array, largest: number): Uint32Array {
  const mask = 2 ** DIGIT_BITS - 1
  const starts = new Uint32Array(mask + 1)
  let from: Uint32Array = counted(keys.length)
  let to: Uint32Array = new Uint32Array(keys.length)
  for (let shift = 0; shift < 32 && largest >= 2 ** shift; shift += DIGIT_BITS) {
    starts.fill(0)
    for (const key of keys) {
      const digit = (key >>> shift) & mask
      starts[digit] = (starts[digit] ?? 0) + 1
    }
    let start = 0
    for (let digit = 0; digit <= mask; digit += 1) {
      const count = starts[digit] ?? 0
      starts[digit] = start
      start += count
    }
    for (const position of from) {
      const digit = ((keys[position] ?? 0) >>> shift) & mask
      const place = starts[digit] ?? 0
      to[place] = position
      starts[digit] = place + 1
    }
    const filled = to
    to = from
    from = filled
  }
  return from
}
