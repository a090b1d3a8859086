import type { PresetId } from '../ids.ts'
import type { GpuNeed, SessionOptions } from '../spec.ts'
import { allowing, gpuCount } from './gpu-need.ts'
import type { PlanInput, QueuedTask, Waiting, WantedSession, WorkerFacts } from './plan-input.ts'
import type { Untold } from './reasons.ts'
import type { GpuRoom, Room, Share, WorkerRoom } from './room.ts'
import { isServing } from './sessions.ts'

/** What all tasks have in common that the same workers can serve and the same GPUs can hold; and how the plan has gone for them so far. */
export interface Demand {
  readonly presetId: PresetId
  readonly specHash: string
  readonly need: GpuNeed
  readonly session: SessionOptions | null
  /** Whose tasks these are, where workers are not shared; else `null`. */
  readonly owner: string | null
  readonly facts: WorkerFacts
  readonly count: number
  readonly share: Share
  /** The GPUs that its need allows. */
  readonly allowed: readonly GpuRoom[]
  /** Those of them that get something new and are large enough. */
  readonly usable: readonly GpuRoom[]
  /** Session workers that serve it as soon as they have a free slot. */
  readonly servers: readonly WorkerRoom[]
  /** How many session workers of its preset are there or coming. */
  readonly ofPreset: { workers: number }
  /** What none of the servers having a free slot came to, for as long as none of them goes; `null`: one may have. */
  staff: Staff | null
  /** What was last said of when one is free, and for which times it says so. */
  expectation: Expectation | null
  /** The loop has come to one of its tasks. */
  isAsked: boolean
  /** No room was found though idle sessions of this expected cost might have gone for it; below 0: none has been looked for. */
  failedAtCost: number
  /** Nothing is left that could be held back for it. */
  isBeyondReserve: boolean
  /** Of those that failed. */
  waiting: Waiting | null
  /** How many session workers this plan starts for it, or makes room for. */
  coming: number
  /** Its tasks that wait for these, within their slots. */
  onComing: number
  /** Its tasks that wait for a slot beyond all that are there or coming. */
  behind: number
}

/** Of the servers of a demand. */
export interface Staff {
  readonly ready: number
  readonly starting: number
  /** Until the first of those that are starting is ready, and at most as long as another one would take. */
  readonly remainingMs: number
  /** Of the room's departures. */
  readonly version: number
}

export interface Expectation {
  readonly serving: number
  readonly fromMs: number
  readonly toMs: number
  readonly waiting: Untold
}

/** What tells the tasks of one demand from others. */
export interface Kind {
  readonly need: GpuNeed
  readonly isSession: boolean
  /** As of the demand. */
  readonly owner: string | null
  /** `null`: the plan has come to none of its tasks. */
  demand: Demand | null
}

export interface Demands {
  kindOf(task: QueuedTask): Kind
  /** The demand of a kind; made as the first task that it is asked for says. */
  of(kind: Kind, task: QueuedTask): Demand
  ofWanted(wanted: WantedSession): Demand
  all(): Iterable<Demand>
}

/** Of one hash: those that everybody's workers serve, and those that only their owner's do. */
interface Kinds {
  readonly shared: Kind[]
  readonly owned: Map<string, Kind[]>
}

type Asking = Pick<QueuedTask, 'presetId' | 'specHash' | 'gpus' | 'session'>

export function createDemands(
  { now, gpus, factsOf }: Pick<PlanInput, 'now' | 'gpus' | 'factsOf'>,
  room: Room,
): Demands {
  const facts = new Map<string, WorkerFacts>()
  const byHash = new Map<string, Kinds>()
  const demands: Demand[] = []
  const workersOfPreset = new Map<PresetId, { workers: number }>()
  for (const { worker } of room.workers) if (worker.mode === 'SESSION') ofPreset(worker.presetId).workers += 1
  const serversByHash = new Map<string, WorkerRoom[]>()
  for (const worker of room.workers) {
    if (worker.worker.mode !== 'SESSION' || !isServing(worker, room, now)) continue
    const known = serversByHash.get(worker.worker.specHash)
    if (known === undefined) serversByHash.set(worker.worker.specHash, [worker])
    else known.push(worker)
  }

  const factsFor = (specHash: string): WorkerFacts => {
    const known = facts.get(specHash) ?? factsOf(specHash)
    facts.set(specHash, known)
    return known
  }

  function ofPreset(id: PresetId): { workers: number } {
    let known = workersOfPreset.get(id)
    if (known === undefined) {
      known = { workers: 0 }
      workersOfPreset.set(id, known)
    }
    return known
  }

  function create({ presetId, specHash, gpus: need, session }: Asking, owner: string | null): Demand {
    const known = factsFor(specHash)
    const share = shareOf(need, known)
    const allows = allowing(need)
    const allowed = room.gpus.filter(({ gpu }) => allows(gpu))
    const demand: Demand = {
      presetId,
      specHash,
      need,
      session,
      owner,
      facts: known,
      count: gpuCount(need, gpus),
      share,
      allowed,
      usable: allowed.filter(
        ({ gpu }) => gpu.unusable === null && (gpu.memoryTotalMb === 0 || gpu.memoryTotalMb >= share.leastMb),
      ),
      servers:
        session === null
          ? []
          : (serversByHash.get(specHash) ?? []).filter(
              ({ worker }) =>
                (session.isolation === 'shared' || worker.owner === owner) &&
                worker.claim.gpuIds.every((id) => need.ids === null || need.ids.includes(id)),
            ),
      ofPreset: ofPreset(presetId),
      staff: null,
      expectation: null,
      isAsked: false,
      failedAtCost: -1,
      isBeyondReserve: false,
      waiting: null,
      coming: 0,
      onComing: 0,
      behind: 0,
    }
    demands.push(demand)
    return demand
  }

  function find({ specHash, session, gpus: need }: Asking, owner: string | null): Kind {
    let ofHash = byHash.get(specHash)
    if (ofHash === undefined) {
      ofHash = { shared: [], owned: new Map() }
      byHash.set(specHash, ofHash)
    }
    let kinds = owner === null ? ofHash.shared : ofHash.owned.get(owner)
    if (kinds === undefined) {
      kinds = []
      if (owner !== null) ofHash.owned.set(owner, kinds)
    }
    const isSession = session !== null
    for (const kind of kinds) {
      if (kind.isSession === isSession && isSameNeed(kind.need, need)) return kind
    }
    const fresh: Kind = { need, isSession, owner, demand: null }
    kinds.push(fresh)
    return fresh
  }

  return {
    kindOf: (task) => find(task, task.session?.isolation === 'owner' ? task.owner : null),
    of: (kind, task) => (kind.demand ??= create(task, kind.owner)),
    ofWanted(wanted) {
      const kind = find(wanted, null)
      return (kind.demand ??= create(wanted, null))
    },
    all: () => demands,
  }
}

function shareOf({ share, memoryMb }: GpuNeed, { learnedMemoryMb }: WorkerFacts): Share {
  const leastMb = Math.max(memoryMb ?? 0, learnedMemoryMb ?? 0)
  const isPart = share === 'shared' && (memoryMb !== null || learnedMemoryMb !== null)
  return { memoryMb: isPart ? leastMb : null, leastMb }
}

function isSameNeed(a: GpuNeed, b: GpuNeed): boolean {
  return (
    a === b ||
    (a.count === b.count &&
      a.share === b.share &&
      a.memoryMb === b.memoryMb &&
      isSameList(a.ids, b.ids) &&
      isSameList(a.names, b.names))
  )
}

function isSameList(a: readonly string[] | null, b: readonly string[] | null): boolean {
  if (a === null || b === null) return a === b
  return a.length === b.length && a.every((item, at) => item === b[at])
}
