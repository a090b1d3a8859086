import type { Artifact, TaskError, TaskEvent, TaskEventBody } from './event.ts'
import type { ArtifactId, GpuId, PresetId, TaskId, WorkerId, WorkerName } from './ids.ts'
import type { JsonValue, TextMap } from './json.ts'
import type { OutputCursor, WorkerExit } from './runner.ts'
import type { WorkerMode, WorkerSpec } from './spec.ts'
import type {
  FinalStatus,
  StopReason,
  Task,
  TaskArtifact,
  TaskFinish,
  TaskOutput,
  TaskStatus,
} from './task.ts'
import type { Worker, WorkerStatus } from './worker.ts'

/** A task as it is submitted. */
export interface NewTask {
  readonly id: TaskId
  readonly owner: string
  readonly presetId: PresetId
  readonly spec: WorkerSpec
  readonly input: JsonValue
  readonly labels: TextMap
  readonly priority: number
  /** Unique per owner; `null`: none. */
  readonly idempotencyKey: string | null
  /** Equal for equal submissions: what an idempotency key stands for. */
  readonly requestHash: string
  readonly affinity: string | null
  readonly createdAt: number
}

export type CreateResult =
  /** `duplicate`: the key was seen before with the same request; `task` is the earlier one and nothing was written. */
  | { readonly status: 'created'; readonly task: Task; readonly duplicate: boolean }
  /** The key was seen before with another request; nothing was written. */
  | { readonly status: 'conflict'; readonly task: Task }

/** A QUEUED task is given to a worker that is about to be started: its next attempt. */
export interface Claim {
  readonly taskId: TaskId
  /** The number of the new attempt: one more than the task's. */
  readonly attempt: number
  /** The task's lastSeq as the claimer knows it. */
  readonly after: number
  readonly at: number
  /** Becomes the reason of the STARTING event. */
  readonly reason: string
  readonly worker: {
    readonly id: WorkerId
    readonly name: WorkerName
    readonly presetId: PresetId
    readonly mode: WorkerMode
    readonly gpuIds: readonly GpuId[]
  }
}

/** How an attempt, and with it its task, ended. */
export interface Settlement {
  readonly status: FinalStatus
  readonly at: number
  readonly error: TaskError | null
  readonly exitCode: number | null
  readonly output: TaskOutput
}

/** What a stretch of a worker's output adds to one task. */
export interface TaskAppend {
  readonly taskId: TaskId
  /** The attempt that the writer holds. */
  readonly attempt: number
  /** The task's lastSeq as the writer knows it; the events' seq go on from it without a hole. */
  readonly after: number
  readonly events: readonly TaskEvent[]
  /** Columns that change with these events. */
  readonly changes?: {
    readonly status?: TaskStatus
    readonly runningAt?: number
    readonly firstTextAt?: number
    readonly finish?: TaskFinish
  }
  /** Rows of the artifacts that these events announce. */
  readonly artifacts?: readonly Artifact[]
  /** Ends the task; the last of `events` is then its final status event. */
  readonly settle?: Settlement
}

/** What one stretch of a worker's output adds; written whole or not at all. */
export interface WorkerProgress {
  readonly workerId: WorkerId
  /** How far the output has been read with it; absent where nothing was read. */
  readonly cursor?: OutputCursor
  /** The worker's own count of its events by then; absent where it does not count. */
  readonly eventSeq?: number
  /** What belongs to no task: kept in the worker's own log. */
  readonly workerEvents?: readonly { readonly at: number; readonly body: TaskEventBody }[]
  readonly tasks: readonly TaskAppend[]
}

export interface WorkerPatch {
  readonly status?: WorkerStatus
  readonly containerId?: string
  readonly imageDigest?: string | null
  readonly readyAt?: number
  readonly exit?: WorkerExit | null
  readonly exitedAt?: number
}

export interface TaskFilter {
  readonly status?: readonly TaskStatus[]
  readonly presetId?: string
  readonly createdAfter?: number
  readonly createdBefore?: number
  /** `value` is `null` where any will do. */
  readonly label?: { readonly key: string; readonly value: string | null }
  /** Words that all occur in the input, the output text or the error, in any case. */
  readonly text?: string
}

export interface TaskPage {
  /** Newest first. */
  readonly tasks: readonly Task[]
  readonly hasNextPage: boolean
}

/**
 * Keeps tasks, their events and outputs, and workers. Every method is one transaction: written whole or not at all, and durable against
 * a crash of the service when it resolves. Reads see only what is committed.
 */
export interface TaskStore extends AsyncDisposable {
  readonly kind: 'sqlite' | 'postgresql'
  /** Made once per installation and kept: eight characters of a-z and 0-9. */
  readonly installation: string

  /** Writes the task, QUEUED, and its first event. */
  create(task: NewTask): Promise<CreateResult>
  /**
   * Moves a QUEUED task to STARTING, with its event, its attempt's row and its worker's row. `null`, with nothing written, where the task
   * is not QUEUED any more or `after` is not its lastSeq.
   */
  claim(claim: Claim): Promise<Task | null>
  /**
   * Records that a cancel was asked for. A QUEUED task is CANCELLED by it, with its final event; a STARTING or RUNNING one keeps its
   * status, gets `cancelRequestedAt` and, unless its `finish` is stored or a reason is there already, the stop reason `cancel`; an ended
   * one stays as it is. Asked twice, the first stays. `null`: no such task.
   */
  requestCancel(
    id: TaskId,
    request: { readonly at: number; readonly reason: string | null },
  ): Promise<Task | null>
  /**
   * Records why the service is about to stop this attempt's worker; the first reason stays, and none is recorded after a stored `finish`.
   * Gives the task as it then is.
   */
  recordStop(id: TaskId, attempt: number, reason: StopReason): Promise<Task>
  /**
   * Adds what a worker said. Calls that come while a commit is under way are committed together, in the order of their calls, and resolve
   * in that order. Rejects with `StaleWriteError`, and writes nothing of this call (others of the same commit are not harmed), where a
   * task's attempt or lastSeq is not the given one or a change of status is not a move of the table.
   */
  append(progress: WorkerProgress): Promise<void>
  updateWorker(id: WorkerId, patch: WorkerPatch): Promise<void>
  /** Rewrites an ended task's events into few large chunks. What is read stays the same. */
  compact(id: TaskId): Promise<void>

  task(id: TaskId): Promise<Task | null>
  /** The task that its owner submitted under this idempotency key, and the request that the key stands for. */
  submitted(
    owner: string,
    idempotencyKey: string,
  ): Promise<{ readonly task: Task; readonly requestHash: string } | null>
  /** In no particular order; unknown ids are left out. */
  tasksById(ids: readonly TaskId[]): Promise<readonly Task[]>
  /** Those that have not ended, oldest first. */
  activeTasks(): Promise<readonly Task[]>
  /** Newest first. `after`: the id of the last task of the page before. */
  tasks(query: { filter: TaskFilter; first: number; after: TaskId | null }): Promise<TaskPage>
  /** How many match; `null` where more than `limit` do. */
  countTasks(filter: TaskFilter, limit: number): Promise<number | null>
  /** Of the given ids those that match. */
  matching(ids: readonly TaskId[], filter: TaskFilter): Promise<readonly Task[]>
  /** At most `limit` events with a seq above `after`, in order; fewer where they are large or fewer are stored, but one where there is one. */
  events(id: TaskId, after: number, limit: number): Promise<readonly TaskEvent[]>
  /** Of the last attempt: as settled, or, while it runs, put together from the events stored so far. */
  output(id: TaskId): Promise<TaskOutput>
  /** Of the last attempt. */
  artifacts(id: TaskId): Promise<readonly TaskArtifact[]>
  artifact(id: ArtifactId): Promise<TaskArtifact | null>
  /** Those that have not exited, oldest first. */
  liveWorkers(): Promise<readonly Worker[]>
  worker(id: WorkerId): Promise<Worker | null>
}

/** A write was refused because the writer's knowledge of a task is out of date. */
export class StaleWriteError extends Error {
  override readonly name = 'StaleWriteError'
  readonly code = 'STALE_WRITE'
  readonly taskId: TaskId
  constructor(taskId: TaskId, message: string) {
    super(message)
    this.taskId = taskId
  }
}
