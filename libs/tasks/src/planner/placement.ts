import type { Demand } from './demand.ts'
import { cheapestSet, costOf, evictableAt, type Candidate } from './eviction.ts'
import type { PlannedWorker, WorkerFacts } from './plan-input.ts'
import type { GpuRoom, WorkerRoom } from './room.ts'

/** GPUs that are free as soon as the workers that end, and those to be evicted, are gone. */
export interface Release {
  readonly gpus: readonly GpuRoom[]
  readonly evict: readonly Candidate[]
}

/** GPUs that are free when the blockers have left. */
export interface Reservation {
  readonly gpus: readonly GpuRoom[]
  readonly blockers: readonly WorkerRoom[]
}

/** All GPUs of a claim that fits now, or `null`. A part of a GPU is taken where the least is left, a whole one where the most is free. */
export function findNow({ count, share, usable }: Demand): readonly GpuRoom[] | null {
  if (usable.length < count) return null
  return chosen(
    usable.filter((gpu) => gpu.fitsNow(share)),
    count,
    share.memoryMb === null ? mostMeasured : leastAvailable,
  )
}

/** The cheapest way to what is free once workers are gone that end anyway or are idle; `null` where there is none. */
export function findRelease(demand: Demand, candidates: readonly Candidate[]): Release | null {
  const { count, share, usable } = demand
  if (usable.length < count) return null
  const order = share.memoryMb === null ? mostMeasured : leastAvailable
  // What is free already comes before what has yet to become free.
  const soon = (going: readonly WorkerRoom[]): readonly GpuRoom[] | null =>
    chosen(
      usable.filter((gpu) => gpu.fitsSoon(share, going)),
      count,
      (a, b) => Number(b.isFree(share)) - Number(a.isFree(share)) || order(a, b),
    )
  const withoutEviction = soon([])
  if (withoutEviction !== null) return { gpus: withoutEviction, evict: [] }

  const there = candidates.filter(({ room }) => usable.some(({ holders }) => holders.includes(room)))
  if (there.length === 0) return null
  if (count > 1) {
    const evict = cheapestSet(there, (set) => soon(set) !== null)
    const gpus = evict === null ? null : soon(evict.map(({ room }) => room))
    return evict === null || gpus === null ? null : { gpus, evict }
  }
  let best: Release | null = null
  for (const gpu of usable) {
    const evict = cheapestSet(
      there.filter(({ room }) => gpu.holders.includes(room)),
      (set) => gpu.fitsSoon(share, set),
    )
    if (evict === null) continue
    const difference = best === null ? -1 : costOf(evict) - costOf(best.evict)
    if (best === null || difference < 0 || (difference === 0 && evict.length < best.evict.length)) {
      best = { gpus: [gpu], evict }
    }
  }
  return best
}

/** When somebody who is in the way is expected to be out of it. */
export interface Leave {
  readonly room: WorkerRoom
  /** It was busy before the task became due. */
  readonly isOld: boolean
  /** Of old ones the expected end, of others the begin: the smaller one is preferred. */
  readonly rank: number
}

/**
 * What to hold back for a task that is not passed any more: the GPUs whose blockers are soonest gone; `null` where too many never go.
 *
 * Blockers that were busy when the task became due come first, by their expected end; then the others, by their begin. New work elsewhere
 * is thus never preferred to what is held back, so the choice cannot move on for ever: the task waits at most for the longest run that
 * had begun before it was due and first.
 */
export function findReservation(
  { count, share, usable }: Demand,
  leaveOf: (room: WorkerRoom) => Leave | null,
): Reservation | null {
  if (usable.length < count) return null
  const options = usable.flatMap((gpu) => {
    // Mostly there is nothing left to hold back: that is seen before anybody's end is guessed.
    if (!gpu.fitsLater(share, gpu.holders)) return []
    const leaves = gpu.holders
      .filter(({ ending }) => !ending)
      .map(leaveOf)
      .filter((leave) => leave !== null)
    const ordered = leaves.sort(byLeave)
    const all = ordered.map(({ room }) => room)
    if (!gpu.fitsLater(share, all)) return []
    let size = 0
    while (!gpu.fitsLater(share, all.slice(0, size))) size += 1
    let blockers = ordered.slice(0, size)
    for (const blocker of [...blockers]) {
      const without = blockers.filter((other) => other !== blocker)
      if (
        gpu.fitsLater(
          share,
          without.map(({ room }) => room),
        )
      )
        blockers = without
    }
    return [{ gpu, blockers }]
  })
  if (options.length < count) return null
  const best = options
    .sort((a, b) => {
      const [lastA, lastB] = [a.blockers.at(-1), b.blockers.at(-1)]
      if (lastA === undefined || lastB === undefined) return a.blockers.length - b.blockers.length
      return byLeave(lastA, lastB) || a.gpu.gpu.index - b.gpu.gpu.index
    })
    .slice(0, count)
  return {
    gpus: best.map(({ gpu }) => gpu),
    blockers: best.flatMap(({ blockers }) => blockers.map(({ room }) => room)),
  }
}

/** How the workers of a plan may get out of a task's way. */
export function createLeave(
  now: number,
  dueAt: number,
  factsOf: (specHash: string) => WorkerFacts,
): (room: WorkerRoom) => Leave | null {
  return (room) => {
    const { worker } = room
    if (worker.mode === 'SESSION' && evictableAt(worker, now) === null) return null
    const begin = Math.max(worker.startedAt, ...worker.runningSince)
    const isOld = begin <= dueAt
    return { room, isOld, rank: isOld ? expectedEnd(worker, begin, now, factsOf(worker.specHash)) : begin }
  }
}

function expectedEnd(
  worker: PlannedWorker,
  begin: number,
  now: number,
  { loadMs, runMs }: WorkerFacts,
): number {
  const loaded = worker.readyAt ?? worker.startedAt + (loadMs?.middle ?? 0)
  if (worker.mode === 'SESSION' && worker.runningSince.length === 0) {
    return Math.max(now, evictableAt({ ...worker, readyAt: loaded }, now) ?? now)
  }
  const end = runMs === null ? -Infinity : Math.max(begin, loaded) + runMs.middle
  // One of which nothing is known, or that has run longer than others do, is believed to be half done.
  return end >= now ? end : now + (now - begin)
}

export function byLeave(a: Leave, b: Leave): number {
  return (
    Number(b.isOld) - Number(a.isOld) ||
    a.rank - b.rank ||
    (a.room.worker.id < b.room.worker.id ? -1 : a.room.worker.id > b.room.worker.id ? 1 : 0)
  )
}

function chosen(
  fitting: readonly GpuRoom[],
  count: number,
  order: (a: GpuRoom, b: GpuRoom) => number,
): readonly GpuRoom[] | null {
  if (fitting.length < count) return null
  if (count === 0) return []
  if (count === 1) return [fitting.reduce((best, gpu) => (order(gpu, best) < 0 ? gpu : best))]
  return [...fitting].sort(order).slice(0, count)
}

function leastAvailable(a: GpuRoom, b: GpuRoom): number {
  // GPUs of unknown size are all equally empty.
  return (a.availableMb === b.availableMb ? 0 : a.availableMb - b.availableMb) || a.gpu.index - b.gpu.index
}

function mostMeasured(a: GpuRoom, b: GpuRoom): number {
  return b.measuredFreeMb - a.measuredFreeMb || a.gpu.index - b.gpu.index
}
