import type { GpuId, PresetId, TaskId, WorkerId, WorkerName } from './ids.ts'
import type { OutputCursor, WorkerExit } from './runner.ts'
import type { WorkerMode, WorkerSpec } from './spec.ts'

export type WorkerStatus = 'STARTING' | 'READY' | 'WORKING' | 'STOPPING' | 'EXITED'

/** Every move that a worker may make. */
export const WORKER_MOVES = {
  STARTING: ['READY', 'WORKING', 'STOPPING', 'EXITED'],
  READY: ['WORKING', 'STOPPING', 'EXITED'],
  WORKING: ['READY', 'STOPPING', 'EXITED'],
  STOPPING: ['EXITED'],
  EXITED: [],
} as const satisfies Record<WorkerStatus, readonly WorkerStatus[]>

/** What a worker holds of its GPUs: each as a whole (`null`), or an amount of memory on each, in MB. */
export interface GpuClaim {
  readonly gpuIds: readonly GpuId[]
  readonly memoryMb: number | null
}

export const NO_CLAIM: GpuClaim = { gpuIds: [], memoryMb: null }

/** A container (or process) that speaks the worker protocol, as its row has it. */
export interface Worker {
  readonly id: WorkerId
  readonly name: WorkerName
  readonly presetId: PresetId
  readonly mode: WorkerMode
  readonly status: WorkerStatus
  /** The spec that it was started with. */
  readonly spec: WorkerSpec
  /** Equal where one session worker can stand in for another: `specHashOf` of its spec. */
  readonly specHash: string
  /** Whose tasks it serves; `null`: everybody's. */
  readonly owner: string | null
  /** The runner's own id of it, once it has one. */
  readonly containerId: string | null
  /** Of the image that it runs; `null` where its runner knows none, or it has not started. */
  readonly imageDigest: string | null
  readonly claim: GpuClaim
  /** The tasks that it works on now. */
  readonly taskIds: readonly TaskId[]
  /** When its row was written. */
  readonly startedAt: number
  /** When it could take its first task. */
  readonly readyAt: number | null
  readonly exitedAt: number | null
  readonly tasksServed: number
  /** The most memory that was measured of it on one GPU, in MB; `null`: nothing was measured. */
  readonly peakMemoryMb: number | null
  /** How far its output has been stored. */
  readonly cursor: OutputCursor
  /** The worker's own count of its events (`seq`), as far as it has been stored; `null` where it does not count. */
  readonly eventSeq: number | null
  readonly exit: WorkerExit | null
  /** Why it was ended, for people; `null` while nobody has ended it. */
  readonly endReason: string | null
}
