import type { GpuId } from './ids.ts'

/** One sample of a GPU's meters. */
export interface GpuTelemetry {
  /** Milliseconds since 1970. */
  readonly sampledAt: number
  /** Of all processes on the card, ours and others'. */
  readonly memoryUsedMb: number | null
  readonly utilizationPercent: number | null
  readonly temperatureC: number | null
  readonly powerW: number | null
}

/** A GPU as the inventory knows it. */
export interface Gpu {
  readonly id: GpuId
  /** The host's device number. */
  readonly index: number
  readonly name: string
  readonly memoryTotalMb: number
  readonly simulated: boolean
  /** The card of a MIG device. */
  readonly parentId: GpuId | null
  readonly telemetry: GpuTelemetry | null
  /** The telemetry is older than it should be. */
  readonly stale: boolean
}

/** Which GPUs there are. */
export interface GpuInventory extends AsyncDisposable {
  readonly source: 'nvidia-smi' | 'simulated' | 'none'
  /** In the order of their index. */
  list(): readonly Gpu[]
  /** Calls back after a change of anything that `list` tells, with the ids that changed. Gives the function that ends it. */
  onChange(listener: (changed: readonly GpuId[]) => void): () => void
}
