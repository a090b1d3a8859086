import type { AssignedGpu, PresetId, Secret, TextMap, WorkerMode, WorkerSpec } from '@gpu-service/tasks'

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
    presetId: 'conformance/worker' as PresetId,
    model: env['MODEL_NAME'] ?? 'conformance',
    kind: 'worker',
    mode,
    image: subject.kind === 'image' ? subject.image : LOCAL_IMAGE,
    command: subject.kind === 'image' ? subject.command : [],
    localCommand: subject.kind === 'command' ? programOf(subject.command) : null,
    pull: 'never',
    env,
    secrets: [],
    modelPath: null,
    gpus: { count: 0, share: 'exclusive', memoryMb: null, ids: null, names: null },
    limits: { memoryMb: null, cpus: null, processes: 4096, sharedMemoryMb: 1024, tmpMb: 1024 },
    output: { mb: 256, events: 5_000_000, artifacts: 10_000, artifactsMb: 10_240 },
    network: 'none',
    volumes: [],
    relax: { user: null, writableRoot: false, capabilities: [] },
    timeouts: {
      queueMs: null,
      startMs: 60_000,
      runMs: 3_600_000,
      silenceMs: null,
      ackMs: 30_000,
      stopGraceMs: 10_000,
      finishGraceMs: 10_000,
    },
    retry: { maxAttempts: 1, backoffMs: 0, on: [] },
    session,
  }
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
