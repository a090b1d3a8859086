import { delay, type Clock } from '../clock.ts'
import type { Gpu, GpuInventory, GpuProcess, GpuTelemetry } from '../gpu.ts'
import type { GpuId, WorkerId } from '../ids.ts'
import type { Logger } from '../logger.ts'
import type { WorkerRunner } from '../runner.ts'
import type { Worker } from '../worker.ts'

/** How long the memory of a worker that has gone is waited for. */
const RELEASE_MS = 5_000
const LOOK_AGAIN_MS = 250
/** Drivers give memory back up to so long after they have stopped to list its process. */
const SETTLE_MS = 2_000
/** So much of what a worker used must be back: drivers keep a little for others. */
const RELEASED_SHARE = 0.75

export interface GpuMemoryOptions {
  readonly gpus: GpuInventory
  readonly runner: Pick<WorkerRunner, 'processes'>
  readonly clock: Clock
  readonly logger: Logger
}

/** The moment at which a worker was seen to run no more, by both readings of the clock. */
interface Ended {
  readonly at: number
  readonly monotonic: number
}

interface Measured {
  readonly worker: Pick<Worker, 'id' | 'name' | 'claim'>
  /** What all processes used on each of its GPUs when it got them, in MB. */
  readonly before: ReadonlyMap<GpuId, number>
  pids: ReadonlySet<number>
  /** The GPUs among whose processes it has been found. */
  readonly seen: Set<GpuId>
  used: ReadonlyMap<GpuId, number>
  peakMb: number | null
  /** It runs no more: what is measured now is not its. */
  hasEnded: boolean
}

/**
 * Which GPU memory is whose: finds our workers among the processes on the GPUs, remembers their peaks, and sees to it that what they used is
 * really free again when they have gone.
 */
export class GpuMemory {
  readonly #options: GpuMemoryOptions
  readonly #workers = new Map<WorkerId, Measured>()
  /** What was used of each GPU, all in all, when our workers were last found on it. */
  readonly #mostUsed = new Map<GpuId, number>()
  #looking: Promise<void> | null = null

  constructor(options: GpuMemoryOptions) {
    this.#options = options
  }

  /**
   * A worker holds its claim from now on. `expectedMb`: what it will use of each GPU as far as is known. `isFresh`: nothing of it can be
   * there yet, so that what is in use now is not its.
   */
  claimed(worker: Pick<Worker, 'id' | 'name' | 'claim'>, expectedMb: number, isFresh: boolean): void {
    const { gpuIds } = worker.claim
    if (gpuIds.length === 0) return
    const { gpus } = this.#options
    const before = new Map(
      gpus.list().flatMap(({ id, telemetry }) => {
        const usedMb = telemetry?.memoryUsedMb ?? null
        return isFresh && usedMb !== null && gpuIds.includes(id) ? [[id, usedMb] as const] : []
      }),
    )
    this.#workers.set(worker.id, {
      ...{ worker, before, pids: new Set(), seen: new Set(), used: new Map(), peakMb: null, hasEnded: false },
    })
    this.#simulate(worker, expectedMb)
  }

  /** The worker itself told what it uses of each of its GPUs: believed where the driver does not tell. */
  told(id: WorkerId, memoryMb: number): void {
    const measured = this.#workers.get(id)
    if (measured === undefined) return
    this.#simulate(measured.worker, memoryMb)
    if (measured.used.size === 0) measured.peakMb = Math.max(measured.peakMb ?? 0, Math.ceil(memoryMb))
    void this.look()
  }

  /** Measured of a worker, per GPU, in MB; what cannot be measured is not in it. */
  usedBy(id: WorkerId): ReadonlyMap<GpuId, number> {
    return this.#workers.get(id)?.used ?? new Map()
  }

  /** The most that a worker used of one GPU, in MB; `null`: nothing was measured. */
  peakOf(id: WorkerId): number | null {
    return this.#workers.get(id)?.peakMb ?? null
  }

  /** The GPUs with our workers named among their processes. */
  attributed(gpus: readonly Gpu[]): readonly Gpu[] {
    const owners = new Map<number, WorkerId>()
    for (const { worker, pids } of this.#workers.values()) for (const pid of pids) owners.set(pid, worker.id)
    if (owners.size === 0) return gpus
    return gpus.map((gpu) => {
      const { telemetry } = gpu
      if (telemetry?.processes == null) return gpu
      const processes = telemetry.processes.map((process) => ({
        ...process,
        workerId: process.workerId ?? (process.pid === null ? null : (owners.get(process.pid) ?? null)),
      }))
      return { ...gpu, telemetry: { ...telemetry, processes } }
    })
  }

  /** Takes the inventory's latest sample apart. One look at a time; never rejects. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null
    })
    return this.#looking
  }

  /**
   * The worker runs no more: waits until its memory is seen free, for a few seconds at most.
   * @returns whether it was; also where nothing can be measured, since nothing then says otherwise.
   */
  async released(id: WorkerId, signal: AbortSignal): Promise<boolean> {
    const measured = this.#workers.get(id)
    if (measured === undefined) return true
    const { clock, gpus, logger } = this.#options
    const ended: Ended = { at: clock.now(), monotonic: clock.monotonic() }
    measured.hasEnded = true
    this.#simulate(measured.worker, 0)
    for (;;) {
      await gpus.refresh()
      if (measured.worker.claim.gpuIds.every((gpuId) => this.#isReleased(measured, gpuId, ended))) {
        this.#workers.delete(id)
        return true
      }
      if (clock.monotonic() - ended.monotonic >= RELEASE_MS || signal.aborted) break
      await delay(clock, LOOK_AGAIN_MS, signal)
    }
    this.#workers.delete(id)
    logger.warn({ workerId: id }, 'A worker has ended, but its GPU memory is still in use.')
    return false
  }

  #isReleased({ worker, pids, seen, used, before }: Measured, gpuId: GpuId, ended: Ended): boolean {
    const gpu = this.#options.gpus.list().find(({ id }) => id === gpuId)
    const telemetry = gpu?.telemetry ?? null
    if (gpu === undefined || telemetry === null || gpu.stale || gpu.health !== 'OK') return true
    if (telemetry.sampledAt < ended.at) return false
    const { processes, memoryUsedMb } = telemetry
    const isOwn = ({ pid, workerId }: GpuProcess): boolean =>
      workerId === worker.id || (pid !== null && pids.has(pid))
    if (processes?.some(isOwn)) return false
    const usedMb = used.get(gpuId)
    const mostMb = this.#mostUsed.get(gpuId)
    if (memoryUsedMb === null || usedMb === undefined || mostMb === undefined) return true
    const free = mostMb - usedMb * RELEASED_SHARE
    if (memoryUsedMb <= Math.max(free, before.get(gpuId) ?? 0)) return true
    // It was among the processes and is not any more: what is still in use after a while is somebody else's.
    return (
      processes !== null && seen.has(gpuId) && this.#options.clock.monotonic() - ended.monotonic >= SETTLE_MS
    )
  }

  async #look(): Promise<void> {
    const { gpus } = this.#options
    const list = gpus.list()
    await this.#findProcesses(list.some(({ telemetry }) => telemetry?.processes?.some((p) => p.pid !== null)))
    for (const measured of this.#workers.values()) {
      if (measured.hasEnded) continue
      const used = new Map<GpuId, number>()
      for (const gpu of list) {
        if (!measured.worker.claim.gpuIds.includes(gpu.id) || gpu.telemetry === null) continue
        const usedMb = this.#usedOn(measured, gpu.id, gpu.telemetry)
        if (usedMb === null) continue
        used.set(gpu.id, usedMb)
        this.#mostUsed.set(gpu.id, gpu.telemetry.memoryUsedMb ?? usedMb)
        if (usedMb > 0) measured.peakMb = Math.max(measured.peakMb ?? 0, Math.ceil(usedMb))
      }
      measured.used = used
    }
  }

  #usedOn(
    { worker, pids, seen, before }: Measured,
    gpuId: GpuId,
    { processes, memoryUsedMb }: GpuTelemetry,
  ): number | null {
    const own = processes?.filter(
      ({ pid, workerId }) => workerId === worker.id || (pid !== null && pids.has(pid)),
    )
    if (own !== undefined && own.length > 0) seen.add(gpuId)
    const amounts = own?.map(({ memoryMb }) => memoryMb).filter((memoryMb) => memoryMb !== null) ?? []
    if (amounts.length > 0) return amounts.reduce((sum, memoryMb) => sum + memoryMb, 0)
    const holders = [...this.#workers.values()].filter((other) => other.worker.claim.gpuIds.includes(gpuId))
    const beforeMb = before.get(gpuId)
    // Nobody tells whose the memory is: what came with the only worker of ours there is taken for its own.
    if (holders.length !== 1 || memoryUsedMb === null || beforeMb === undefined) return null
    return Math.max(0, memoryUsedMb - beforeMb)
  }

  async #findProcesses(areTold: boolean): Promise<void> {
    if (!areTold) return
    const { runner, logger } = this.#options
    await Promise.all(
      [...this.#workers.values()].map(async (measured) => {
        if (measured.hasEnded) return
        try {
          measured.pids = new Set(await runner.processes(measured.worker.name))
        } catch (error) {
          logger.debug(
            { err: error, workerId: measured.worker.id },
            'The processes of a worker are not known.',
          )
        }
      }),
    )
  }

  #simulate({ id, claim }: Pick<Worker, 'id' | 'claim'>, memoryMb: number): void {
    for (const gpuId of claim.gpuIds) this.#options.gpus.simulation?.use(gpuId, id, Math.ceil(memoryMb))
  }
}
