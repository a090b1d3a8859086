import type { GpuId, PresetId, TaskId, WorkerId, WorkerName } from './ids.ts'
import type { OutputCursor, WorkerExit } from './runner.ts'
import type { WorkerMode } from './spec.ts'

export type WorkerStatus = 'STARTING' | 'READY' | 'WORKING' | 'STOPPING' | 'EXITED'

/** Every move that a worker may make. */
export const WORKER_MOVES = {
  STARTING: ['READY', 'WORKING', 'STOPPING', 'EXITED'],
  READY: ['WORKING', 'STOPPING', 'EXITED'],
  WORKING: ['READY', 'STOPPING', 'EXITED'],
  STOPPING: ['EXITED'],
  EXITED: [],
} as const satisfies Record<WorkerStatus, readonly WorkerStatus[]>

/** A container (or process) that speaks the worker protocol. */
export interface Worker {
  readonly id: WorkerId
  readonly name: WorkerName
  readonly presetId: PresetId
  readonly mode: WorkerMode
  readonly status: WorkerStatus
  /** The runner's own id of it, once it has one. */
  readonly containerId: string | null
  readonly gpuIds: readonly GpuId[]
  /** The tasks that it works on now. */
  readonly taskIds: readonly TaskId[]
  /** When its row was written. */
  readonly startedAt: number
  readonly readyAt: number | null
  readonly tasksServed: number
  /** How far its output has been stored. */
  readonly cursor: OutputCursor
  /** The worker's own count of its events (`seq`), as far as it has been stored; `null` where it does not count. */
  readonly eventSeq: number | null
  readonly exit: WorkerExit | null
}
