import type { GpuId, PresetId } from './ids.ts'
import type { TextMap } from './json.ts'

/** ONE_OFF: exits after its task. SESSION: stays warm and takes the next one. */
export type WorkerMode = 'ONE_OFF' | 'SESSION'

/** What a preset asks of the GPUs. */
export interface GpuNeed {
  /** Whole GPUs. `default`: one where the inventory has any, none where it has none. */
  readonly count: number | 'default'
  /** Only these GPUs may serve; `null`: any. */
  readonly ids: readonly GpuId[] | null
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

/** Deadlines, in milliseconds. */
export interface WorkerTimeouts {
  /** From the worker's start to its end. */
  readonly runMs: number
  /** Between SIGTERM and SIGKILL. */
  readonly stopGraceMs: number
  /** How long a one-off worker may take to exit after its `finish`. */
  readonly finishGraceMs: number
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
  /** Path below the models folder that MODEL_PATH points at; `null`: the folder itself. */
  readonly modelPath: string | null
  readonly gpus: GpuNeed
  readonly limits: WorkerLimits
  readonly network: 'none' | 'bridge'
  readonly volumes: readonly Volume[]
  readonly relax: Relaxations
  readonly timeouts: WorkerTimeouts
}
