import type { Gpu, GpuId, GpuInventory, GpuSimulation, Logger } from '@gpu-service/tasks'
import type { GpuSource } from './gpus-setting.ts'
import { createGpuHealth } from './health.ts'
import { createNvidiaSmi } from './nvidia-smi.ts'
import type { GpuSample, GpuSampler } from './sample.ts'
import { createSimulatedGpus } from './simulated-gpus.ts'

export interface GpuInventoryOptions {
  readonly source: GpuSource
  /** The program that is asked; `nvidia-smi` on the PATH by default. */
  readonly nvidiaSmi?: string
  /** Between two samples; 5 seconds by default. */
  readonly sampleIntervalMs?: number
  /** How long the driver may take for a sample, and `refresh` in all; 10 seconds by default. */
  readonly deadlineMs?: number
  readonly logger: Logger
}

/**
 * Finds the GPUs. `auto` resolves after the first answer of the driver, or its deadline; where that is no usable one, GPUs appear as soon as
 * there is, and the log says why. Without the program there are none for good.
 */
export async function openGpuInventory(options: GpuInventoryOptions): Promise<GpuInventory> {
  const { source, deadlineMs = 10_000, logger } = options
  if (source === 'none') return emptyInventory()
  if (source !== 'auto') {
    const { sampler, simulation } = createSimulatedGpus(source.simulated)
    const first = await sampler.sample()
    return sampledInventory({ ...options, deadlineMs, sampler, simulation, first })
  }
  const sampler = createNvidiaSmi({ path: options.nvidiaSmi ?? 'nvidia-smi', deadlineMs, logger })
  const first = await sampler.sample()
  if (first.status === 'failed' && sampler.isMissing) {
    logger.info({ reason: first.reason }, 'No GPU was found; tasks run without one')
    return emptyInventory()
  }
  return sampledInventory({ ...options, deadlineMs, sampler, simulation: null, first })
}

function sampledInventory(options: {
  sampler: GpuSampler
  simulation: GpuSimulation | null
  first: GpuSample
  sampleIntervalMs?: number
  deadlineMs: number
  logger: Logger
}): GpuInventory {
  const { sampler, simulation, first, sampleIntervalMs = 5_000, deadlineMs, logger } = options
  const health = createGpuHealth({ simulated: simulation !== null, sampleIntervalMs })
  const listeners = new Set<(changed: readonly GpuId[]) => void>()
  let failing = false
  let sampleTimer: NodeJS.Timeout | null = null
  let staleTimer: NodeJS.Timeout | null = null
  let running: Promise<void> | null = null
  /** One for all who ask while a sample is taken that was begun before they asked. */
  let next: Promise<void> | null = null
  let isClosed = false
  let close: () => void = () => {}
  const closed = new Promise<void>((resolve) => (close = resolve))

  function take(sample: GpuSample): void {
    if (isClosed) return
    noteFailing(sample)
    const before = health.list()
    tell(health.take(sample, { monotonicMs: performance.now(), wallMs: Date.now() }), before)
    awaitStale()
  }

  function awaitStale(): void {
    if (staleTimer) clearTimeout(staleTimer)
    const dueMs = health.nextStaleMs()
    if (dueMs === null) return
    staleTimer = setTimeout(
      () => {
        const before = health.list()
        tell(health.age(performance.now()), before)
        awaitStale()
      },
      Math.max(1, Math.ceil(dueMs - performance.now())),
    ).unref()
  }

  function tell(changed: readonly GpuId[], before: readonly Gpu[]): void {
    if (changed.length === 0) return
    for (const id of changed) noteHealth(find(before, id), find(health.list(), id))
    for (const listener of listeners) {
      try {
        listener(changed)
      } catch (error) {
        logger.error({ err: error }, 'A listener to the GPUs failed')
      }
    }
  }

  function noteHealth(before: Gpu | undefined, now: Gpu | undefined): void {
    if (!now || now.health === (before?.health ?? 'OK')) return
    const { id, index, name, problem } = now
    if (now.health === 'OK') logger.info({ gpu: id, index, name }, 'A GPU is in use again')
    else logger.warn({ gpu: id, index, name, problem }, `A GPU is ${now.health}`)
  }

  /** One line as it begins to fail and one as it recovers, however long it lasts. */
  function noteFailing(sample: GpuSample): void {
    const fails = sample.status === 'failed'
    if (fails && !failing) logger.warn({ reason: sample.reason }, 'The GPUs cannot be sampled')
    if (!fails && failing) logger.info({}, 'The GPUs are sampled again')
    failing = fails
  }

  function run(): Promise<void> {
    if (sampleTimer) clearTimeout(sampleTimer)
    const startedMs = performance.now()
    running = (async () => {
      take(await sampler.sample())
      running = null
      if (!isClosed) schedule(sampleIntervalMs - (performance.now() - startedMs))
    })()
    return running
  }

  function schedule(delayMs: number): void {
    if (sampleTimer) clearTimeout(sampleTimer)
    // Not one after the other without a pause, where the driver takes longer than the interval.
    sampleTimer = setTimeout(() => void run(), Math.max(delayMs, sampleIntervalMs / 10)).unref()
  }

  take(first)
  schedule(sampleIntervalMs)

  return {
    source: simulation ? 'simulated' : 'nvidia-smi',
    simulation,
    list: () => health.list(),
    async refresh() {
      if (isClosed) return
      if (running) {
        next ??= running.then(() => {
          next = null
          return isClosed ? undefined : run()
        })
      }
      let deadline: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => {
        deadline = setTimeout(resolve, deadlineMs)
      })
      await Promise.race([next ?? run(), late, closed])
      clearTimeout(deadline)
    },
    restore(id) {
      const before = health.list()
      const changed = health.restore(id)
      if (!changed) return false
      tell(changed, before)
      return true
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    async [Symbol.asyncDispose]() {
      isClosed = true
      if (sampleTimer) clearTimeout(sampleTimer)
      if (staleTimer) clearTimeout(staleTimer)
      listeners.clear()
      close()
      await sampler[Symbol.asyncDispose]()
    },
  }
}

function find(gpus: readonly Gpu[], id: GpuId): Gpu | undefined {
  return gpus.find((gpu) => gpu.id === id)
}

function emptyInventory(): GpuInventory {
  return {
    source: 'none',
    simulation: null,
    list: () => [],
    refresh: () => Promise.resolve(),
    restore: () => false,
    onChange: () => () => {},
    async [Symbol.asyncDispose]() {},
  }
}
