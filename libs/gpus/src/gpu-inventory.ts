import { isDeepStrictEqual } from 'node:util'
import type { Gpu, GpuId, GpuInventory, Logger } from '@gpu-service/tasks'
import type { GpuSource } from './gpus-setting.ts'
import { createNvidiaSmi, type GpuReading, type NvidiaSmi } from './nvidia-smi.ts'

export interface GpuInventoryOptions {
  readonly source: GpuSource
  /** The program that is asked; `nvidia-smi` on the PATH by default. */
  readonly nvidiaSmi?: string
  /** Between two samples; 5 seconds by default. */
  readonly sampleIntervalMs?: number
  /** How long the program may take for an answer; 10 seconds by default. */
  readonly deadlineMs?: number
  readonly logger: Logger
}

/**
 * Finds the GPUs. `auto` resolves after the first answer of the driver; without a usable one the inventory stays empty, and the log says
 * why. A GPU that was seen once stays listed: where later samples fail or leave it out, it is stale.
 */
export async function openGpuInventory(options: GpuInventoryOptions): Promise<GpuInventory> {
  const { source, logger } = options
  if (source === 'none') return fixedInventory('none', [])
  if (source !== 'auto') return fixedInventory('simulated', simulatedGpus(source.simulated))

  const nvidiaSmi = createNvidiaSmi({
    program: options.nvidiaSmi ?? 'nvidia-smi',
    deadlineMs: options.deadlineMs ?? 10_000,
  })
  const first = await nvidiaSmi.read()
  if (first.status === 'failed' || first.gpus.length === 0) {
    const reason = first.status === 'failed' ? first.reason : 'nvidia-smi lists no GPU.'
    logger.info({ reason }, 'No GPU was found; tasks run without one')
    return fixedInventory('none', [])
  }
  return sampledInventory(nvidiaSmi, first.gpus, options)
}

function sampledInventory(
  nvidiaSmi: NvidiaSmi,
  first: readonly GpuReading[],
  { sampleIntervalMs = 5_000, logger }: GpuInventoryOptions,
): GpuInventory {
  let gpus: readonly Gpu[] = sampled(first, Date.now())
  let failing = false
  let timer: NodeJS.Timeout | null = null
  let disposed = false
  const listeners = new Set<(changed: readonly GpuId[]) => void>()

  function sampled(readings: readonly GpuReading[], sampledAt: number): readonly Gpu[] {
    return readings.map(({ id, index, name, memoryTotalMb, ...meters }) => ({
      id,
      index,
      name,
      memoryTotalMb,
      simulated: false,
      parentId: null,
      telemetry: { sampledAt, ...meters },
      stale: false,
    }))
  }

  async function sample(): Promise<void> {
    const readings = await nvidiaSmi.read()
    if (disposed) return
    const found = readings.status === 'read' ? sampled(readings.gpus, Date.now()) : []
    noteHealth(readings.status === 'failed' ? readings.reason : null)
    const ids = new Set(found.map(({ id }) => id))
    const missed = gpus.filter(({ id }) => !ids.has(id)).map((gpu) => ({ ...gpu, stale: true }))
    schedule()
    replace([...found, ...missed].sort((a, b) => a.index - b.index))
  }

  /** One line as it begins to fail and one as it recovers, however long it lasts. */
  function noteHealth(reason: string | null): void {
    if (reason !== null && !failing)
      logger.warn({ reason }, 'The GPUs cannot be sampled; their telemetry is stale')
    if (reason === null && failing) logger.info({}, 'The GPUs are sampled again')
    failing = reason !== null
  }

  function replace(next: readonly Gpu[]): void {
    const before = new Map(gpus.map((gpu) => [gpu.id, gpu]))
    gpus = next
    const changed = next.filter((gpu) => !isSame(before.get(gpu.id), gpu)).map(({ id }) => id)
    if (changed.length === 0) return
    for (const listener of listeners) listener(changed)
  }

  function schedule(): void {
    timer = setTimeout(() => void sample(), sampleIntervalMs)
    timer.unref()
  }
  schedule()

  return {
    source: 'nvidia-smi',
    list: () => gpus,
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    async [Symbol.asyncDispose]() {
      disposed = true
      if (timer) clearTimeout(timer)
      listeners.clear()
      await nvidiaSmi[Symbol.asyncDispose]()
    },
  }
}

/** Whether a listener would learn nothing: a sample that is merely newer is no change. */
function isSame(before: Gpu | undefined, now: Gpu): boolean {
  const timeless = (gpu: Gpu): Gpu => ({
    ...gpu,
    telemetry: gpu.telemetry && { ...gpu.telemetry, sampledAt: 0 },
  })
  return before !== undefined && isDeepStrictEqual(timeless(before), timeless(now))
}

function fixedInventory(source: 'simulated' | 'none', gpus: readonly Gpu[]): GpuInventory {
  return {
    source,
    list: () => gpus,
    onChange: () => () => {},
    async [Symbol.asyncDispose]() {},
  }
}

function simulatedGpus({ count, memoryMb }: { count: number; memoryMb: number }): readonly Gpu[] {
  return Array.from({ length: count }, (_, index) => ({
    // Shaped like a driver's, the same at every start.
    id: `GPU-00000000-0000-4000-8000-${index.toString(16).padStart(12, '0')}` as GpuId,
    index,
    name: 'Simulated GPU',
    memoryTotalMb: memoryMb,
    simulated: true,
    parentId: null,
    // Nothing is measured where there is nothing.
    telemetry: null,
    stale: false,
  }))
}
