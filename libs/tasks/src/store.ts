import type { Actor, AuditLog } from './audit.ts'
import type { Charge } from './charge.ts'
import type { Artifact, TaskError, TaskEvent, TaskEventBody } from './event.ts'
import type { FailureEvidence } from './evidence.ts'
import type { ArtifactId, GpuId, PresetId, TaskId, WorkerId, WorkerName } from './ids.ts'
import type { JsonValue, TextMap } from './json.ts'
import type { PrivacyClass } from './privacy.ts'
import type { OutputCursor, WorkerExit } from './runner.ts'
import type { FailureClass, WorkerMode, WorkerSpec } from './spec.ts'
import type {
  AskedOfPreset,
  FinalStatus,
  StopReason,
  Task,
  TaskArtifact,
  TaskAttempt,
  TaskFinish,
  TaskOutput,
  TaskRelease,
  TaskStatus,
} from './task.ts'
import type { Upload } from './upload.ts'
import type { GpuClaim, Worker, WorkerStatus } from './worker.ts'

/** A task as it is submitted. */
export interface NewTask {
  readonly id: TaskId
  readonly owner: string
  readonly keyId: string | null
  readonly presetId: PresetId
  readonly spec: WorkerSpec
  readonly privacy: PrivacyClass
  readonly input: JsonValue
  /** Uploads, by their ids, each under the name that the task has for it. */
  readonly files: readonly Artifact[]
  readonly labels: TextMap
  readonly priority: number
  /** Unique per owner; `null`: none. */
  readonly idempotencyKey: string | null
  /** Equal for equal submissions: what an idempotency key stands for. */
  readonly requestHash: string
  readonly affinity: string | null
  readonly asked: AskedOfPreset
  /** The ended task that this one repeats. */
  readonly retryOf: TaskId | null
  readonly createdAt: number
}

export interface CreatedTask {
  readonly task: Task
  /** The key was seen before with the same request; `task` is the earlier one. */
  readonly duplicate: boolean
}

export type CreateResult =
  /** In the order of the given ones. */
  | { readonly status: 'created'; readonly tasks: readonly CreatedTask[] }
  /** The key of the one at `index` was seen before with another request, which became `task`; nothing was written. */
  | { readonly status: 'conflict'; readonly index: number; readonly task: Task }
  /** A file of the one at `index` is gone; nothing was written. */
  | { readonly status: 'file-gone'; readonly index: number; readonly id: ArtifactId }

/** A worker that is about to be started. */
export interface NewWorker {
  readonly id: WorkerId
  readonly name: WorkerName
  readonly presetId: PresetId
  readonly mode: WorkerMode
  readonly spec: WorkerSpec
  readonly specHash: string
  readonly owner: string | null
  readonly claim: GpuClaim
  /** Becomes its `startedAt`. */
  readonly at: number
}

/** A QUEUED task is given to a worker: its next attempt. */
export interface Claim {
  readonly taskId: TaskId
  /** The number of the new attempt: one more than the task's. */
  readonly attempt: number
  /** The task's lastSeq as the claimer knows it. */
  readonly after: number
  readonly at: number
  /** Becomes the reason of the STARTING event. */
  readonly reason: string
  /** One that is about to be started for it, or the session worker that is there. */
  readonly worker: NewWorker | Pick<Worker, 'id' | 'claim'>
  /** The worker is ready. */
  readonly warm: boolean
}

/** How an attempt ended. */
export interface AttemptResult {
  readonly status: FinalStatus
  readonly at: number
  readonly error: TaskError | null
  /** What kind of failure it was; `null` where it was none, or one that is never tried again. */
  readonly failureClass: FailureClass | null
  readonly exitCode: number | null
  /** Of one that FAILED or TIMED_OUT. */
  readonly evidence: FailureEvidence | null
  /** What it has used counts against this; `null`: against nothing. */
  readonly charge: Charge | null
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
  /** Ends the attempt, and the task with it; the last of `events` is then its final status event. */
  readonly settle?: AttemptResult
  /** Ends the attempt and returns the task to the queue for another one; the last of `events` is then a QUEUED status event. */
  readonly requeue?: AttemptResult & { readonly retryAt: number }
}

/** What one stretch of a worker's output adds; written whole or not at all. */
export interface WorkerProgress {
  readonly workerId: WorkerId
  /** How far the output has been read with it; absent where nothing was read. */
  readonly cursor?: OutputCursor
  /** The worker's own count of its events by then; absent where it does not count. */
  readonly eventSeq?: number
  /** What belongs to no task: kept in the worker's own log. */
  readonly workerEvents?: readonly WorkerLogEvent[]
  /** What changes of the worker itself with it. */
  readonly worker?: WorkerPatch
  readonly tasks: readonly TaskAppend[]
}

/** Something that a worker said outside of any task, or that happened to it. */
export interface WorkerLogEvent {
  readonly at: number
  readonly body: TaskEventBody
}

export interface WorkerPatch {
  readonly status?: WorkerStatus
  readonly containerId?: string
  readonly imageDigest?: string | null
  readonly readyAt?: number
  readonly exit?: WorkerExit | null
  readonly exitedAt?: number
  readonly peakMemoryMb?: number
  readonly endReason?: string
}

/** What was measured of workers of one spec and of their tasks. Each list is newest first. */
export interface WorkerHistory {
  readonly specHash: string
  readonly presetId: PresetId
  /** From a worker's start to its readiness, in milliseconds. */
  readonly loadMs: readonly number[]
  /** From RUNNING to the end of COMPLETED attempts, in milliseconds. */
  readonly runMs: readonly number[]
  /** Each worker's peak on one GPU, in MB. */
  readonly peakMemoryMb: readonly number[]
}

/** An operator keeps new work from a GPU. */
export interface GpuDrain {
  readonly at: number
  readonly reason: string | null
}

export interface EndedTask {
  readonly id: TaskId
  readonly finishedAt: number
}

/** A task whose removal has begun. */
export interface TaskRemoval {
  readonly id: TaskId
  /** Of all its attempts, and the uploads that no task uses any more. */
  readonly artifacts: readonly ArtifactId[]
}

/** What the store takes, in bytes. */
export interface StoreUsage {
  /** What is stored. */
  readonly databaseBytes: number
  /** The database's file: with what is free in it for what comes next. */
  readonly fileBytes: number
  /** The log of what is not in the file yet. */
  readonly logBytes: number
  /** The files of all artifacts and uploads together, by their rows. */
  readonly artifactBytes: number
}

export interface TaskFilter {
  readonly id?: TaskId
  readonly status?: readonly TaskStatus[]
  readonly presetId?: string
  /** Any of these. */
  readonly presets?: readonly PresetId[]
  /** An account with all that is below it, or one owner below an account. */
  readonly owner?: string
  readonly createdAfter?: number
  readonly createdBefore?: number
  /** `value` is `null` where any will do. */
  readonly label?: { readonly key: string; readonly value: string | null }
  /**
   * Words that all occur in the preset's id, the texts and numbers of the input, or, of a task that has ended, the output text and the error's
   * message; each may also be the start of the task's id instead, from 8 characters on. Words are runs of letters and digits, in any case; of
   * Chinese, Japanese and others that put no spaces between words each character is one. Of each of these texts the first 100,000 characters
   * are looked at, of each word 64. A text without a word matches nothing.
   */
  readonly text?: string
}

export interface TaskPage {
  /** Newest first. */
  readonly tasks: readonly Task[]
  readonly hasNextPage: boolean
}

/**
 * Keeps tasks, their events and outputs, and workers. Every method is one transaction: written whole or not at all, and durable against
 * a crash of the service when it resolves. Reads see only what is committed. What changes a task's state, and what an operator does, is written
 * with its entry in the audit log; `by` is who did it, the service itself where nobody is named.
 */
export interface TaskStore extends AuditLog, AsyncDisposable {
  readonly kind: 'sqlite' | 'postgresql'
  /** Whether it takes writes at the moment; told within a second or so, also where the database hangs. */
  health(): Promise<StoreHealth>
  /**
   * Resolves when all that was committed before is durable against a loss of power as well. What the other methods have done is so only
   * sooner or later.
   */
  sync(): Promise<void>
  /** Made once per installation and kept: eight characters of a-z and 0-9. */
  readonly installation: string

  /** Writes the tasks, QUEUED, each with its first event; all of them or none. At least one. */
  create(tasks: readonly NewTask[], by?: Actor): Promise<CreateResult>
  /**
   * Moves QUEUED tasks to STARTING, each with its event, its attempt's row and, where it is new, its worker's row. `null`, with nothing
   * written for it, where a task is not QUEUED any more or `after` is not its lastSeq. In the order of the given ones.
   */
  claim(claims: readonly Claim[]): Promise<readonly (Task | null)[]>
  /** Writes the row of a worker that is started without a task. */
  createWorker(worker: NewWorker, by?: Actor): Promise<void>
  /** Ends a QUEUED task that no worker has, with its final event. `null`, with nothing written, where it is not QUEUED any more. */
  endQueued(
    id: TaskId,
    end: { readonly at: number; readonly status: 'FAILED' | 'TIMED_OUT'; readonly error: TaskError },
  ): Promise<Task | null>
  /**
   * Records that a cancel was asked for. A QUEUED task is CANCELLED by it, with its final event; a STARTING or RUNNING one keeps its
   * status, gets `cancelRequestedAt` and, unless its `finish` is stored or a reason is there already, the stop reason `cancel`; an ended
   * one stays as it is. Asked twice, the first stays. `null`: no such task.
   */
  requestCancel(
    id: TaskId,
    request: { readonly at: number; readonly reason: string | null },
    by?: Actor,
  ): Promise<Task | null>
  /**
   * Records why the service is about to stop this attempt's worker; the first reason stays, and none is recorded after a stored `finish`.
   * Gives the task as it then is.
   */
  recordStop(id: TaskId, attempt: number, reason: StopReason): Promise<Task>
  /** Records how the task's attempt let go of its worker; a moment that is recorded stays. Nothing where it has another attempt by now. */
  recordRelease(id: TaskId, attempt: number, release: Partial<TaskRelease>): Promise<void>
  /**
   * Adds what a worker said. Calls that come while a commit is under way are committed together, in the order of their calls, and resolve
   * in that order. Rejects with `StaleWriteError`, and writes nothing of this call (others of the same commit are not harmed), where a
   * task's attempt or lastSeq is not the given one or a change of status is not a move of the table.
   */
  append(progress: WorkerProgress): Promise<void>
  updateWorker(id: WorkerId, patch: WorkerPatch): Promise<void>
  /** Rewrites an ended task's events into few large chunks. What is read stays the same. Not worth its while for a task of a few commits. */
  compact(id: TaskId): Promise<void>

  /**
   * At most `limit` tasks that ended before `before`, those first that ended first; `withArtifacts`: of those that have artifacts or
   * uploads, those first whose files are the oldest. None only where there are none.
   */
  endedTasks(query: {
    readonly before: number
    readonly limit: number
    readonly withArtifacts: boolean
  }): Promise<readonly EndedTask[]>
  /** The `limit` last tasks that ended before `before`, the last one first. */
  lastEnded(query: { readonly before: number; readonly limit: number }): Promise<readonly EndedTask[]>
  /**
   * Takes tasks out of everything that can be read, and frees their idempotency keys; what is stored of them is then removed by
   * `continueRemoval`, also after a restart. Gives those of them that had ended; the others stay. `reason`: for people.
   */
  beginRemoval(ids: readonly TaskId[], by?: Actor, reason?: string | null): Promise<readonly TaskRemoval[]>
  /** At most `limit` tasks whose removal has begun and is not over. */
  removals(limit: number): Promise<readonly TaskRemoval[]>
  /** Removes, in the order of the given ones, a stretch of what is stored of tasks whose removal has begun; gives how many of them are gone now. */
  continueRemoval(ids: readonly TaskId[]): Promise<number>
  /** At most `limit` tasks that ended before `before` and have contents that their privacy class does not let be kept. */
  unscrubbed(query: { readonly before: number; readonly limit: number }): Promise<readonly TaskRemoval[]>
  /**
   * Removes the contents of an ended task, so that they cannot be found in the database's files either; where its class is `hashed` hashes take
   * their place. Gives the uploads that no task uses any more. Where it was interrupted it is done over.
   */
  scrub(id: TaskId, at: number): Promise<readonly ArtifactId[]>
  /** Removes a stretch of the workers, and of their logs, that exited before `before`. Whether none is left. */
  removeWorkers(before: number): Promise<boolean>
  /** Which of them have a row, as an artifact or as an upload. */
  knownArtifacts(ids: readonly ArtifactId[]): Promise<ReadonlySet<ArtifactId>>
  usage(): Promise<StoreUsage>
  /** At most `limit` uploads behind the first ones up to `after`, in the order in which they came; `null`: from the first one on. */
  uploadIds(after: ArtifactId | null, limit: number): Promise<readonly ArtifactId[]>
  /** At most `limit` uploads that expired before then and that no task uses. */
  expiredUploads(before: number, limit: number): Promise<readonly ArtifactId[]>
  /** Removes those of the uploads that no task uses, and gives these; their files are then nobody's. `reason`: for people. */
  removeUploads(ids: readonly ArtifactId[], reason: string): Promise<readonly ArtifactId[]>
  /** Gives some of the database's space back that is free and not soon needed; whether there was any. */
  giveSpaceBack(): Promise<boolean>

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
  /**
   * Of the task's attempts before this one: of each name the latest, and at most `limit`, the latest. Where these have none, those of the task
   * that it is a retry of, unless that has completed, and so on.
   */
  leftBefore(id: TaskId, attempt: number, limit: number): Promise<readonly TaskArtifact[]>
  /** Writes an upload's row. */
  addUpload(upload: Upload, by: Actor): Promise<void>
  /** In no particular order; unknown ids are left out. */
  uploads(ids: readonly ArtifactId[]): Promise<readonly Upload[]>
  /** Of the owner's uploads that no task uses, together. */
  unusedUploadBytes(owner: string): Promise<number>
  /** First to last; the artifacts and the output of all but the last are found in the events only. */
  attempts(id: TaskId): Promise<readonly TaskAttempt[]>
  /** Those that have not exited, oldest first. */
  liveWorkers(): Promise<readonly Worker[]>
  worker(id: WorkerId): Promise<Worker | null>
  /** At most `limit` entries of the worker's own log behind the first `after` ones, in order. */
  workerLog(id: WorkerId, after: number, limit: number): Promise<readonly WorkerLogEvent[]>
  /** Of the last few thousand workers and attempts, at most `limit` figures in each list. */
  history(limit: number): Promise<readonly WorkerHistory[]>
  /** What was charged to each key on the day in UTC that began at `dayStart`; removed tasks included. */
  charges(dayStart: number): Promise<readonly Charge[]>
  drains(): Promise<ReadonlyMap<GpuId, GpuDrain>>
  /** `null`: the GPU is in use again. */
  setDrain(id: GpuId, drain: GpuDrain | null, by?: Actor): Promise<void>
}

/** How the store is. */
export interface StoreHealth {
  readonly ok: boolean
  /** For a person. */
  readonly detail: string
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

/** The part of a store by which it forgets. */
export type ForgettingStore = Pick<
  TaskStore,
  | 'endedTasks'
  | 'lastEnded'
  | 'beginRemoval'
  | 'removals'
  | 'continueRemoval'
  | 'unscrubbed'
  | 'scrub'
  | 'removeWorkers'
  | 'knownArtifacts'
  | 'usage'
  | 'uploadIds'
  | 'expiredUploads'
  | 'removeUploads'
  | 'giveSpaceBack'
  | 'removeAudit'
>
