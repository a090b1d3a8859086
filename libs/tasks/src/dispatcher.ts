import type { TaskLimits } from './access.ts'
import type { ArtifactFiles } from './artifact-files.ts'
import type { Actor } from './audit.ts'
import type { Clock } from './clock.ts'
import type { DiskRoom } from './disk-room.ts'
import type { Changes, Feeds } from './feed.ts'
import type { Gpu, GpuInventory } from './gpu.ts'
import type { RetentionLimits } from './housekeeping/retention.ts'
import type { GpuId, TaskId, WorkerId } from './ids.ts'
import type { JsonValue, TextMap } from './json.ts'
import type { Logger } from './logger.ts'
import type { StartEstimate, WorkerFacts } from './planner/index.ts'
import type { InputIssue, Preset, PresetCatalog } from './presets.ts'
import type { PrivacyClass } from './privacy.ts'
import type { WorkerRunner } from './runner.ts'
import type { SecretSources } from './secrets.ts'
import type { TaskFilter, TaskStore } from './store.ts'
import type { Task } from './task.ts'
import type { AskedFile } from './upload.ts'
import type { Worker } from './worker.ts'

export interface DispatcherOptions {
  readonly store: TaskStore
  readonly runner: WorkerRunner
  readonly gpus: GpuInventory
  readonly presets: PresetCatalog
  readonly artifactFiles: ArtifactFiles
  readonly secrets: SecretSources
  readonly room: DiskRoom
  readonly clock: Clock
  readonly logger: Logger
  /** Makes ids that sort in the order in which they were made: UUIDs of version 7. */
  readonly newId: () => string
  /** The most workers at a time. */
  readonly maxWorkers: number
  /** The most QUEUED tasks. */
  readonly maxQueued: number
  /** How long a task that cannot start lets later ones pass, in milliseconds. */
  readonly maxPassMs: number
  /** Between two looks for what nobody needs any more, in milliseconds. */
  readonly housekeepingMs: number
  readonly retention: RetentionLimits
  /** From a task's end until contents go that its privacy class does not let be kept, in milliseconds: so that its end can be read. */
  readonly scrubAfterMs: number
  /** What becomes of the workers when the dispatcher is disposed: they go on, or are stopped and their tasks cancelled. */
  readonly shutdown: 'detach' | 'stop'
  /** The limits of an API key as they are now. */
  readonly limitsOf: (keyId: string) => TaskLimits
}

/** What a client asks for. */
export interface SubmitRequest {
  readonly owner: string
  /** The API key whose limits hold for it; `null`: none do. */
  readonly keyId: string | null
  readonly presetId: string
  readonly privacy: PrivacyClass
  readonly input: JsonValue
  readonly priority: number
  readonly labels: TextMap
  readonly idempotencyKey: string | null
  readonly affinity: string | null
  readonly timeoutMs: number | null
  readonly gpuIds: readonly string[] | null
  /** Uploads that the worker is to find beside the input. */
  readonly files: readonly AskedFile[]
}

export type RefusalCode =
  | 'SHUTTING_DOWN'
  | 'QUEUE_FULL'
  /** The disk has no room for more. */
  | 'DISK_FULL'
  /** The API key has as many tasks in the queue as it may. */
  | 'KEY_QUEUE_FULL'
  /** The API key has used its GPU time of the day. */
  | 'GPU_TIME_SPENT'
  /** Too much in too short a time. */
  | 'RATE_LIMITED'
  | 'NO_SUCH_GPU'
  | 'IDEMPOTENCY_CONFLICT'
  /** It has not ended, so there is nothing to repeat or to delete. */
  | 'NOT_ENDED'
  /** Its contents were removed, so there is nothing to repeat. */
  | 'SCRUBBED'
  /** The preset, or the worker, is not one of sessions. */
  | 'NOT_A_SESSION'
  /** There is no room for another worker, or no worker can be started at all. */
  | 'NO_ROOM'
  /** A real GPU cannot be simulated. */
  | 'NOT_SIMULATED'

/** A refusal: nothing was changed. */
export interface Refused {
  readonly status: 'refused'
  readonly code: RefusalCode
  readonly message: string
  /** When it may be asked for again with success; absent: that is not known. */
  readonly retryAfterSeconds?: number
}

/** Why a submission cannot become a task. `index`: which one of a batch. */
export type SubmitProblem =
  | { readonly status: 'unknown-preset'; readonly index: number; readonly message: string }
  | { readonly status: 'invalid-input'; readonly index: number; readonly issues: readonly InputIssue[] }
  | (Refused & { readonly index: number })

export interface SubmittedTask {
  readonly task: Task
  /** The idempotency key was seen before with the same request: this is the earlier task. */
  readonly duplicate: boolean
}

export type SubmitResult =
  { readonly status: 'submitted'; readonly tasks: readonly SubmittedTask[] } | SubmitProblem

/** What would become of a task if it were submitted now. */
export interface DryRun {
  readonly status: 'planned'
  /** `start`: a worker would be started for it; `assign`: a session worker would take it; `wait`: it would wait. */
  readonly action: 'start' | 'assign' | 'wait'
  readonly reason: string
  readonly gpuIds: readonly GpuId[]
  /** The session worker that would take it. */
  readonly workerId: WorkerId | null
  /** The idle session workers that would be ended for it. */
  readonly evicts: readonly WorkerId[]
  readonly estimate: StartEstimate | null
}

/** How well the estimates of starts were lately. */
export interface Calibration {
  /** Of how many starts that is known. */
  readonly samples: number
  /** The share of them that came between `earliest` and `latest`, 0 to 1; `null`: there is none. */
  readonly within: number | null
}

/** What an API key has in use. */
export interface KeyUse {
  readonly queuedTasks: number
  readonly runningTasks: number
  /** Of this day in UTC, running tasks included. */
  readonly gpuSeconds: number
}

/** What has been removed since the start of the service, because nobody needed it any more. */
export interface Housekeeping {
  /** When it was last looked for what need not be kept; `null`: not yet. */
  readonly lastRoundAt: number | null
  readonly removedTasks: number
  readonly removedWorkers: number
}

/** A worker with what only its dispatcher knows. */
export interface LiveWorker extends Worker {
  /** How long its model took to load, or `null` while it is not ready, in milliseconds. */
  readonly loadMs: number | null
  /** The last progress that it told of its loading, 0 to 1; `null`: it has told none. */
  readonly loadProgress: number | null
  /** Since when it has had nothing to do. */
  readonly idleSince: number | null
  /** When it ends for being idle, if nothing comes; `null`: it does not. */
  readonly endsAt: number | null
  /** Measured now, on all its GPUs together, in MB; `null`: it cannot be measured. */
  readonly memoryUsedMb: number | null
  /** What it is doing and why, for people. */
  readonly explanation: string
}

/** A GPU with what only the dispatcher knows. */
export interface LiveGpu extends Gpu {
  readonly status: 'AVAILABLE' | 'BUSY' | 'DRAINING' | 'QUARANTINED' | 'LOST'
  readonly drained: boolean
  /** What our workers hold by right, in MB; the whole of it where one holds it as a whole. */
  readonly memoryClaimedMb: number
  /** What others use of it, in MB; `null`: not known. */
  readonly foreignMemoryMb: number | null
  /** What may still be claimed of it, in MB. */
  readonly memoryFreeMb: number
  readonly workerIds: readonly WorkerId[]
  /** Who holds it, what is free and what keeps it from being used, for people. */
  readonly explanation: string
}

/**
 * Takes tasks, decides with the planner which starts where and when, follows each to its stored end, keeps session workers warm, and
 * answers what waits and why. One per installation: it owns the workers. `by` is who asks, as the audit log keeps it; absent: the service itself.
 */
export interface Dispatcher extends AsyncDisposable {
  /** The tasks' events, stored and live. */
  readonly feeds: Feeds
  /** Tasks whose row has changed. */
  readonly taskChanges: Changes<TaskId>
  /** GPUs whose meters, health or claims have changed. */
  readonly gpuChanges: Changes<GpuId>
  /** Workers that have changed, those that have exited included. */
  readonly workerChanges: Changes<WorkerId>

  /** Stores the tasks, all or none, before it answers. At least one. */
  submit(requests: readonly SubmitRequest[], by?: Actor): Promise<SubmitResult>
  /** What would become of the request if it were submitted now; changes nothing. */
  dryRun(request: SubmitRequest): Promise<DryRun | SubmitProblem>
  /** Answers when the request is stored. `null`: no such task. An ended task stays as it ended. */
  cancel(id: TaskId, reason: string | null, by?: Actor): Promise<Task | null>
  /** Cancels all tasks that match and have not ended; gives them as they are then. */
  cancelMatching(filter: TaskFilter, reason: string | null, by?: Actor): Promise<readonly Task[]>
  /** Submits an ended task again, as a new one, with what it asked for itself and otherwise on the preset as it is now. `null`: no such task. */
  retry(id: TaskId, from: Pick<SubmitRequest, 'owner' | 'keyId'>, by?: Actor): Promise<SubmitResult | null>
  /** Removes an ended task with its events, outputs and files; answers when all of that is gone. `null`: no such task. */
  deleteTask(id: TaskId, by?: Actor): Promise<{ readonly status: 'deleted' } | Refused | null>
  /** Starts a session worker of the preset though no task asks for it; answers once its row is stored, before it has loaded. */
  startSession(
    presetId: string,
    owner: string,
    by?: Actor,
  ): Promise<
    | { readonly status: 'started'; readonly worker: LiveWorker }
    | { readonly status: 'unknown-preset'; readonly message: string }
    | Refused
  >
  /** Ends a session worker: at once where it is idle or `force` is set, else after its tasks. `null`: no such worker that is live. */
  endSession(id: WorkerId, force: boolean, by?: Actor): Promise<LiveWorker | Refused | null>
  /** Nothing new is started on the GPU, what runs there goes on. `null`: no such GPU. */
  drainGpu(id: GpuId, reason: string | null, by?: Actor): Promise<LiveGpu | null>
  /** Takes a drained or quarantined GPU into use again. `null`: no such GPU. */
  enableGpu(id: GpuId, by?: Actor): Promise<LiveGpu | null>

  /** 1 is next; `null` for a task that does not wait. */
  queuePosition(id: TaskId): number | null
  /** Why a task waits, or why it ended as it did. */
  explain(task: Task): string | null
  /** When a QUEUED or STARTING task will be RUNNING; `null` where that cannot be told. */
  estimate(task: Task): StartEstimate | null
  readonly calibration: Calibration
  /** What is known of the workers that the preset's tasks would get now. */
  factsOfPreset(preset: Preset): WorkerFacts
  keyUse(keyId: string): KeyUse
  /** The tasks that have not ended. */
  activeTasks(): readonly TaskId[]
  /** The workers that have not been removed, oldest first. */
  workers(): readonly LiveWorker[]
  /** In the order of their index. */
  gpus(): readonly LiveGpu[]
  /** Why no worker can be started at the moment; `null`: they can. */
  readonly blocked: string | null
  /** How many tasks wait and how many have a worker. */
  readonly load: { readonly queued: number; readonly running: number }
  readonly housekeeping: Housekeeping
  /** From now on submits are refused with SHUTTING_DOWN; everything else goes on. */
  refuse(): void
}
