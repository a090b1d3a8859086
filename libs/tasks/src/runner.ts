import type { GpuId, WorkerId, WorkerName } from './ids.ts'
import type { JsonValue } from './json.ts'
import type { Secret } from './secrets.ts'
import type { WorkerSpec } from './spec.ts'

export type OutputStream = 'stdout' | 'stderr'

/**
 * How far each output stream has been read: opaque text that only the runner that made it can read, `''` at the start. A position moves
 * only at line ends, so reading on from it repeats no line and loses none.
 */
export type OutputCursor = Readonly<Record<OutputStream, string>>

export const OUTPUT_START: OutputCursor = { stdout: '', stderr: '' }

/** A GPU as a worker gets it. */
export interface AssignedGpu {
  readonly id: GpuId
  /** The host's device number. */
  readonly index: number
  /** A simulated GPU is named to the worker but never asked of the engine. */
  readonly simulated: boolean
}

/** A file that a run is given. */
export interface InputFile {
  /** A file name, of its own among those of the run. */
  readonly name: string
  readonly mediaType: string
  readonly bytes: number
  /** Lower-case hex. */
  readonly sha256: string
  /** Makes it be found at `path`, where nobody may write to it: it is the original. Harmless where it is there already. */
  placeAt(path: string): Promise<void>
}

/** One attempt of a task, as its worker is told of it. */
export interface RunOrder {
  /** `<task>.<attempt>`; the protocol's `task_id`. */
  readonly runId: string
  readonly attempt: number
  readonly input: JsonValue
  readonly files: readonly InputFile[]
  /** What earlier attempts have left. */
  readonly previous: readonly InputFile[]
}

/** What a runner needs to start a worker. */
export interface WorkerOrder {
  readonly name: WorkerName
  readonly workerId: WorkerId
  readonly spec: WorkerSpec
  readonly gpus: readonly AssignedGpu[]
  /** Those that its spec names. */
  readonly secrets: readonly Secret[]
  /** The task of a one-off worker, handed over as it starts; `null` for a session worker, which is told on its stdin later. */
  readonly run: RunOrder | null
}

/** Why a worker could not be started. `message` says what, `hint` says what to do. */
export interface StartFailure {
  readonly status: 'failed'
  readonly code:
    | 'IMAGE_NOT_FOUND'
    | 'PULL_FAILED'
    | 'COMMAND_NOT_FOUND'
    | 'GPU_UNAVAILABLE'
    | 'ENGINE_REFUSED'
    | 'ENGINE_UNAVAILABLE'
    /** The neighbour went away in the middle of the start and cannot go on with it; whether the worker has begun is not known. */
    | 'START_LOST'
    | 'NO_LOCAL_COMMAND'
    /** A secret of the worker's cannot be read. */
    | 'SECRET_UNAVAILABLE'
    /** The signal of the start was aborted before there was a worker. */
    | 'START_ABANDONED'
  readonly message: string
  readonly hint: string
}

/** How far an image has been pulled. */
export interface PullProgress {
  /** What is being done, for people. */
  readonly message: string
  /** 0..1; `null` where it is not known. */
  readonly progress: number | null
}

export interface StartOptions {
  /**
   * Aborted when the worker is not wanted any more: a start that waits for its image ends with START_ABANDONED (the pull itself goes on
   * while others wait for it). Once the worker is being made an abort has no effect.
   */
  readonly signal?: AbortSignal
  /** Told now and then while the worker's image is being pulled, about once a second at most. */
  readonly onPull?: (progress: PullProgress) => void
}

export interface Started {
  readonly status: 'started'
  /** The runner's own id: a container id, or a process id. */
  readonly containerId: string
  /** The image's content digest, where the runner knows images. */
  readonly imageDigest: string | null
  /** When the worker began to run, in milliseconds since 1970. */
  readonly startedAt: number
}

/** How a worker's main process ended. */
export interface WorkerExit {
  /** 128 + n for signal n; `null` where the runner cannot tell. */
  readonly exitCode: number | null
  /** The kernel killed something in the worker for memory; true also where only a child died of it. */
  readonly oomKilled: boolean
  readonly finishedAt: number
}

/** A stretch of what a worker says. */
export type WorkerOutput =
  | {
      readonly kind: 'data'
      readonly stream: OutputStream
      /** Raw bytes of one stream, in order; lines may be cut anywhere. Valid only until the next one is asked for. */
      readonly bytes: Uint8Array
      /** The stream's position after the last line that ends in `bytes` (unchanged where none does). */
      readonly cursor: string
      /** When the worker wrote it (or when it was read, where the runner cannot tell), in milliseconds since 1970. */
      readonly at: number
    }
  /**
   * Some output can never be read any more; where it is not `certain`, some may be lost, and nobody but the worker can tell. While such a
   * suspicion lasts it is said again and again.
   */
  | { readonly kind: 'gap'; readonly certain: boolean; readonly detail: string }
  /**
   * Something has happened to the worker or to what it runs on that people should know of. `mayLack`: it may have cost some output, though
   * mostly it does not.
   */
  | { readonly kind: 'notice'; readonly mayLack: boolean; readonly detail: string }
  /**
   * Last: the worker has exited and all of its output has been yielded. `cause`: the sentence that says how what it runs on has ended it, or has
   * missed its end; `null`: neither.
   */
  | { readonly kind: 'end'; readonly exit: WorkerExit; readonly cause: string | null }
  /** Last: there is no telling any more how the worker ended or will end (removed or restarted by hand). */
  | { readonly kind: 'lost'; readonly detail: string }

export type WorkerState =
  /** Created, but never started. */
  | { readonly phase: 'created' }
  | { readonly phase: 'running'; readonly containerId: string; readonly startedAt: number }
  | { readonly phase: 'exited'; readonly containerId: string; readonly exit: WorkerExit }
  | { readonly phase: 'unknown' }

/** Commands to a session worker. */
export interface WorkerInput {
  run(order: RunOrder): Promise<void>
  cancel(runId: string): Promise<void>
  shutdown(): Promise<void>
  /** Lets go of the channel; the worker's stdin stays open. */
  detach(): void
}

/** How a runner's neighbour is. */
export interface RunnerHealth {
  /** Workers can be started and all that they say is kept. */
  readonly ok: boolean
  /** For a person. */
  readonly detail: string
}

/** Where a run's files are. */
export interface OutputFolder {
  /** As the service reaches it. */
  readonly host: string
  /** As the worker reaches it: its OUTPUT_DIR. */
  readonly worker: string
}

/**
 * Starts workers and reads them: the port behind which Docker, plain processes and later a cluster stand.
 *
 * A worker outlives the service: nothing here ends when the service does, and after a restart the same name finds the same worker.
 * Every method may be called again after a failure. A neighbour that is away or refuses is waited for in `output`, an error
 * (`RunnerError`) elsewhere.
 */
export interface WorkerRunner extends AsyncDisposable {
  readonly kind: 'docker' | 'process'
  /**
   * Starts a worker under its name. A worker of that name that is there already is adopted: started if it was only created, left alone
   * otherwise. After `failed` nothing of it is left behind. Where the neighbour went away in the middle it throws `RunnerError`
   * ENGINE_UNAVAILABLE: the worker may or may not have been started, and only a call with the same order may follow.
   */
  start(order: WorkerOrder, options?: StartOptions): Promise<StartResult>
  /**
   * What the worker says after `after`, then what comes, to its very end; `end` or `lost` comes exactly once and last. The reader sets
   * the pace and never holds back the worker. While the neighbour is away the iterator waits and tries again. An abort of `signal` ends
   * the iterator without `end`.
   */
  output(name: WorkerName, options: { after: OutputCursor; signal: AbortSignal }): AsyncIterable<WorkerOutput>
  /** The stdin of a session worker. */
  openInput(name: WorkerName): Promise<WorkerInput>
  /** Asks the worker to end (SIGTERM) and forces it (SIGKILL) after the grace period. Resolves when it runs no more; harmless where it never did. */
  stop(name: WorkerName, options: { graceMs: number }): Promise<void>
  inspect(name: WorkerName): Promise<WorkerState>
  /**
   * The process ids of the worker's processes, as the runner's neighbour counts them (which is the host's count unless it lives in a process
   * namespace or on a machine of its own); empty where it runs no more or they cannot be told. They say which GPU memory is the worker's.
   */
  processes(name: WorkerName): Promise<readonly number[]>
  /** All workers of this installation that the runner still knows, in any phase, and those of which nothing but files is left (`unknown`). */
  list(): Promise<readonly ListedWorker[]>
  /** Removes an ended (or never started) worker with its log and its files; forces one that still runs. Harmless where it is gone. */
  remove(name: WorkerName): Promise<void>
  /** Removes the files of the worker's runs but those that are needed; it is asked when they have been found. Harmless where it is gone. */
  removeRuns(name: WorkerName, isNeeded: (runId: string) => boolean): Promise<void>
  /** The secrets that the worker was given, for as long as its files are there. */
  secrets(name: WorkerName): Promise<readonly Secret[]>
  /** How the neighbour is at the moment; told within seconds, also where it hangs. */
  health(): Promise<RunnerHealth>
  /** Where the files of a run are. */
  outputFolder(name: WorkerName, runId: string): OutputFolder
}

export type StartResult = Started | StartFailure

export interface ListedWorker {
  readonly name: WorkerName
  readonly state: WorkerState
}

/** The neighbour that runs workers is away or has refused a call. */
export class RunnerError extends Error {
  override readonly name = 'RunnerError'
  /** INPUT_CLOSED: a worker's input was closed before, and nothing of the command has left. */
  readonly code: 'ENGINE_UNAVAILABLE' | 'ENGINE_REFUSED' | 'NOT_FOUND' | 'INPUT_CLOSED'
  constructor(code: RunnerError['code'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
