import type { GpuId, GpuTelemetry } from '@gpu-service/tasks'

/** What a GPU is and what its meters show, once. */
export interface GpuReading {
  readonly id: GpuId
  /** The host's device number; a MIG device has its card's. */
  readonly index: number
  readonly name: string
  /** 0 where the driver does not tell. */
  readonly memoryTotalMb: number
  readonly parentId: GpuId | null
  /** Among the MIG devices of its card; 0 for a card. */
  readonly migIndex: number
  readonly meters: Omit<GpuTelemetry, 'sampledAt'>
  readonly faults: readonly GpuFault[]
}

/** Something for which a GPU gets no new work. Counted ECC errors are no fault of this kind: only their rise is one. */
export interface GpuFault {
  /** The same for the same fault, so that an operator's word for it lasts as long as it does. */
  readonly key: string
  readonly text: string
  /** The quarantine ends with the fault, without an operator's word. */
  readonly passing: boolean
}

/** One answer about all GPUs. One that is in none of the three is absent: it is not there any more. */
export type GpuSample =
  | {
      readonly status: 'read'
      readonly readings: readonly GpuReading[]
      /** Those that their driver has given up, with the reason. */
      readonly lost: ReadonlyMap<GpuId, string>
      /** Those of which nothing was heard this time, with the reason. */
      readonly silent: ReadonlyMap<GpuId, string>
    }
  /** Nothing was heard of any GPU. */
  | { readonly status: 'failed'; readonly reason: string }

/** Where samples come from, one at a time. */
export interface GpuSampler extends AsyncDisposable {
  /** Never rejects, and settles within a deadline whatever happens. Not called again before it has settled. */
  sample(): Promise<GpuSample>
}
