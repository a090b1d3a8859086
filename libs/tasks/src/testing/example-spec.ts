import type { PresetId } from '../ids.ts'
import type { SessionOptions, WorkerSpec } from '../spec.ts'

/** A complete spec of a one-off worker that needs no GPU and is tried once; tests replace what they are about. */
export const EXAMPLE_SPEC: WorkerSpec = {
  presetId: 'test-script/inference' as PresetId,
  model: 'test-script',
  kind: 'inference',
  mode: 'ONE_OFF',
  image: 'script:test',
  command: [],
  localCommand: null,
  pull: 'never',
  env: {},
  secrets: [],
  modelPath: null,
  gpus: { count: 0, share: 'exclusive', memoryMb: null, ids: null, names: null },
  limits: { memoryMb: null, cpus: null, processes: 256, sharedMemoryMb: 64, tmpMb: 64 },
  output: { mb: 256, events: 5_000_000, artifacts: 10_000, artifactsMb: 10_240 },
  network: 'none',
  volumes: [],
  relax: { user: null, writableRoot: false, capabilities: [] },
  timeouts: {
    queueMs: null,
    startMs: 60_000,
    runMs: 60_000,
    silenceMs: null,
    ackMs: 30_000,
    stopGraceMs: 5_000,
    finishGraceMs: 5_000,
  },
  retry: { maxAttempts: 1, backoffMs: 0, on: [] },
  session: null,
}

/** Workers that serve everybody's tasks, one at a time, and stay for a minute after the last one. */
export const EXAMPLE_SESSION: SessionOptions = {
  maxConcurrency: 1,
  maxWorkers: null,
  idleMs: 60_000,
  maxTasks: null,
  maxAgeMs: null,
  minResidencyMs: 0,
  pinned: false,
  prewarm: 0,
  isolation: 'shared',
}
