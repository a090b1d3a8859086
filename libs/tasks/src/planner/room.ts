import type { GpuId, TaskId, WorkerId } from '../ids.ts'
import type { PlanInput, PlannedGpu, PlannedWorker } from './plan-input.ts'

/** How much of a GPU is taken: by how many as a whole, by how many in part, and the memory of the latter. */
export interface Taken {
  readonly whole: number
  readonly parts: number
  readonly mb: number
}

const NOTHING: Taken = { whole: 0, parts: 0, mb: 0 }

function sum(a: Taken, b: Taken): Taken {
  return { whole: a.whole + b.whole, parts: a.parts + b.parts, mb: a.mb + b.mb }
}

function less(a: Taken, b: Taken): Taken {
  return { whole: a.whole - b.whole, parts: a.parts - b.parts, mb: a.mb - b.mb }
}

/** What is wanted of one GPU. */
export interface Share {
  /** `null`: the GPU as a whole. */
  readonly memoryMb: number | null
  /** What the GPU must have beside what is not ours. */
  readonly leastMb: number
}

/** A worker while a plan is made. */
export interface WorkerRoom {
  readonly worker: PlannedWorker
  /** Its tasks, those given to it in this plan included. */
  tasks: number
  /** It is on its way out, or told to end in this plan. */
  ending: boolean
  /** An earlier task counts on its going: it works for no later one. */
  leaving: boolean
}

/**
 * What is free on one GPU: now; soon, when the workers that end are gone and what they leave has gone to the tasks that wait for it; and
 * later, when those have left, too, that a task which must not be passed any more waits for.
 */
export class GpuRoom {
  readonly gpu: PlannedGpu
  /** Used by processes that are not ours, in MB. */
  readonly foreignMb: number
  /** What our workers may have together, in MB. */
  readonly capMb: number
  readonly holders: readonly WorkerRoom[]
  /** For whom something is held back. */
  readonly heldFor: TaskId[] = []
  #now = NOTHING
  #ending = NOTHING
  #leaving = NOTHING
  #promisedSoon = NOTHING
  #promisedLater = NOTHING

  constructor(gpu: PlannedGpu, holders: readonly WorkerRoom[]) {
    this.gpu = gpu
    this.holders = holders
    const { usedMb, memoryTotalMb } = gpu
    // A worker that has the GPU as a whole and cannot be measured may be all that uses it.
    const ours = holders.reduce(
      (mb, { worker }) => mb + (worker.usedMb.get(gpu.id) ?? worker.claim.memoryMb ?? Infinity),
      0,
    )
    this.foreignMb = usedMb === null ? 0 : Math.max(0, usedMb - ours)
    this.capMb = memoryTotalMb === 0 ? Infinity : Math.max(0, memoryTotalMb - this.foreignMb)
    for (const holder of holders) {
      const taken = this.takenBy(holder)
      this.#now = sum(this.#now, taken)
      if (holder.ending) this.#ending = sum(this.#ending, taken)
    }
  }

  /** In MB; 0 where one has it as a whole. */
  get availableMb(): number {
    return this.#now.whole > 0 ? 0 : Math.max(0, this.capMb - this.#now.mb)
  }

  /** Measured of all processes, in MB; what is not known counts as free. */
  get measuredFreeMb(): number {
    return this.gpu.memoryTotalMb - (this.gpu.usedMb ?? 0)
  }

  get now(): Taken {
    return this.#now
  }

  /** Promised to tasks that wait. */
  get promised(): Taken {
    return sum(this.#promisedSoon, this.#promisedLater)
  }

  takenBy({ worker }: WorkerRoom): Taken {
    const { memoryMb } = worker.claim
    return memoryMb === null
      ? { whole: 1, parts: 0, mb: 0 }
      : { whole: 0, parts: 1, mb: Math.max(memoryMb, worker.usedMb.get(this.gpu.id) ?? 0) }
  }

  /** It is free, whoever it is held back for. */
  isFree(share: Share): boolean {
    return this.#fits(share, this.#now)
  }

  /** It is free, and so is what was promised. */
  fitsNow(share: Share): boolean {
    return this.#fits(share, this.#now) && this.fitsSoon(share, [])
  }

  /** It is free as soon as those that end, and `going`, are gone. */
  fitsSoon(share: Share, going: readonly WorkerRoom[]): boolean {
    if (going.length === 0 && this.#isSteady) return this.#fits(share, this.#now)
    let stay = less(this.#now, this.#ending)
    for (const worker of this.#here(going)) if (!worker.ending) stay = less(stay, this.takenBy(worker))
    return this.#fits(share, sum(stay, this.#promisedSoon)) && this.fitsLater(share, going)
  }

  /** It is free when all that are counted on to go, and `going`, are gone. */
  fitsLater(share: Share, going: readonly WorkerRoom[]): boolean {
    let stay = less(less(this.#now, this.#ending), this.#leaving)
    for (const worker of this.#here(going)) {
      if (!worker.ending && !worker.leaving) stay = less(stay, this.takenBy(worker))
    }
    return this.#fits(share, sum(sum(stay, this.#promisedSoon), this.#promisedLater))
  }

  take(share: Share): void {
    this.#now = sum(this.#now, taking(share))
  }

  promiseSoon(share: Share, task: TaskId): void {
    this.#promisedSoon = sum(this.#promisedSoon, taking(share))
    this.heldFor.push(task)
  }

  promiseLater(share: Share, task: TaskId): void {
    this.#promisedLater = sum(this.#promisedLater, taking(share))
    this.heldFor.push(task)
  }

  /** A holder becomes `ending`; to be called before it is marked so. */
  end(holder: WorkerRoom): void {
    const taken = this.takenBy(holder)
    this.#ending = sum(this.#ending, taken)
    if (holder.leaving) this.#leaving = less(this.#leaving, taken)
  }

  /** A holder becomes `leaving`; to be called before it is marked so. */
  leave(holder: WorkerRoom): void {
    this.#leaving = sum(this.#leaving, this.takenBy(holder))
  }

  /** Nobody goes, and nothing is promised: it is soon as it is now. */
  get #isSteady(): boolean {
    return (
      this.#ending === NOTHING &&
      this.#leaving === NOTHING &&
      this.#promisedSoon === NOTHING &&
      this.#promisedLater === NOTHING
    )
  }

  #here(workers: readonly WorkerRoom[]): readonly WorkerRoom[] {
    return workers.length === 0 ? workers : workers.filter((worker) => this.holders.includes(worker))
  }

  #fits({ memoryMb, leastMb }: Share, { whole, parts, mb }: Taken): boolean {
    if (whole > 0 || leastMb > this.capMb) return false
    return memoryMb === null ? parts === 0 : mb + memoryMb <= this.capMb
  }
}

function taking({ memoryMb }: Share): Taken {
  return memoryMb === null ? { whole: 1, parts: 0, mb: 0 } : { whole: 0, parts: 1, mb: memoryMb }
}

/** What is taken, and what becomes free, on all GPUs and of the places for workers, while a plan is made. */
export interface Room {
  /** In the order of their index. */
  readonly gpus: readonly GpuRoom[]
  /** In the order of their ids. */
  readonly workers: readonly WorkerRoom[]
  /** How many workers have become `ending` or `leaving` since the plan began. */
  departures(): number
  gpusOf(worker: WorkerRoom): readonly GpuRoom[]
  /** A worker can be started now. */
  hasPlace(): boolean
  /** How many places become free that nobody was promised. */
  comingPlaces(): number
  start(gpus: readonly GpuRoom[], share: Share): void
  /** Holds back for a task what it gets as soon as workers that end are gone. */
  promiseSoon(gpus: readonly GpuRoom[], share: Share, task: TaskId): void
  /** Holds back for a task what it gets when the blockers have left. */
  promiseLater(gpus: readonly GpuRoom[], share: Share, blockers: readonly WorkerRoom[], task: TaskId): void
  end(worker: WorkerRoom): void
}

export function createRoom({
  workers,
  gpus,
  maxWorkers,
}: Pick<PlanInput, 'workers' | 'gpus' | 'maxWorkers'>): Room {
  const rooms = workers
    .map((worker): WorkerRoom => ({
      worker,
      tasks: worker.runningSince.length,
      ending: worker.phase === 'ending',
      leaving: false,
    }))
    .sort((a, b) => (a.worker.id < b.worker.id ? -1 : 1))
  const holders = new Map<GpuId, WorkerRoom[]>()
  for (const room of rooms) {
    for (const id of room.worker.claim.gpuIds) {
      const known = holders.get(id)
      if (known === undefined) holders.set(id, [room])
      else known.push(room)
    }
  }
  const gpuRooms = [...gpus]
    .sort((a, b) => a.index - b.index || (a.id < b.id ? -1 : 1))
    .map((gpu) => new GpuRoom(gpu, holders.get(gpu.id) ?? []))
  const gpusOfWorker = new Map<WorkerId, GpuRoom[]>()
  for (const gpu of gpuRooms) {
    for (const { worker } of gpu.holders) {
      const known = gpusOfWorker.get(worker.id)
      if (known === undefined) gpusOfWorker.set(worker.id, [gpu])
      else known.push(gpu)
    }
  }
  let used = rooms.length
  let ending = rooms.filter((room) => room.ending).length
  let promised = 0
  let departures = 0
  const gpusOf = ({ worker }: WorkerRoom): readonly GpuRoom[] => gpusOfWorker.get(worker.id) ?? []

  return {
    gpus: gpuRooms,
    workers: rooms,
    departures: () => departures,
    gpusOf,
    hasPlace: () => used < maxWorkers,
    comingPlaces: () => maxWorkers - used + ending - promised,
    start(chosen, share) {
      used += 1
      for (const gpu of chosen) gpu.take(share)
    },
    promiseSoon(chosen, share, task) {
      if (used >= maxWorkers) promised += 1
      for (const gpu of chosen) gpu.promiseSoon(share, task)
    },
    promiseLater(chosen, share, blockers, task) {
      for (const gpu of chosen) gpu.promiseLater(share, task)
      for (const blocker of blockers) {
        if (blocker.leaving || blocker.ending) continue
        for (const gpu of gpusOf(blocker)) gpu.leave(blocker)
        blocker.leaving = true
        departures += 1
      }
    },
    end(room) {
      if (room.ending) return
      for (const gpu of gpusOf(room)) gpu.end(room)
      room.ending = true
      departures += 1
      ending += 1
    },
  }
}
