import type { GpuId } from './ids.ts'
import type { WorkerSpec } from './spec.ts'

/** What probably made an attempt fail, finer than the class that decides whether it is tried again. */
export const FAILURE_CAUSES = [
  /** The kernel killed the worker for the host's memory, or its limit of it. */
  'out_of_memory',
  /** A GPU's memory did not suffice. */
  'gpu_out_of_memory',
  /** A kernel on the GPU failed, or the worker could not reach its GPU any more. */
  'gpu_broken',
  /** A GPU of the worker disappeared. */
  'gpu_lost',
  /** The engine cannot give GPUs to containers. */
  'gpu_unavailable',
  /** The image is not there, or could not be fetched. */
  'image_missing',
  /** The program that the worker should run is not there. */
  'command_missing',
  /** A secret that the preset gives to its workers could not be read. */
  'secret_unavailable',
  /** The engine did not start the worker for another reason. */
  'engine_refused',
  /** A disk had no space left. */
  'disk_full',
  /** The worker needed something that its confinement does not give. */
  'confined',
  /** A library or module that the worker needs is not in its image. */
  'dependency_missing',
  /** A file that the worker needs, most likely of a model, is not where it looked. */
  'file_missing',
  /** Its native code failed: a signal that it raised itself. */
  'crashed',
  /** A signal from outside ended it, and it was not ours. */
  'killed',
  /** What it ran on was stopped or broke, and ended it. */
  'engine_stopped',
  /** It exited with another code than 0, and nothing more is known. */
  'exited',
  /** It exited as if all were well, without saying that it had finished. */
  'no_finish',
  /** It said that the task failed. */
  'reported',
  /** It refused the task's input. */
  'bad_input',
  /** Some of its output was lost on the way. */
  'output_lost',
  /** It is gone, and its end was not seen. */
  'lost',
  /** A session worker gave the task up. */
  'given_up',
  /** A session worker did not take the task. */
  'unacknowledged',
  /** It did not come up in time. */
  'start_timeout',
  /** It took longer than it may. */
  'run_timeout',
  /** It said nothing for longer than it may. */
  'silence_timeout',
  /** It said, or left behind, more than it may. */
  'output_limit',
] as const
export type FailureCause = (typeof FAILURE_CAUSES)[number]

/** What the meters of a GPU showed at one moment; `null` where they do not tell. */
export interface GpuReading {
  readonly gpuId: GpuId
  /** Milliseconds since 1970. */
  readonly at: number
  /** Of all processes on the card. */
  readonly memoryUsedMb: number | null
  readonly utilizationPercent: number | null
  readonly temperatureC: number | null
  readonly powerW: number | null
  readonly eccErrors: number | null
}

/** What is kept of a failed attempt when its container is long gone. */
export interface FailureEvidence {
  readonly cause: FailureCause
  /** One or two sentences for people: what probably happened, and what to do about it. */
  readonly diagnosis: string
  /** The signal that ended its worker, such as `SIGSEGV`; `null`: none, or not known. */
  readonly signal: string | null
  /** The kernel killed something in the worker for memory. */
  readonly oomKilled: boolean
  /** The last lines on stderr, oldest first, each cut. */
  readonly stderr: readonly string[]
  /** The last that it said on stdout, oldest first, one JSON object (or log line) each, cut. */
  readonly stdout: readonly string[]
  /** Of the image that the worker ran; `null` where the runner knows none, or it was not started. */
  readonly imageDigest: string | null
  /** What the worker was started with. */
  readonly spec: WorkerSpec
  /** Of the worker's GPUs in the minute before the end, oldest first. */
  readonly gpuReadings: readonly GpuReading[]
}
