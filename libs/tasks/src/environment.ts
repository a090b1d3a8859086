import type { TextMap } from './json.ts'
import type { AssignedGpu, RunOrder, WorkerOrder } from './runner.ts'

/** The largest input, in bytes of JSON, that is also handed over as TASK_INPUT. */
export const MAX_TASK_INPUT_BYTES = 32 * 1024

/**
 * The largest environment, in bytes of `NAME=value` with their terminators. Linux refuses to start a program whose single variable passes
 * 128 KiB, and engines fail below that for the sum.
 */
export const MAX_ENVIRONMENT_BYTES = 96 * 1024

/** Where a worker finds things, as the worker itself reaches them. */
export interface WorkerPaths {
  /** The models folder. */
  readonly models: string
  /** The input as a JSON file; `null` for a session worker. */
  readonly inputFile: string | null
  /** Where the files of its run go; a session worker learns this with each `run` command and gets `null`. */
  readonly outputDir: string | null
  readonly home: string
  /** Where the files of its run are that the task was given; `null` where there are none, and for a session worker. */
  readonly inputDir: string | null
  /** The folder with what earlier attempts have left; `null` where that is nothing, and for a session worker. */
  readonly previousDir: string | null
  /** The folder with its secrets; `null`: it has none. */
  readonly secrets: string | null
  /** Writable, and kept from worker to worker of one preset. */
  readonly cache: string
}

/**
 * The environment that every worker gets, whichever runner starts it. The preset's own variables win. TASK_INPUT is left out where the
 * input is over `MAX_TASK_INPUT_BYTES` or the whole would pass `MAX_ENVIRONMENT_BYTES`: INPUT_FILE and stdin carry it in any case.
 */
export function workerEnvironment(
  order: Pick<WorkerOrder, 'spec' | 'gpus' | 'run'>,
  paths: WorkerPaths,
): TextMap {
  const { spec, run } = order
  const environment = {
    MODEL_NAME: spec.model,
    MODEL_PATH: spec.modelPath === null ? paths.models : `${paths.models}/${spec.modelPath}`,
    GPU_DEVICE: order.gpus.map(deviceName).join(','),
    PROTOCOL_VERSION: '1',
    PYTHONUNBUFFERED: '1',
    HOME: paths.home,
    // Compilers of kernels that do not look at XDG_CACHE_HOME: without these every cold start compiles again.
    XDG_CACHE_HOME: paths.cache,
    CUDA_CACHE_PATH: `${paths.cache}/cuda`,
    TRITON_CACHE_DIR: `${paths.cache}/triton`,
    TORCHINDUCTOR_CACHE_DIR: `${paths.cache}/torchinductor`,
    NUMBA_CACHE_DIR: `${paths.cache}/numba`,
    ...(run && { TASK_ID: run.runId }),
    ...(paths.inputFile !== null && { INPUT_FILE: paths.inputFile }),
    ...(paths.inputDir !== null && { INPUT_DIR: paths.inputDir }),
    ...(run !== null && run.files.length > 0 && { TASK_FILES: JSON.stringify(told(run.files)) }),
    ...(paths.previousDir !== null && { PREVIOUS_DIR: paths.previousDir }),
    ...(run !== null && run.previous.length > 0 && { PREVIOUS_FILES: JSON.stringify(told(run.previous)) }),
    ...(paths.outputDir !== null && { OUTPUT_DIR: paths.outputDir }),
    ...(paths.secrets !== null && { SECRETS_DIR: paths.secrets }),
    ...spec.env,
  }
  if (!run || 'TASK_INPUT' in spec.env) return environment
  const input = JSON.stringify(run.input)
  if (Buffer.byteLength(input) > MAX_TASK_INPUT_BYTES) return environment
  const whole = { ...environment, TASK_INPUT: input }
  return environmentBytes(whole) > MAX_ENVIRONMENT_BYTES ? environment : whole
}

/** The size of an environment as the kernel counts it. */
export function environmentBytes(environment: TextMap): number {
  return Object.entries(environment).reduce(
    (sum, [name, value]) => sum + Buffer.byteLength(name) + Buffer.byteLength(value) + 2,
    0,
  )
}

/** A MIG device has no number of its own. */
function deviceName(gpu: AssignedGpu): string {
  return gpu.id.startsWith('MIG-') ? gpu.id : String(gpu.index)
}

/** The folders of a run, as the worker reaches them. */
export interface RunFolders {
  /** Of the files that its task was given; not there where it was given none. */
  readonly input: string
  /** Of what earlier attempts have left; not there where that is nothing. */
  readonly previous: string
  readonly output: string
}

/** The line on stdin that hands a worker its task, with its newline. */
export function runCommand(run: RunOrder, folders: RunFolders): string {
  const files = told(run.files)
  const previous = told(run.previous)
  return commandLine({
    command: 'run',
    task_id: run.runId,
    attempt: run.attempt,
    input: run.input,
    output_dir: folders.output,
    ...(files.length > 0 && { input_dir: folders.input, files }),
    ...(previous.length > 0 && { previous_dir: folders.previous, previous_files: previous }),
  })
}

/** The line on stdin that asks a session worker to stop one task. */
export function cancelCommand(runId: string): string {
  return commandLine({ command: 'cancel', task_id: runId })
}

/** The line on stdin that asks a session worker to clean up and exit. */
export function shutdownCommand(): string {
  return commandLine({ command: 'shutdown' })
}

/** What a worker is told of files. */
function told(files: RunOrder['files']): readonly object[] {
  return files.map(({ name, mediaType, bytes, sha256 }) => ({ name, media_type: mediaType, bytes, sha256 }))
}

function commandLine(command: object): string {
  return `${JSON.stringify(command)}\n`
}
