import { parsePresetFile } from '@gpu-service/presets'
import type { AssignedGpu, GpuId, Secret, TextMap, WorkerMode, WorkerSpec } from '@gpu-service/tasks'

/** What is graded. */
export type Subject =
  | {
      readonly kind: 'image'
      readonly image: string
      /** Empty: the image's own. */
      readonly command: readonly string[]
    }
  | {
      readonly kind: 'command'
      /** A line of the shell. */
      readonly command: string
      /** The folder that it is run in. */
      readonly cwd: string
    }
  | {
      /** The worker of a preset in its container, with all that the preset gives it. */
      readonly kind: 'preset'
      readonly spec: WorkerSpec
      readonly gpus: readonly AssignedGpu[]
      readonly secrets: readonly Secret[]
    }

/** GPUs of this machine by what `nvidia-smi -L` calls them: number or UUID. */
export function gpusOf(names: readonly string[]): readonly AssignedGpu[] {
  return names.map((name, place) => ({
    id: name as GpuId,
    index: /^\d+$/.test(name) ? Number(name) : place,
    simulated: false,
  }))
}

/** Longer than any worker takes that has no model to load. */
const START_MS = 60_000

/** The name that the process runner looks up; any would do. */
export const LOCAL_IMAGE = 'graded:latest'

/** A line of the shell as the program that is the worker itself: signals reach it, and not a shell in between. */
export function programOf(line: string): readonly string[] {
  return ['/bin/sh', '-c', `exec ${line}`]
}

/** A preset for the worker, as confined as it is in the service. */
export function specOf(subject: Subject, mode: WorkerMode, env: TextMap, concurrency: number): WorkerSpec {
  const session = mode === 'SESSION' ? sessionOf(concurrency) : null
  if (subject.kind === 'preset') {
    const { spec } = subject
    return { ...spec, mode, pull: 'never', env: { ...spec.env, ...env }, session }
  }
  return {
    ...DEFAULTS,
    model: env['MODEL_NAME'] ?? DEFAULTS.model,
    mode,
    image: subject.kind === 'image' ? subject.image : LOCAL_IMAGE,
    command: subject.kind === 'image' ? subject.command : [],
    localCommand: subject.kind === 'command' ? programOf(subject.command) : null,
    env,
    timeouts: { ...DEFAULTS.timeouts, startMs: START_MS },
    retry: { ...DEFAULTS.retry, maxAttempts: 1 },
    session,
  }
}

/** What a preset comes to that says nothing but its image, and that it holds no GPU. */
const DEFAULTS = await defaults()

async function defaults(): Promise<WorkerSpec> {
  const text = `models: {conformance: {worker: {docker_image: '${LOCAL_IMAGE}', gpus: {count: 0}}}}`
  const nothing = { volumeRoots: [], secretRoots: [], secretEnvPrefix: 'WORKER_SECRET_' }
  const parsed = await parsePresetFile(Buffer.from(text), { file: 'conformance', ...nothing })
  const [loaded] = parsed.status === 'valid' ? parsed.presets : []
  if (loaded === undefined) throw new TypeError('A preset of an image alone is not valid any more.')
  return loaded.preset.spec
}

function sessionOf(maxConcurrency: number): WorkerSpec['session'] {
  return {
    maxConcurrency,
    maxWorkers: null,
    idleMs: null,
    maxTasks: null,
    maxAgeMs: null,
    minResidencyMs: 0,
    pinned: false,
    prewarm: 0,
    isolation: 'shared',
  }
}
