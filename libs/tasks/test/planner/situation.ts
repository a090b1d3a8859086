import type { GpuId, PresetId, TaskId, WorkerId } from '../../src/ids.ts'
import {
  DEFAULT_RULES,
  type PlanInput,
  type PlannedGpu,
  type PlannedWorker,
  type QueuedTask,
  type WorkerFacts,
} from '../../src/planner/index.ts'
import type { GpuNeed, SessionOptions } from '../../src/spec.ts'

/** The moment at which situations are looked at. */
export const NOW = 1_800_000_000_000

export const gpuId = (index: number): GpuId => `GPU-${index}` as GpuId
export const taskId = (id: string): TaskId => id as TaskId
export const presetId = (id: string): PresetId => id as PresetId

export function gpu(index: number, more: Partial<PlannedGpu> = {}): PlannedGpu {
  return {
    id: gpuId(index),
    index,
    name: 'Test GPU',
    memoryTotalMb: 40_000,
    usedMb: null,
    unusable: null,
    ...more,
  }
}

export function need(more: Partial<GpuNeed> = {}): GpuNeed {
  return { count: 1, share: 'exclusive', memoryMb: null, ids: null, names: null, ...more }
}

/** A need of an amount of memory on one GPU. */
export function part(memoryMb: number | null, more: Partial<GpuNeed> = {}): GpuNeed {
  return need({ share: 'shared', memoryMb, ...more })
}

export function session(more: Partial<SessionOptions> = {}): SessionOptions {
  return {
    maxConcurrency: 1,
    maxWorkers: null,
    idleMs: null,
    maxTasks: null,
    maxAgeMs: null,
    minResidencyMs: 0,
    pinned: false,
    prewarm: 0,
    isolation: 'shared',
    ...more,
  }
}

export function task(id: string, more: Partial<QueuedTask> & { readonly preset?: string } = {}): QueuedTask {
  const { preset = 'one-off', ...rest } = more
  return {
    id: taskId(id),
    owner: 'ann',
    keyId: null,
    priority: 0,
    queuedAt: NOW,
    retryAt: null,
    presetId: presetId(preset),
    specHash: `hash of ${preset}`,
    gpus: need(),
    session: null,
    affinity: null,
    ...rest,
  }
}

/** One that works on as many tasks as `runningSince` says; idle where it says none and it is ready. */
export function worker(
  id: string,
  more: Partial<PlannedWorker> & { readonly preset?: string } = {},
): PlannedWorker {
  const { preset = 'one-off', ...rest } = more
  const runningSince =
    more.runningSince ?? (more.session === undefined || more.session === null ? [NOW - 60_000] : [])
  return {
    id: id as WorkerId,
    presetId: presetId(preset),
    specHash: `hash of ${preset}`,
    mode: more.session === undefined || more.session === null ? 'ONE_OFF' : 'SESSION',
    phase: 'ready',
    claim: { gpuIds: [gpuId(0)], memoryMb: null },
    usedMb: new Map(),
    owner: null,
    session: null,
    runningSince,
    runningOwners: runningSince.map(() => 'ann'),
    runningKeys: runningSince.map(() => null),
    retiring: null,
    startedAt: NOW - 100_000,
    readyAt: more.phase === 'starting' ? null : NOW - 90_000,
    idleSince: runningSince.length === 0 && more.phase !== 'starting' ? NOW - 50_000 : null,
    tasksServed: 0,
    affinities: new Map(),
    ...rest,
  }
}

export const NO_FACTS: WorkerFacts = {
  learnedMemoryMb: null,
  loadMs: null,
  runMs: null,
  handOverMs: null,
  tasksPerHour: 0,
}

/** Facts with certain times. */
export function facts(more: {
  readonly loadMs?: number
  readonly runMs?: number
  readonly handOverMs?: number
  readonly tasksPerHour?: number
  readonly learnedMemoryMb?: number
}): WorkerFacts {
  const spread = (ms: number | undefined): WorkerFacts['loadMs'] =>
    ms === undefined ? null : { low: ms / 2, middle: ms, high: ms * 1.5 }
  return {
    learnedMemoryMb: more.learnedMemoryMb ?? null,
    loadMs: spread(more.loadMs),
    runMs: spread(more.runMs),
    handOverMs: spread(more.handOverMs),
    tasksPerHour: more.tasksPerHour ?? 0,
  }
}

/** Two free GPUs and nothing to do, unless told otherwise. Presets are in force as the workers have them, unless told otherwise. */
export function situation(
  more: Partial<PlanInput> & { readonly facts?: Readonly<Record<string, WorkerFacts>> } = {},
): PlanInput {
  const { facts: given = {}, ...rest } = more
  return {
    now: NOW,
    queue: [],
    workers: [],
    gpus: [gpu(0), gpu(1)],
    wanted: [],
    keys: new Map(),
    inForce: new Map((more.workers ?? []).map((there) => [there.presetId, there.specHash])),
    factsOf: (hash) => given[hash.replace('hash of ', '')] ?? NO_FACTS,
    maxWorkers: 32,
    blocked: null,
    rules: DEFAULT_RULES,
    ...rest,
  }
}
