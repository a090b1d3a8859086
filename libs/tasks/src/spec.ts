import type { GpuId, PresetId } from './ids.ts'
import type { TextMap } from './json.ts'
import type { SecretReference } from './secrets.ts'

/** ONE_OFF: exits after its task. SESSION: stays warm and takes the next one. */
export type WorkerMode = 'ONE_OFF' | 'SESSION'

/** What a preset asks of the GPUs. */
export interface GpuNeed {
  /** How many GPUs. `default`: one where the inventory has any, none where it has none. */
  readonly count: number | 'default'
  /** `exclusive`: no other worker of ours is on the same GPU. `shared`: the worker claims an amount of memory on each GPU. */
  readonly share: 'exclusive' | 'shared'
  /**
   * Memory that a worker needs on each of its GPUs, in MB; `null`: not declared. What was measured of earlier workers raises it, and stands
   * in for it where it is not declared; a shared need without either takes its GPUs as a whole until something has been measured.
   */
  readonly memoryMb: number | null
  /** Only these GPUs may serve; `null`: any. */
  readonly ids: readonly GpuId[] | null
  /** Only GPUs whose name contains one of these, in any case; `null`: any. */
  readonly names: readonly string[] | null
}

/** A folder or file of the host that a preset mounts into its workers. */
export interface Volume {
  /** Absolute path on the host, already checked against the allow-list. */
  readonly source: string
  /** Absolute path in the container. */
  readonly target: string
  readonly readOnly: boolean
}

/** Limits of one worker. Megabytes are 1,048,576 bytes. */
export interface WorkerLimits {
  /** `null`: no limit. */
  readonly memoryMb: number | null
  /** CPU cores, fractions allowed; `null`: no limit. */
  readonly cpus: number | null
  readonly processes: number
  /** Size of `/dev/shm`. */
  readonly sharedMemoryMb: number
  /** Size of the in-memory `/tmp` and of the in-memory home folder, each. */
  readonly tmpMb: number
}

/** How much one attempt of a task may say and leave behind; one that goes beyond is stopped. */
export interface OutputLimits {
  /** What is kept of its events and lines. */
  readonly mb: number
  readonly events: number
  readonly artifacts: number
  /** All of them together. */
  readonly artifactsMb: number
}

/** Deadlines, in milliseconds; `null`: none. */
export interface WorkerTimeouts {
  /** From the task's submission (or its return to the queue) to its claim. */
  readonly queueMs: number | null
  /** From a worker's start to its first sign of life; of a session worker: to its `worker ready`. */
  readonly startMs: number
  /** From the start of the task's worker, or from its hand-over to a warm one, to its end. */
  readonly runMs: number
  /** Between two lines of a RUNNING task. */
  readonly silenceMs: number | null
  /** From a session worker's `run` command to its first event of that task. */
  readonly ackMs: number
  /** Between SIGTERM and SIGKILL; of a session worker that is asked to cancel a task: between that and SIGTERM as well. */
  readonly stopGraceMs: number
  /** How long a one-off worker may take to exit after its `finish`. */
  readonly finishGraceMs: number
}

/** How a preset's session workers live. */
export interface SessionOptions {
  /** The most tasks that one worker works on at a time. */
  readonly maxConcurrency: number
  /** The most workers of the preset at a time; `null`: as many as there is room for. */
  readonly maxWorkers: number | null
  /** How long a worker stays idle before it is ended; `null`: until its place is needed. */
  readonly idleMs: number | null
  /** How many tasks a worker serves; `null`: any number. */
  readonly maxTasks: number | null
  /** How old a worker gets; `null`: any age. */
  readonly maxAgeMs: number | null
  /** How long a worker that has become ready is safe from eviction. */
  readonly minResidencyMs: number
  /** Idle workers are neither evicted nor ended for being idle. */
  readonly pinned: boolean
  /** How many workers are kept warm while nothing else needs their place; 0: they are started for tasks only. */
  readonly prewarm: number
  /** `shared`: a worker serves everybody's tasks. `owner`: only those of the owner whose task it was started for. */
  readonly isolation: 'shared' | 'owner'
}

/** What can be tried again. Bad input and a worker's own refusal of it never are. */
export const FAILURE_CLASSES = [
  /** The worker, or its GPU, ran out of memory. */
  'out_of_memory',
  /** A GPU of the worker disappeared or failed. */
  'gpu_lost',
  /** The engine could not start the worker, or lost it. */
  'engine',
  /** The worker exited without a finish, or said that the task failed. */
  'worker_failed',
  /** A session worker died or was stopped while it worked on the task, maybe because of another one. */
  'session_died',
  /** A session worker did not take the task. */
  'unacknowledged',
] as const
export type FailureClass = (typeof FAILURE_CLASSES)[number]

/** Whether and when a failed attempt is followed by another. */
export interface RetryPolicy {
  /** The most attempts of a task. */
  readonly maxAttempts: number
  /** Before the second attempt, in milliseconds; it doubles with each further one, up to ten minutes. */
  readonly backoffMs: number
  readonly on: readonly FailureClass[]
}

/** The parts of the confinement that a preset has relaxed. */
export interface Relaxations {
  /** `uid:gid` to run as instead of 65534:65534; `null`: the default. */
  readonly user: string | null
  readonly writableRoot: boolean
  /** Capabilities to add to the empty set, without the `CAP_` prefix. */
  readonly capabilities: readonly string[]
}

/**
 * Everything that is needed to start a worker: complete, no default left to look up, frozen. A task keeps the spec that it was submitted
 * with, so a preset that is edited later does not change a queued task. It is stored as JSON.
 */
export interface WorkerSpec {
  readonly presetId: PresetId
  readonly model: string
  readonly kind: string
  readonly mode: WorkerMode
  readonly image: string
  /** Empty: the image's own command. */
  readonly command: readonly string[]
  /** What the process runner runs instead of the worker package's own local command; `null`: the package's. */
  readonly localCommand: readonly string[] | null
  /** `never`: a missing image is an error; `missing`: it is pulled first. */
  readonly pull: 'never' | 'missing'
  /** The preset's `env_vars`; they win over what the service sets itself. */
  readonly env: TextMap
  /** What its workers find as files; in the order of their names. */
  readonly secrets: readonly SecretReference[]
  /** Path below the models folder that MODEL_PATH points at; `null`: the folder itself. */
  readonly modelPath: string | null
  readonly gpus: GpuNeed
  readonly limits: WorkerLimits
  readonly output: OutputLimits
  readonly network: 'none' | 'bridge'
  readonly volumes: readonly Volume[]
  readonly relax: Relaxations
  readonly timeouts: WorkerTimeouts
  readonly retry: RetryPolicy
  /** Of a preset with `mode: session`, else `null`. */
  readonly session: SessionOptions | null
}
