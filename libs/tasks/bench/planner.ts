// How long a plan takes for a long queue, beside merely sorting it, in the same process. Run it with: npm run bench -- planner
//
// Both are measured in turns and the best turn of each counts: a neighbour that takes the processor for a while slows single turns down, not
// the best ones.
import {
  DEFAULT_RULES,
  estimateStart,
  plan,
  type PlanInput,
  type PlannedGpu,
  type PlannedWorker,
  type QueuedTask,
} from '../src/planner/index.ts'
import type { GpuId, PresetId, TaskId, WorkerId } from '../src/ids.ts'
import type { SessionOptions } from '../src/spec.ts'

/** One line of the benchmark's table. */
export interface Row {
  readonly name: string
  readonly value: number
  readonly unit: string
  /** How many times as long as a sort with a comparator takes. */
  readonly ratio: number | null
  readonly note: string
  readonly goal: { readonly text: string; readonly met: boolean }
}

const NOW = 1_800_000_000_000
const TASKS = 10_000
const GPUS = 16
const TURNS = 31
const GOAL_MS = 10
const ESTIMATE_GOAL_MS = 20

/** Measures plans of 10,000 tasks on 16 GPUs, and an estimate among 1,000. */
export function benchPlanner(report: (row: Row) => void): void {
  for (const [name, input] of Object.entries(cases())) {
    const tasks = [...input.queue]
    const sorts: number[] = []
    const plans: number[] = []
    for (let turn = 0; turn < TURNS; turn += 1) {
      sorts.push(
        milliseconds(() =>
          [...tasks].sort(
            (a, b) => b.priority - a.priority || a.queuedAt - b.queuedAt || (a.id < b.id ? -1 : 1),
          ),
        ),
      )
      plans.push(milliseconds(() => plan(input)))
    }
    const { actions, waiting } = plan(input)
    const value = Math.min(...plans)
    const sort = Math.min(...sorts)
    report({
      name: `planner: ${TASKS.toLocaleString('en')} tasks, ${GPUS} GPUs, ${name}`,
      value,
      unit: 'ms',
      ratio: value / sort,
      note: `a mere sort takes ${sort.toFixed(2)} ms; ${actions.length} actions, ${waiting.size} wait; middle of ${TURNS}: ${middle(plans).toFixed(2)} ms, slowest, which is not yet compiled: ${Math.max(...plans).toFixed(2)} ms`,
      goal: { text: `at most ${GOAL_MS} ms`, met: value <= GOAL_MS },
    })
  }
  for (const name of ['mixed', 'equal priorities, all GPUs taken']) {
    const queued = cases(1_000)[name]
    const last = queued === undefined ? undefined : [...queued.queue].at(-1)?.id
    if (queued === undefined || last === undefined) throw new Error(`There is no case ${name}.`)
    const times = Array.from({ length: TURNS }, () => milliseconds(() => estimateStart(queued, last)))
    const value = Math.min(...times)
    report({
      name: `planner: estimate of the last of 1,000 tasks, ${name}`,
      value,
      unit: 'ms',
      ratio: null,
      note: `middle of ${TURNS}: ${middle(times).toFixed(2)} ms, slowest: ${Math.max(...times).toFixed(2)} ms`,
      goal: { text: `at most ${ESTIMATE_GOAL_MS} ms`, met: value <= ESTIMATE_GOAL_MS },
    })
  }
}

function cases(count = TASKS): Record<string, PlanInput> {
  const alike = (at: number): QueuedTask => queued(at, {})
  const random = randomFrom(7)
  const some = (below: number): number => Math.floor(random() * below)
  return {
    'equal priorities': input(count, alike, []),
    'equal priorities, all GPUs taken': input(count, alike, busy()),
    'random priorities and owners': input(
      count,
      (at) =>
        queued(at, { priority: some(10) - 5, owner: `owner ${some(200)}`, queuedAt: NOW - some(600_000) }),
      busy().slice(0, 8),
    ),
    mixed: input(
      count,
      (at) => {
        const preset = some(24)
        return queued(at, {
          owner: `owner ${some(50)}`,
          priority: some(3),
          queuedAt: NOW - (count - at) * 40,
          presetId: `preset-${preset}` as PresetId,
          specHash: `hash-${preset}`,
          session: preset < 12 ? SESSION : null,
          gpus: {
            count: preset % 7 === 6 ? 2 : 1,
            share: preset % 3 === 0 ? 'exclusive' : 'shared',
            memoryMb: preset % 3 === 0 ? null : 6_000 + preset * 700,
            ids: null,
            names: null,
          },
          affinity: preset < 12 ? `user ${some(100)}` : null,
        })
      },
      warm(),
    ),
  }
}

const SESSION: SessionOptions = {
  maxConcurrency: 2,
  maxWorkers: 4,
  idleMs: 600_000,
  maxTasks: null,
  maxAgeMs: null,
  minResidencyMs: 10_000,
  pinned: false,
  prewarm: 0,
  isolation: 'shared',
}

const gpuId = (index: number): GpuId => `GPU-${index}` as GpuId

function input(
  count: number,
  taskAt: (at: number) => QueuedTask,
  workers: readonly PlannedWorker[],
): PlanInput {
  return {
    now: NOW,
    queue: Array.from({ length: count }, (_, at) => taskAt(at)),
    workers,
    gpus: Array.from({ length: GPUS }, (_, index): PlannedGpu => ({
      id: gpuId(index),
      index,
      name: 'Bench GPU',
      memoryTotalMb: 40_960,
      usedMb: 1_000,
      unusable: null,
    })),
    wanted: [],
    inForce: new Map(workers.map(({ presetId, specHash }) => [presetId, specHash])),
    factsOf: () => ({
      learnedMemoryMb: null,
      loadMs: { low: 4_000, middle: 8_000, high: 12_000 },
      runMs: { low: 1_000, middle: 2_000, high: 6_000 },
      tasksPerHour: 30,
    }),
    maxWorkers: 64,
    blocked: null,
    rules: DEFAULT_RULES,
  }
}

function queued(at: number, more: Partial<QueuedTask>): QueuedTask {
  return {
    id: `019a${String(at).padStart(8, '0')}-7000-8000-000000000000` as TaskId,
    owner: 'owner',
    priority: 0,
    queuedAt: NOW - 10_000 + at / 2,
    retryAt: null,
    presetId: 'preset' as PresetId,
    specHash: 'hash',
    gpus: { count: 1, share: 'exclusive', memoryMb: null, ids: null, names: null },
    session: null,
    affinity: null,
    ...more,
  }
}

function occupant(index: number, more: Partial<PlannedWorker>): PlannedWorker {
  return {
    id: `worker-${index}` as WorkerId,
    presetId: 'preset' as PresetId,
    specHash: 'hash',
    mode: 'ONE_OFF',
    phase: 'ready',
    claim: { gpuIds: [gpuId(index % GPUS)], memoryMb: null },
    usedMb: new Map(),
    owner: null,
    session: null,
    runningSince: [NOW - 1_000 * index],
    runningOwners: [`owner ${index}`],
    retiring: null,
    startedAt: NOW - 60_000,
    readyAt: NOW - 50_000,
    idleSince: null,
    tasksServed: 0,
    affinities: new Map(),
    ...more,
  }
}

function busy(): PlannedWorker[] {
  return Array.from({ length: GPUS }, (_, index) => occupant(index, {}))
}

/** Session workers of twelve presets, a third of them idle. */
function warm(): PlannedWorker[] {
  return Array.from({ length: 24 }, (_, index) => {
    const preset = index % 12
    const isIdle = index % 3 === 0
    return occupant(index, {
      presetId: `preset-${preset}` as PresetId,
      specHash: `hash-${preset}`,
      mode: 'SESSION',
      session: SESSION,
      claim: { gpuIds: [gpuId(index % GPUS)], memoryMb: 12_000 },
      ...(isIdle ? { runningSince: [], runningOwners: [], idleSince: NOW - 5_000 } : {}),
      affinities: new Map([[`user ${index}`, NOW - 9_000]]),
    })
  })
}

function milliseconds(work: () => unknown): number {
  const start = performance.now()
  work()
  return performance.now() - start
}

function middle(samples: readonly number[]): number {
  return samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)] ?? Number.NaN
}

function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixedUp = Math.imul(state ^ (state >>> 15), state | 1)
    mixedUp = (mixedUp + Math.imul(mixedUp ^ (mixedUp >>> 7), mixedUp | 61)) ^ mixedUp
    return ((mixedUp ^ (mixedUp >>> 14)) >>> 0) / 2 ** 32
  }
}
