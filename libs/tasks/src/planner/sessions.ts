import type { Demand, Staff } from './demand.ts'
import { evictableAt, UNKNOWN_LOAD_MS } from './eviction.ts'
import type { PlanInput, PlannedWorker, QueuedTask } from './plan-input.ts'
import type { Room, WorkerRoom } from './room.ts'
import { durationText, gpuText } from './wording.ts'

/** Where no run has been measured. */
const UNKNOWN_RUN_MS = 1_000

/** A session worker for a task, and why that one. */
export interface Server {
  readonly room: WorkerRoom
  readonly isWarm: boolean
  readonly reason: string
}

/** What a task of a demand may expect of the session workers that are there. */
export interface Prospect {
  /** One with a free slot that it should take now. */
  readonly server: Server | null
  /** How many serve it, those that come included. */
  readonly serving: number
  /** Until one of them is free for it; `Infinity` where none serves it. */
  readonly waitMs: number
  /** How long another one would take to load. */
  readonly loadMs: number
}

/** When the worker is as old as it may get; `null`: never. */
export function oldAt({ session, startedAt }: PlannedWorker): number | null {
  return session === null || session.maxAgeMs === null ? null : startedAt + session.maxAgeMs
}

function isOld(worker: PlannedWorker, now: number): boolean {
  const at = oldAt(worker)
  return at !== null && at <= now
}

/** It takes tasks, as soon as it has a free slot. */
export function isServing({ worker, ending }: WorkerRoom, room: Room, now: number): boolean {
  return (
    !ending &&
    worker.phase !== 'ending' &&
    worker.retiring === null &&
    !isOld(worker, now) &&
    isOnGoodGpus(worker, room)
  )
}

function isOnGoodGpus({ claim }: PlannedWorker, room: Room): boolean {
  return claim.gpuIds.every((id) => room.gpus.find(({ gpu }) => gpu.id === id)?.gpu.unusable === null)
}

export function lookAhead(
  task: QueuedTask,
  demand: Demand,
  room: Room,
  { now, blocked }: Pick<PlanInput, 'now' | 'blocked'>,
  isDue: boolean,
): Prospect {
  const { session, facts, staff: known } = demand
  const loadMs = facts.loadMs?.middle ?? UNKNOWN_LOAD_MS
  const runMs = facts.runMs?.middle ?? UNKNOWN_RUN_MS
  const version = room.departures()
  // Slots are only ever taken in a plan: where none was free none is, and who serves changes only by those that go.
  if (known?.version === version) return prospect(demand, known, runMs, loadMs, null)
  const slots = session?.maxConcurrency ?? 1
  let ready = 0
  let starting = 0
  let remainingMs = loadMs
  let best: WorkerRoom | null = null
  for (const server of demand.servers) {
    const { worker } = server
    if (server.ending) continue
    // One that is in another task's way goes on only as long as it cannot be evicted anyway.
    if (server.leaving && now + runMs > (evictableAt(worker, now) ?? Infinity)) continue
    if (worker.phase === 'ready') {
      ready += 1
    } else {
      starting += 1
      remainingMs = Math.min(remainingMs, Math.max(0, worker.startedAt + loadMs - now))
    }
    const isFree =
      server.tasks < slots &&
      (session === null ||
        session.maxTasks === null ||
        worker.tasksServed + server.tasks < session.maxTasks) &&
      (worker.phase === 'ready' || blocked === null)
    if (isFree && (best === null || compare(server, best, task.affinity) < 0)) best = server
  }
  const staff: Staff = { ready, starting, remainingMs, version }
  if (best === null) {
    demand.staff = staff
    return prospect(demand, staff, runMs, loadMs, null)
  }
  const isStarting = best.worker.phase === 'starting'
  const readyMs = readyAfterMs(demand, staff, runMs)
  // A slot of one that still loads is no better than a busy one that is free before it.
  const takes = !isStarting || isDue || readyMs >= remainingMs
  const server = takes
    ? { room: best, isWarm: !isStarting, reason: reasonFor(best, task.affinity, remainingMs) }
    : null
  return prospect(demand, staff, runMs, loadMs, server)
}

/** How long another task of the demand waits until one of the ready servers is free for it. */
function readyAfterMs({ behind, session }: Demand, { ready }: Staff, runMs: number): number {
  return ready === 0 ? Infinity : ((behind + 1) * runMs) / (ready * (session?.maxConcurrency ?? 1))
}

function prospect(
  demand: Demand,
  staff: Staff,
  runMs: number,
  loadMs: number,
  server: Server | null,
): Prospect {
  const { behind, coming, onComing, session } = demand
  const { ready, starting, remainingMs } = staff
  const slots = session?.maxConcurrency ?? 1
  const cold = starting + coming
  const coldMs =
    cold === 0
      ? Infinity
      : remainingMs + (onComing < coming * slots ? 0 : ((behind + 1) * runMs) / ((ready + cold) * slots))
  return {
    server,
    serving: ready + cold,
    waitMs: Math.min(readyAfterMs(demand, staff, runMs), coldMs),
    loadMs,
  }
}

/** Ready before starting; then the last one of the affinity key, the least busy, the most recently used. */
function compare(a: WorkerRoom, b: WorkerRoom, affinity: string | null): number {
  return (
    Number(b.worker.phase === 'ready') - Number(a.worker.phase === 'ready') ||
    (affinity === null
      ? 0
      : (b.worker.affinities.get(affinity) ?? 0) - (a.worker.affinities.get(affinity) ?? 0)) ||
    a.tasks - b.tasks ||
    lastUsed(b.worker) - lastUsed(a.worker) ||
    (a.worker.id < b.worker.id ? -1 : 1)
  )
}

function lastUsed({ runningSince, idleSince, startedAt }: PlannedWorker): number {
  return runningSince.length > 0 ? Math.max(...runningSince) : (idleSince ?? startedAt)
}

function reasonFor({ worker, tasks }: WorkerRoom, affinity: string | null, remainingMs: number): string {
  const name = `Session worker ${worker.id}`
  if (worker.phase === 'starting') {
    return `${name} is coming up and is expected to be ready in about ${durationText(remainingMs)}.`
  }
  const state =
    tasks === 0
      ? 'is warm and free'
      : `is warm and has a free slot beside ${tasks} task${tasks === 1 ? '' : 's'}`
  return affinity !== null && worker.affinities.has(affinity)
    ? `${name} ${state}; it served this affinity key last.`
    : `${name} ${state}.`
}

/** Why an idle session worker is of no more use at all; `null` where it is. */
export function uselessness(
  { worker, tasks, ending }: WorkerRoom,
  room: Room,
  { now, inForce }: Pick<PlanInput, 'now' | 'inForce'>,
  hasTasks: (specHash: string) => boolean,
): string | null {
  if (worker.mode !== 'SESSION' || worker.phase !== 'ready' || ending || tasks > 0) return null
  if (worker.retiring !== null) return `It is idle and was to end: ${worker.retiring}`
  const { session } = worker
  if (session !== null && session.maxTasks !== null && worker.tasksServed >= session.maxTasks) {
    return `It has served ${worker.tasksServed} tasks, as many as its preset lets it.`
  }
  if (isOld(worker, now)) {
    return `It is ${durationText(now - worker.startedAt)} old, as old as its preset lets it get.`
  }
  if (!isOnGoodGpus(worker, room)) {
    const bad = room
      .gpusOf({ worker, tasks, ending, leaving: false })
      .find(({ gpu }) => gpu.unusable !== null)?.gpu
    return bad === undefined
      ? 'It is idle and its GPU is not there any more.'
      : `It is idle and ${gpuText(bad)} gets nothing new: ${bad.unusable ?? ''}`
  }
  const hash = inForce.get(worker.presetId)
  if (hash !== worker.specHash && !hasTasks(worker.specHash)) {
    return hash === undefined
      ? `It is idle and preset ${worker.presetId} is not there any more.`
      : `It is idle and preset ${worker.presetId} has changed since it was started.`
  }
  return null
}

/** When an idle worker has been idle for as long as its preset lets it; `null`: never, or it is not idle. */
export function idleEndAt({ worker, tasks, ending }: WorkerRoom): number | null {
  const { session, idleSince } = worker
  if (worker.mode !== 'SESSION' || worker.phase !== 'ready' || ending || tasks > 0) return null
  if (session === null || session.pinned || session.idleMs === null || idleSince === null) return null
  return idleSince + session.idleMs
}

/** The idle sessions that end by themselves, the one used longest ago first; of a hash that is wanted as many stay as are. */
export function idleEndings(
  room: Room,
  { now, wanted }: Pick<PlanInput, 'now' | 'wanted'>,
): readonly { readonly room: WorkerRoom; readonly reason: string }[] {
  const expired = room.workers
    .filter((worker) => (idleEndAt(worker) ?? Infinity) <= now)
    .sort(
      (a, b) => (a.worker.idleSince ?? 0) - (b.worker.idleSince ?? 0) || (a.worker.id < b.worker.id ? -1 : 1),
    )
  const kept = new Map(wanted.map(({ specHash, count }) => [specHash, count]))
  const live = new Map<string, number>()
  for (const worker of expired.length === 0 ? [] : room.workers) {
    if (worker.worker.mode !== 'SESSION' || !isServing(worker, room, now)) continue
    live.set(worker.worker.specHash, (live.get(worker.worker.specHash) ?? 0) + 1)
  }
  return expired.flatMap((ended) => {
    const { specHash, idleSince, session } = ended.worker
    const left = live.get(specHash) ?? 0
    if (left <= (kept.get(specHash) ?? 0)) return []
    live.set(specHash, left - 1)
    return [
      {
        room: ended,
        reason: `It has been idle for ${durationText(now - (idleSince ?? now))}; its preset keeps it for ${durationText(session?.idleMs ?? 0)}.`,
      },
    ]
  })
}
