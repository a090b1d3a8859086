import type { GpuId, PresetId, TaskId, WorkerId } from './ids.ts'
import type { JsonValue, TextMap } from './json.ts'
import type { Artifact, TaskError } from './event.ts'
import type { WorkerSpec } from './spec.ts'

export type TaskStatus =
  'QUEUED' | 'STARTING' | 'RUNNING' | 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT'

export type FinalStatus = Extract<TaskStatus, 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT'>

/** Every move that a task may make. A move that is not here is a bug, not a race. */
export const TASK_MOVES = {
  QUEUED: ['STARTING', 'CANCELLED', 'FAILED'],
  STARTING: ['RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'],
  RUNNING: ['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'],
  COMPLETED: [],
  FAILED: [],
  CANCELLED: [],
  TIMED_OUT: [],
} as const satisfies Record<TaskStatus, readonly TaskStatus[]>

export function mayMove(from: TaskStatus, to: TaskStatus): boolean {
  return (TASK_MOVES[from] as readonly TaskStatus[]).includes(to)
}

export function isFinal(status: TaskStatus): status is FinalStatus {
  return TASK_MOVES[status].length === 0
}

/** Why the service stops a worker. The first one that is recorded wins. */
export type StopReason = 'cancel' | 'timeout'

/** What a worker said at the end of a task. */
export interface TaskFinish {
  readonly status: 'completed' | 'failed' | 'cancelled'
  readonly error: TaskError | null
}

/** What a client submitted, and what became of it. */
export interface Task {
  readonly id: TaskId
  readonly owner: string
  readonly presetId: PresetId
  readonly spec: WorkerSpec
  readonly input: JsonValue
  readonly labels: TextMap
  readonly priority: number
  readonly idempotencyKey: string | null
  readonly affinity: string | null
  readonly status: TaskStatus
  /** The number of the last attempt; 0 while none has started. */
  readonly attempt: number
  /** The `seq` of the last stored event. */
  readonly lastSeq: number
  readonly createdAt: number
  /** When the last attempt was given its worker. */
  readonly startedAt: number | null
  /** The worker's first sign of life. */
  readonly runningAt: number | null
  readonly firstTextAt: number | null
  readonly finishedAt: number | null
  readonly cancelRequestedAt: number | null
  readonly cancelReason: string | null
  /** Why the service stopped the last attempt's worker, if it did; never set after `finish`. */
  readonly stopReason: StopReason | null
  /** The last attempt's `finish` event, once it is stored. */
  readonly finish: TaskFinish | null
  /** Of the last attempt, kept when a card is gone. */
  readonly gpuIds: readonly GpuId[]
  readonly workerId: WorkerId | null
  readonly error: TaskError | null
  readonly exitCode: number | null
}

/** What the last attempt has produced: its last `text`, else its deltas joined; its last `result`; its usage, the latest value per name. */
export interface TaskOutput {
  readonly text: string | null
  readonly result: JsonValue
  readonly usage: Readonly<Record<string, number>> | null
}

export interface TaskArtifact extends Artifact {
  readonly taskId: TaskId
  readonly attempt: number
}
