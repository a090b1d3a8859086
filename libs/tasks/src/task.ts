import type { GpuId, PresetId, TaskId, WorkerId } from './ids.ts'
import type { JsonValue, TextMap } from './json.ts'
import type { Artifact, TaskError } from './event.ts'
import type { FailureEvidence } from './evidence.ts'
import type { ContentHashes, PrivacyClass } from './privacy.ts'
import type { FailureClass, WorkerSpec } from './spec.ts'

export type TaskStatus =
  'QUEUED' | 'STARTING' | 'RUNNING' | 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT'

export type FinalStatus = Extract<TaskStatus, 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT'>

/** Every move that a task may make. A move that is not here is a bug, not a race. */
export const TASK_MOVES = {
  QUEUED: ['STARTING', 'CANCELLED', 'FAILED', 'TIMED_OUT'],
  // Back to QUEUED: the attempt failed and another one follows.
  STARTING: ['RUNNING', 'QUEUED', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'],
  RUNNING: ['QUEUED', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'],
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

/**
 * Why the service ends an attempt. The first one that is recorded wins. `timeout`: it ran too long; `start-timeout`: its worker took too long
 * to come up; `silence`: it said nothing for too long; `gpu-lost`: a GPU of its worker is gone;
 * `output-limit`: it said, or left behind, more than it may;
 * `output-lost`: some of its output is or may be lost, and its end, which a session worker says only once, seems to be among that.
 */
export const STOP_REASONS = [
  'cancel',
  'timeout',
  'start-timeout',
  'silence',
  'gpu-lost',
  'output-limit',
  'output-lost',
] as const
export type StopReason = (typeof STOP_REASONS)[number]

/** What is said of a task that is not there, or that is not to be seen by who asks. */
export function unknownTaskText(id: string): string {
  return `There is no task ${id}.`
}

/** What a worker said at the end of a task. */
export interface TaskFinish {
  readonly status: 'completed' | 'failed' | 'cancelled'
  readonly error: TaskError | null
}

/** The proof that an attempt which the service ended (a cancel, a deadline, a lost GPU) is over. */
export interface TaskRelease {
  /** When its worker had exited, or a session worker was ready for others again; `null`: not yet, or it ended by itself. */
  readonly stoppedAt: number | null
  /** When its GPUs were seen free of its worker; `null`: not yet, it had none, a session worker goes on holding them, or it ended by itself. */
  readonly gpuFreeAt: number | null
  /** The worker had to be killed (SIGKILL). */
  readonly killed: boolean
}

/** What a submission asked for itself, beyond its preset; `null`: nothing. */
export interface AskedOfPreset {
  readonly timeoutMs: number | null
  readonly gpuIds: readonly GpuId[] | null
}

/** One execution of a task. */
export interface TaskAttempt {
  /** 1 is the first. */
  readonly attempt: number
  readonly workerId: WorkerId
  readonly gpuIds: readonly GpuId[]
  /** Its worker was warm already. */
  readonly warm: boolean
  readonly startedAt: number
  readonly runningAt: number | null
  readonly finishedAt: number | null
  /** How it ended, also where another attempt followed; `null` while it goes on. */
  readonly status: FinalStatus | null
  readonly error: TaskError | null
  readonly failureClass: FailureClass | null
  readonly exitCode: number | null
  /** What is known of why it FAILED or TIMED_OUT; `null` where it did not, or was kept before there was evidence. */
  readonly evidence: FailureEvidence | null
}

/** What a client submitted, and what became of it. */
export interface Task {
  readonly id: TaskId
  readonly owner: string
  /** The API key that it was submitted with, or whose token; `null`: none. */
  readonly keyId: string | null
  readonly presetId: PresetId
  readonly spec: WorkerSpec
  readonly privacy: PrivacyClass
  /** When its contents were removed, for its privacy class; `null`: they are there. */
  readonly scrubbedAt: number | null
  /** In the place of contents that were removed; `null`: none were, or not even these are kept. */
  readonly contentHashes: ContentHashes | null
  readonly input: JsonValue
  /** What its worker finds beside the input, in the order of the submission: uploads, by their ids, each under the name that the task has for it. */
  readonly files: readonly Artifact[]
  readonly labels: TextMap
  readonly priority: number
  readonly idempotencyKey: string | null
  readonly affinity: string | null
  /** What its submission asked for beyond the preset, which its spec has taken in. */
  readonly asked: AskedOfPreset
  /** The ended task that this one repeats. */
  readonly retryOf: TaskId | null
  readonly status: TaskStatus
  /** The number of the last attempt; 0 while none has started. */
  readonly attempt: number
  /** The `seq` of the last stored event. */
  readonly lastSeq: number
  readonly createdAt: number
  /** When it came into the queue: at its submission, or when its last attempt failed and another one was to follow. */
  readonly queuedAt: number
  /** The next attempt does not start before this; `null`: at once. */
  readonly retryAt: number | null
  /** When the last attempt was given its worker. */
  readonly startedAt: number | null
  /** The worker's first sign of life. */
  readonly runningAt: number | null
  readonly firstTextAt: number | null
  readonly finishedAt: number | null
  readonly cancelRequestedAt: number | null
  readonly cancelReason: string | null
  /** Why the service ended the last attempt, if it did; never set after `finish`. */
  readonly stopReason: StopReason | null
  /** How its last attempt let go of its worker and its GPUs. */
  readonly release: TaskRelease
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
