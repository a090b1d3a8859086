// How long a plan takes for a long queue, beside merely sorting it, in the same process, and for short ones, because there is a plan after
// every event. Run it with: npm run bench -- planner
//
// A plan is made as the dispatcher has it made: of the same tasks as before, and of workers that are described anew. What counts is the middle
// of all turns.
import {
  createOutlook,
  DEFAULT_RULES,
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
  /** How many times as long as a sort with a comparator it takes. */
  readonly ratio: number | null
  readonly note: string
  readonly goal: { readonly text: string; readonly met: boolean }
}

const NOW = 1_800_000_000_000
const TASKS = 10_000
const GPUS = 16
const TURNS = 101
/** Of what is over in no time. */
const MANY_TURNS = 2_001
const GOAL_MS = 10

/** What is planned again and again. */
interface Case {
  readonly tasks: readonly QueuedTask[]
  readonly workers: readonly PlannedWorker[]
}

/** Measures plans of 10,000 tasks on 16 GPUs, plans of few tasks, and the estimates of all tasks of a queue. */
export function benchPlanner(report: (row: Row) => void): void {
  for (const [name, planned] of Object.entries(cases(TASKS))) {
    reportPlans(report, name, planned, { turns: TURNS, goalMs: GOAL_MS })
  }
  const few = { turns: MANY_TURNS, goalMs: 0.05 }
  reportPlans(report, 'all GPUs taken', { tasks: [], workers: busy() }, few)
  reportPlans(report, '4 session workers', { tasks: [], workers: warm().slice(0, 4) }, few)
  reportPlans(report, 'all GPUs taken', { tasks: alike(10), workers: busy() }, few)
  reportPlans(report, '4 session workers', { tasks: mixed(10), workers: warm().slice(0, 4) }, few)
  const some = { turns: MANY_TURNS, goalMs: 0.5 }
  reportPlans(report, 'all GPUs taken', { tasks: alike(1_000), workers: busy() }, some)
  reportPlans(report, '4 session workers', { tasks: ofSession(1_000), workers: ofOnePreset(4) }, some)
  reportEstimates(report, 'mixed', { tasks: mixed(1_000), workers: warm() }, 20)
  reportEstimates(report, 'equal priorities, all GPUs taken', { tasks: alike(1_000), workers: busy() }, 20)
  reportEstimates(report, 'mixed', { tasks: mixed(TASKS), workers: warm() }, 50)
}

function reportPlans(
  report: (row: Row) => void,
  name: string,
  planned: Case,
  { turns, goalMs }: { readonly turns: number; readonly goalMs: number },
): void {
  const { tasks } = planned
  const sorts: number[] = []
  const plans: number[] = []
  for (let turn = 0; turn < turns; turn += 1) {
    sorts.push(
      milliseconds(() =>
        [...tasks].sort(
          (a, b) => b.priority - a.priority || a.queuedAt - b.queuedAt || (a.id < b.id ? -1 : 1),
        ),
      ),
    )
    const fresh = input(planned)
    plans.push(milliseconds(() => plan(fresh)))
  }
  const { actions, waiting } = plan(input(planned))
  const value = middle(plans)
  const sort = middle(sorts)
  const counted = tasks.length === 1 ? '1 task' : `${tasks.length.toLocaleString('en')} tasks`
  report({
    name: `planner: ${counted}, ${GPUS} GPUs, ${name}`,
    value,
    unit: 'ms',
    ratio: tasks.length === 0 ? null : value / sort,
    note: `middle of ${turns}; best: ${Math.min(...plans).toFixed(3)} ms, slowest, which is not yet compiled: ${Math.max(...plans).toFixed(2)} ms; a mere sort takes ${sort.toFixed(3)} ms; ${actions.length} actions, ${waiting.size} wait`,
    goal: { text: `at most ${goalMs} ms`, met: value <= goalMs },
  })
}

function reportEstimates(report: (row: Row) => void, name: string, planned: Case, goalMs: number): void {
  const times: number[] = []
  for (let turn = 0; turn < TURNS; turn += 1) {
    const fresh = input(planned)
    times.push(
      milliseconds(() => {
        const outlook = createOutlook(fresh)
        for (const { id } of fresh.queue) outlook.estimate(id)
      }),
    )
  }
  const value = middle(times)
  report({
    name: `planner: estimates of ${planned.tasks.length.toLocaleString('en')} tasks, ${name}`,
    value,
    unit: 'ms',
    ratio: null,
    note: `middle of ${TURNS}; best: ${Math.min(...times).toFixed(2)} ms, slowest: ${Math.max(...times).toFixed(2)} ms`,
    goal: { text: `at most ${goalMs} ms`, met: value <= goalMs },
  })
}

function cases(count: number): Record<string, Case> {
  const random = randomFrom(7)
  const some = (below: number): number => Math.floor(random() * below)
  return {
    'equal priorities': { tasks: alike(count), workers: [] },
    'equal priorities, all GPUs taken': { tasks: alike(count), workers: busy() },
    'random priorities and owners': {
      tasks: tasks(count, () => ({
        priority: some(10) - 5,
        owner: `owner ${some(200)}`,
        queuedAt: NOW - some(600_000),
      })),
      workers: busy().slice(0, 8),
    },
    mixed: { tasks: mixed(count), workers: warm() },
  }
}

function alike(count: number): readonly QueuedTask[] {
  return tasks(count, () => ({}))
}

/** Of 24 presets, half of them with sessions. */
function mixed(count: number): readonly QueuedTask[] {
  const random = randomFrom(7)
  const some = (below: number): number => Math.floor(random() * below)
  return tasks(count, (at) => {
    const preset = some(24)
    return {
      owner: `owner ${some(50)}`,
      priority: some(3),
      queuedAt: NOW - (count - at) * 40,
      presetId: `preset-${preset}` as PresetId,
      specHash: hashOf(preset),
      session: preset < 12 ? SESSION : null,
      gpus: {
        count: preset % 7 === 6 ? 2 : 1,
        share: preset % 3 === 0 ? 'exclusive' : 'shared',
        memoryMb: preset % 3 === 0 ? null : 6_000 + preset * 700,
        ids: null,
        names: null,
      },
      affinity: preset < 12 ? `user ${some(100)}` : null,
    }
  })
}

/** Of one preset whose workers stay warm, and of many owners. */
function ofSession(count: number): readonly QueuedTask[] {
  return tasks(count, (at) => ({
    owner: `owner ${at % 20}`,
    queuedAt: NOW - (count - at) * 40,
    presetId: 'preset-0' as PresetId,
    specHash: hashOf(0),
    session: SESSION,
  }))
}

function tasks(count: number, moreOf: (at: number) => Partial<QueuedTask>): readonly QueuedTask[] {
  return Array.from({ length: count }, (_, at) => queued(at, moreOf(at)))
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

/** As long as real ones, and like those of two tasks never one object. */
const hashOf = (preset: number): string => Buffer.alloc(32, preset).toString('hex')
const gpuId = (index: number): GpuId => `GPU-${index}` as GpuId

function input({ tasks: queue, workers }: Case): PlanInput {
  return {
    now: NOW,
    queue: [...queue],
    workers: workers.map((worker) => ({ ...worker, runningSince: [...worker.runningSince] })),
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
      handOverMs: { low: 20, middle: 30, high: 50 },
      tasksPerHour: 30,
    }),
    keys: new Map(),
    maxWorkers: 64,
    blocked: null,
    rules: DEFAULT_RULES,
  }
}

function queued(at: number, more: Partial<QueuedTask>): QueuedTask {
  return {
    id: `019a${String(at).padStart(8, '0')}-7000-8000-000000000000` as TaskId,
    owner: 'owner',
    keyId: null,
    priority: 0,
    queuedAt: NOW - 10_000 + Math.floor(at / 2),
    retryAt: null,
    presetId: 'preset' as PresetId,
    specHash: hashOf(99),
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
    specHash: hashOf(99),
    mode: 'ONE_OFF',
    phase: 'ready',
    claim: { gpuIds: [gpuId(index % GPUS)], memoryMb: null },
    usedMb: new Map(),
    owner: null,
    session: null,
    runningSince: [NOW - 1_000 * index],
    runningOwners: [`owner ${index}`],
    runningKeys: [null],
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
      specHash: hashOf(preset),
      mode: 'SESSION',
      session: SESSION,
      claim: { gpuIds: [gpuId(index % GPUS)], memoryMb: 12_000 },
      ...(isIdle ? { runningSince: [], runningOwners: [], idleSince: NOW - 5_000 } : {}),
      affinities: new Map([[`user ${index}`, NOW - 9_000]]),
    })
  })
}

/** Busy session workers of the first preset. */
function ofOnePreset(count: number): PlannedWorker[] {
  return Array.from({ length: count }, (_, index) =>
    occupant(index, {
      presetId: 'preset-0' as PresetId,
      specHash: hashOf(0),
      mode: 'SESSION',
      session: SESSION,
      runningSince: [NOW - 3_000, NOW - 2_000],
      runningOwners: ['owner 1', 'owner 2'],
    }),
  )
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
