import type { WorkerFacts, PlannedWorker } from './plan-input.ts'
import type { WorkerRoom } from './room.ts'

/** Where no load has been measured. */
export const UNKNOWN_LOAD_MS = 10_000
const SOON_HOURS = 1 / 6
const LEAST_LIKELIHOOD = 0.01
/** Up to so many candidates all sets are looked at. */
const EXACT_CANDIDATES = 12

/** An idle session worker that may be ended for a task. */
export interface Candidate {
  readonly room: WorkerRoom
  /** Expected, in milliseconds of loading. */
  readonly cost: number
}

/** What ending an idle session is expected to cost: the time to load it again times how likely it is asked for within ten minutes. */
export function evictionCost({ loadMs, tasksPerHour }: WorkerFacts): number {
  const likelihood = Math.max(LEAST_LIKELIHOOD, 1 - Math.exp(-tasksPerHour * SOON_HOURS))
  return (loadMs?.middle ?? UNKNOWN_LOAD_MS) * likelihood
}

/** When a worker may be evicted, were it idle; `null`: never. */
export function evictableAt({ session, readyAt, mode, retiring }: PlannedWorker, now: number): number | null {
  if (mode !== 'SESSION') return null
  if (retiring !== null) return now
  if (session?.pinned === true) return null
  return (readyAt ?? now) + (session?.minResidencyMs ?? 0)
}

/**
 * The set with the smallest cost that is enough, and of equal ones the smaller; `null` where all together are not, or none below the limit
 * is. Exact for few candidates; of many, the cheapest first and then without those that turn out to be needless.
 */
export function cheapestSet(
  candidates: readonly Candidate[],
  isEnough: (set: readonly WorkerRoom[]) => boolean,
): readonly Candidate[] | null {
  const ordered = [...candidates].sort(byCost)
  const rooms = (set: readonly Candidate[]): WorkerRoom[] => set.map(({ room }) => room)
  if (!isEnough(rooms(ordered))) return null
  if (ordered.length > EXACT_CANDIDATES) {
    let size = 1
    while (!isEnough(rooms(ordered.slice(0, size)))) size += 1
    let set: readonly Candidate[] = ordered.slice(0, size)
    for (const candidate of set.toReversed()) {
      const without = set.filter((other) => other !== candidate)
      if (isEnough(rooms(without))) set = without
    }
    return set
  }
  let best: readonly Candidate[] = ordered
  let bestCost = costOf(ordered)
  for (let mask = 1; mask < 2 ** ordered.length - 1; mask += 1) {
    const set = ordered.filter((_, at) => (mask & (1 << at)) !== 0)
    const cost = costOf(set)
    if (cost > bestCost || (cost === bestCost && set.length >= best.length)) continue
    if (!isEnough(rooms(set))) continue
    best = set
    bestCost = cost
  }
  return best
}

export function costOf(set: readonly Candidate[]): number {
  return set.reduce((sum, { cost }) => sum + cost, 0)
}

/** The cheapest first; of equal ones that which was used longest ago. */
export function byCost(a: Candidate, b: Candidate): number {
  return (
    a.cost - b.cost ||
    (a.room.worker.idleSince ?? 0) - (b.room.worker.idleSince ?? 0) ||
    (a.room.worker.id < b.room.worker.id ? -1 : 1)
  )
}
