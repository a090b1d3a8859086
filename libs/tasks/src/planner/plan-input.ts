import type { GpuId, PresetId, TaskId, WorkerId } from '../ids.ts'
import type { GpuNeed, SessionOptions, WorkerMode } from '../spec.ts'
import type { GpuClaim } from '../worker.ts'

/** A QUEUED task as the planner sees it. Moments are milliseconds since 1970 here and everywhere in the planner. */
export interface QueuedTask {
  readonly id: TaskId
  readonly owner: string
  /** The API key that it counts against; `null`: none. */
  readonly keyId: string | null
  readonly priority: number
  readonly queuedAt: number
  /** It must not start before; `null`: it may at once. */
  readonly retryAt: number | null
  readonly presetId: PresetId
  /** Which workers can serve it: those of the same hash. */
  readonly specHash: string
  /** Its `count` is a number by now. */
  readonly gpus: GpuNeed
  /** Of a task for session workers, else `null`. */
  readonly session: SessionOptions | null
  readonly affinity: string | null
}

/** A worker that has not been removed. */
export interface PlannedWorker {
  readonly id: WorkerId
  readonly presetId: PresetId
  readonly specHash: string
  readonly mode: WorkerMode
  /** `starting`: it cannot take a task yet; `ending`: it was told to end, or has ended and its GPU memory is not seen free yet. */
  readonly phase: 'starting' | 'ready' | 'ending'
  readonly claim: GpuClaim
  /** Measured of it, in MB; a GPU that is not in it: nothing could be measured. */
  readonly usedMb: ReadonlyMap<GpuId, number>
  /** Whose tasks it serves; `null`: everybody's. */
  readonly owner: string | null
  readonly session: SessionOptions | null
  /** When each of the tasks that it works on was given to it; the first one's while it is starting included. */
  readonly runningSince: readonly number[]
  /** Whose these tasks are, in any order. */
  readonly runningOwners: readonly string[]
  /** The API keys that they count against, in any order. */
  readonly runningKeys: readonly (string | null)[]
  /** Why it takes no more tasks and ends once it is idle; `null`: it takes more. */
  readonly retiring: string | null
  readonly startedAt: number
  readonly readyAt: number | null
  /** Since when it has had nothing to do; `null`: it is not ready or has. */
  readonly idleSince: number | null
  readonly tasksServed: number
  /** When it was given the last task of each affinity key, as far back as it is remembered. */
  readonly affinities: ReadonlyMap<string, number>
}

export interface PlannedGpu {
  readonly id: GpuId
  readonly index: number
  readonly name: string
  /** 0: not known; any amount of memory is then believed to fit. */
  readonly memoryTotalMb: number
  /** Measured, all processes; `null`: not known. */
  readonly usedMb: number | null
  /** Why nothing may be started on it: it is lost, quarantined, drained, divided into MIG devices; `null`: it is in use. */
  readonly unusable: string | null
}

/** A session worker that should be there though no task has asked for it. */
export interface WantedSession {
  readonly presetId: PresetId
  readonly specHash: string
  readonly gpus: GpuNeed
  readonly session: SessionOptions
  /** How many there should be; live ones count. */
  readonly count: number
  /** Not to be started before: the last one could not be started. */
  readonly notBefore: number
}

/** What the tasks of an API key may have; others than those of such keys may have what there is. */
export interface KeyCap {
  /** How many may have a worker at a time; `null`: as many as there are. */
  readonly maxRunning: number | null
  /** It has used its GPU time: none of its tasks starts before `until`. */
  readonly spent: { readonly gpuSeconds: number; readonly until: number } | null
}

/** What has been measured of workers of one spec, and of their tasks. */
export interface WorkerFacts {
  /** The memory that one needs on each of its GPUs, in MB: the 95th percentile of the last peaks; `null`: too little is known. */
  readonly learnedMemoryMb: number | null
  /** From start to readiness, the middle of the last ones and how far they spread (10th to 90th percentile), in milliseconds; `null`: none is known. */
  readonly loadMs: Spread | null
  /** From RUNNING to the end. */
  readonly runMs: Spread | null
  /** From the claim of a warm worker for a task until that is RUNNING. */
  readonly handOverMs: Spread | null
  /** Tasks per hour that asked for it lately. */
  readonly tasksPerHour: number
}

export interface Spread {
  readonly low: number
  readonly middle: number
  readonly high: number
}

export interface PlanRules {
  /** So much waiting counts as one step of priority: a task is passed by one with a higher priority only if that came less than so much per step later. */
  readonly priorityStepMs: number
  /** Each task of an owner that is running or waits before this one counts as so much later a submission, up to `maxFairnessMs`. */
  readonly fairnessStepMs: number
  readonly maxFairnessMs: number
  /** How long a task that cannot start lets later ones pass; then it holds back what it needs. */
  readonly maxPassMs: number
}

export const DEFAULT_RULES: PlanRules = {
  priorityStepMs: 60_000,
  fairnessStepMs: 5_000,
  maxFairnessMs: 600_000,
  maxPassMs: 30_000,
}

/** All that a plan is made from. */
export interface PlanInput {
  readonly now: number
  /** In any order. */
  readonly queue: readonly QueuedTask[]
  readonly workers: readonly PlannedWorker[]
  readonly gpus: readonly PlannedGpu[]
  readonly wanted: readonly WantedSession[]
  /** The hash of each preset in force: a session worker of another hash whose preset is not there any more, or has changed, is replaced when idle. */
  readonly inForce: ReadonlyMap<PresetId, string>
  readonly factsOf: (specHash: string) => WorkerFacts
  /** The API keys that have one. */
  readonly keys: ReadonlyMap<string, KeyCap>
  /** The most workers at a time. */
  readonly maxWorkers: number
  /** Why no worker can be started at all at the moment (the runner's neighbour is away); `null`: they can. Warm ones go on. */
  readonly blocked: string | null
  readonly rules: PlanRules
}

export type PlanAction =
  /** Start a worker for a task, or, with `taskId: null`, a session worker of the preset that is wanted. */
  | {
      readonly kind: 'start'
      readonly taskId: TaskId | null
      readonly presetId: PresetId
      readonly claim: GpuClaim
      readonly reason: string
    }
  /** Give a task to a session worker that is there: ready, or still coming up. */
  | {
      readonly kind: 'assign'
      readonly taskId: TaskId
      readonly workerId: WorkerId
      readonly warm: boolean
      readonly reason: string
    }
  /** End an idle session worker; `forTask`: to make room for that task. */
  | {
      readonly kind: 'end'
      readonly workerId: WorkerId
      readonly forTask: TaskId | null
      readonly reason: string
    }

/** Why a task does not start now. */
export interface Waiting {
  readonly kind:
    | 'blocked'
    /** For the moment of its next attempt. */
    | 'retry'
    /** All places for workers are taken. */
    | 'places'
    /** Its API key has as much as it may. */
    | 'limit'
    /** There are too few GPUs at all, or none in use that it may have. */
    | 'no-gpu'
    /** For GPUs, or memory on them. */
    | 'gpu'
    /** What it needs is held back for a task that has waited longer than it may be passed. */
    | 'held-back'
    /** For a session worker that is there and is soon free. */
    | 'session'
    /** For an idle session worker that was told to end, or for its memory. */
    | 'release'
  readonly reason: string
}

/** The tasks that wait and why, in the order in which they are looked at; a `Map` is one, too. */
export interface WaitingTasks extends Iterable<[TaskId, Waiting]> {
  readonly size: number
  get(id: TaskId): Waiting | undefined
  has(id: TaskId): boolean
  keys(): Iterable<TaskId>
  values(): Iterable<Waiting>
}

export interface Plan {
  /** To be done in this order. */
  readonly actions: readonly PlanAction[]
  /** The tasks that do not start. */
  readonly waiting: WaitingTasks
  /** When a plan made from the same but a later `now` may differ; `null`: never. */
  readonly wakeAt: number | null
}
