import type { GpuId, WorkerId } from './ids.ts'

/** A process that uses a GPU, ours or not. */
export interface GpuProcess {
  /** On the host; `null` for a simulated one. */
  readonly pid: number | null
  readonly name: string
  /** `null` where the driver does not tell, as inside some virtual machines. */
  readonly memoryMb: number | null
  /** Where the inventory itself knows whose it is, as a simulated one does. */
  readonly workerId: WorkerId | null
}

/** One sample of a GPU's meters. */
export interface GpuTelemetry {
  /** Milliseconds since 1970. */
  readonly sampledAt: number
  /** Of all processes on the card, ours and others', and what the driver keeps for itself. */
  readonly memoryUsedMb: number | null
  readonly utilizationPercent: number | null
  readonly temperatureC: number | null
  readonly powerW: number | null
  /** ECC errors since the driver was loaded that could not be corrected. */
  readonly eccErrors: number | null
  /** `null` where the driver does not list them. */
  readonly processes: readonly GpuProcess[] | null
}

/** A GPU as the inventory knows it. */
export interface Gpu {
  /** Its UUID. */
  readonly id: GpuId
  /** The host's device number. */
  readonly index: number
  readonly name: string
  /** 0 where the driver does not tell, as for GPUs that share the host's memory. */
  readonly memoryTotalMb: number
  readonly simulated: boolean
  /** The card of a MIG device. A card that is divided into MIG devices is listed, but serves only through them. */
  readonly parentId: GpuId | null
  readonly telemetry: GpuTelemetry | null
  /** The telemetry is older than it should be. Planning goes on with what is known. */
  readonly stale: boolean
  /** QUARANTINED: it misbehaved and gets nothing new. LOST: it was there and is not any more, or its driver has given it up. */
  readonly health: 'OK' | 'QUARANTINED' | 'LOST'
  /** Why its health is not OK, or what stands in the way of using it, for people; `null`: nothing. */
  readonly problem: string | null
}

/** What can go wrong with a simulated GPU. */
export type SimulatedFault =
  /** Its telemetry does not come any more. */
  | 'HUNG_TELEMETRY'
  /** It disappears. */
  | 'LOST'
  /** Its driver reports an error that asks for a reset. */
  | 'ECC_ERROR'

/** The strings of simulated GPUs. */
export interface GpuSimulation {
  /** What a worker of ours uses of a GPU's memory from now on; 0: nothing any more. */
  use(gpuId: GpuId, workerId: WorkerId, memoryMb: number): void
  /** What is absent stays as it is. Gives whether there is such a GPU. */
  set(
    gpuId: GpuId,
    change: {
      /** Memory that processes of others use. */
      readonly foreignMemoryMb?: number
      readonly fault?: SimulatedFault | null
      /** How long the memory of a worker that has gone stays in use. */
      readonly releaseMs?: number
    },
  ): boolean
}

/** Which GPUs there are. */
export interface GpuInventory extends AsyncDisposable {
  readonly source: 'nvidia-smi' | 'simulated' | 'none'
  /** `null` where the GPUs are real, or none. */
  readonly simulation: GpuSimulation | null
  /** In the order of their index, a MIG device after its card. One that was seen once stays listed. */
  list(): readonly Gpu[]
  /** Samples as soon as possible instead of at the next interval; resolves, never rejects, with the sample or where none can be had in time. */
  refresh(): Promise<void>
  /** Takes a QUARANTINED GPU back into use, whatever it was quarantined for; gives whether there is such a GPU. A LOST one comes back by itself. */
  restore(id: GpuId): boolean
  /** Calls back after a change of anything that `list` tells, with the ids that changed. Gives the function that ends it. */
  onChange(listener: (changed: readonly GpuId[]) => void): () => void
}
