import { EventEmitter, on } from 'node:events'
import { readFileSync } from 'node:fs'
import { makeExecutableSchema } from '@graphql-tools/schema'
import { graphql, parse, subscribe, type ExecutionResult } from 'graphql'
import {
  DEFAULT_KEY_LIMITS,
  LOCAL,
  type Actor,
  type Dispatcher,
  type GpuId,
  type GpuInventory,
  type GpuSimulation,
  type LiveGpu,
  type LiveWorker,
  type NewAuditEntry,
  type Preset,
  type PresetCatalog,
  type PresetId,
  type SessionOptions,
  type Task,
  type TaskId,
  type TaskStore,
  type WorkerId,
  type WorkerName,
  type WorkerSpec,
  type Principal,
} from '@gpu-service/tasks'
import { createMeters, UNMETERED } from '../../src/access/meters.ts'
import type { KeyRing } from '../../src/access/key-ring.ts'
import type { Context } from '../../src/graphql/context.ts'
import { resolvers } from '../../src/graphql/resolvers.ts'
import { systemClock } from '../../src/system-clock.ts'

const typeDefs = readFileSync(new URL('../../src/graphql/schema.graphql', import.meta.url), 'utf8')
const schema = makeExecutableSchema({ typeDefs, resolvers })

export interface Stage {
  /** The data, or what went wrong as `CODE: message`. */
  readonly ask: (query: string, variables?: Record<string, unknown>) => Promise<unknown>
  readonly subscribe: (query: string) => Promise<AsyncIterableIterator<ExecutionResult>>
  /** What was written to the audit log. */
  readonly audit: readonly NewAuditEntry[]
}

/** Ids that change when the test says so. */
export interface Watched<K> {
  watch(): AsyncIterableIterator<readonly K[]>
}

/** What the domain answers in a test; whatever is not given must not be asked for. */
export interface Answers {
  readonly dispatcher?: Partial<
    Omit<Dispatcher, 'gpuChanges' | 'workerChanges'> & {
      readonly gpuChanges: Watched<GpuId>
      readonly workerChanges: Watched<WorkerId>
    }
  >
  readonly store?: Partial<TaskStore>
  readonly presets?: Partial<PresetCatalog>
  readonly gpus?: Partial<GpuInventory>
  readonly keys?: Partial<KeyRing>
  readonly principal?: Partial<Principal>
}

/** The schema with its resolvers before a domain that answers as the test says. */
export function createStage(answers: Answers): Stage {
  const audit: NewAuditEntry[] = []
  const recordAudit = (entries: readonly NewAuditEntry[]): Promise<void> => {
    audit.push(...entries)
    return Promise.resolve()
  }
  const contextValue: Context = {
    dispatcher: only<Dispatcher>('dispatcher', answers.dispatcher),
    store: only<TaskStore>('store', { recordAudit, ...answers.store }),
    presets: only<PresetCatalog>('presets', answers.presets),
    gpus: only<GpuInventory>('gpus', answers.gpus),
    service: { version: '1.2.3', instanceId: 'i', startedAt: 0, runner: 'process', signingKey: SIGNING_KEY },
    keys: only<KeyRing>('keys', answers.keys),
    principal: { ...LOCAL, owner: 'ada', ...answers.principal },
    meter: UNMETERED,
    meters: createMeters(() => DEFAULT_KEY_LIMITS, systemClock),
    actor: ADA,
    signal: new AbortController().signal,
  }
  return {
    audit,
    async ask(query, variables) {
      const { data, errors } = await graphql({
        schema,
        source: query,
        contextValue,
        variableValues: variables,
      })
      if (errors === undefined) return data
      return errors.map(({ extensions, message }) => `${String(extensions['code'])}: ${message}`)
    },
    async subscribe(query) {
      const results = await subscribe({ schema, document: parse(query), contextValue })
      if (Symbol.asyncIterator in results) return results as AsyncGenerator<ExecutionResult>
      throw new Error('The subscription was refused.', { cause: results.errors })
    },
  }
}

export function createChanges<K>(): Watched<K> & { changed(id: K): void } {
  const emitter = new EventEmitter()
  return {
    changed: (id) => emitter.emit('changed', id),
    watch: () => on(emitter, 'changed') as AsyncIterableIterator<readonly K[]>,
  }
}

function only<T extends object>(name: string, given: Partial<Record<keyof T, unknown>> | undefined): T {
  return new Proxy(given ?? {}, {
    get(known, key) {
      if (key in known) return Reflect.get(known, key) as unknown
      throw new Error(`The test does not say what ${name}.${String(key)} is.`)
    },
  }) as T
}

export const ADA: Actor = { kind: 'local', id: null, name: 'ada', address: '127.0.0.1' }
const SIGNING_KEY = { publicKey: 'a key', fingerprint: 'sha256:1' }

export const TASK_ID = '0199f000-0000-7000-8000-000000000001' as TaskId
export const WORKER_ID = '0199f000-0000-7000-8000-000000000002' as WorkerId
export const GPU_ID = 'GPU-1' as GpuId
export const PRESET_ID = 'test/chat' as PresetId

const DAY_MS = 86_400_000

export const SESSION: SessionOptions = {
  maxConcurrency: 4,
  maxWorkers: null,
  idleMs: 30 * DAY_MS,
  maxTasks: null,
  maxAgeMs: null,
  minResidencyMs: 10_000,
  pinned: true,
  prewarm: 1,
  isolation: 'owner',
}

export const SPEC: WorkerSpec = {
  presetId: PRESET_ID,
  model: 'test',
  kind: 'chat',
  mode: 'SESSION',
  image: 'chat:latest',
  command: [],
  localCommand: null,
  pull: 'never',
  env: {},
  secrets: [],
  modelPath: null,
  gpus: { count: 1, share: 'shared', memoryMb: 8_000, ids: null, names: ['H200'] },
  limits: { memoryMb: null, cpus: null, processes: 4_096, sharedMemoryMb: 1_024, tmpMb: 256 },
  output: { mb: 256, events: 5_000_000, artifacts: 10_000, artifactsMb: 10_240 },
  network: 'none',
  volumes: [],
  relax: { user: null, writableRoot: false, capabilities: [] },
  timeouts: {
    queueMs: null,
    startMs: 1_800_000,
    runMs: 30 * DAY_MS,
    silenceMs: null,
    ackMs: 30_000,
    stopGraceMs: 10_000,
    finishGraceMs: 10_000,
  },
  retry: { maxAttempts: 3, backoffMs: 2_000, on: ['session_died', 'gpu_lost'] },
  session: SESSION,
}

export function preset(spec: Partial<WorkerSpec> = {}): Preset {
  return { id: PRESET_ID, description: null, inputSchema: null, spec: { ...SPEC, ...spec } }
}

export function task(changes: Partial<Task> = {}): Task {
  return {
    id: TASK_ID,
    owner: 'ada',
    keyId: null,
    presetId: PRESET_ID,
    privacy: 'full',
    scrubbedAt: null,
    contentHashes: null,
    spec: SPEC,
    input: null,
    labels: {},
    priority: 0,
    idempotencyKey: null,
    affinity: null,
    asked: { timeoutMs: null, gpuIds: null },
    files: [],
    retryOf: null,
    status: 'QUEUED',
    attempt: 0,
    lastSeq: 1,
    createdAt: 0,
    queuedAt: 0,
    retryAt: null,
    startedAt: null,
    runningAt: null,
    firstTextAt: null,
    finishedAt: null,
    cancelRequestedAt: null,
    cancelReason: null,
    stopReason: null,
    release: { stoppedAt: null, gpuFreeAt: null, killed: false },
    finish: null,
    gpuIds: [],
    workerId: null,
    error: null,
    exitCode: null,
    ...changes,
  }
}

export function worker(changes: Partial<LiveWorker> = {}): LiveWorker {
  return {
    id: WORKER_ID,
    name: 'gpu-abcdefgh-1' as WorkerName,
    presetId: PRESET_ID,
    mode: 'SESSION',
    status: 'READY',
    spec: SPEC,
    specHash: '0123456789abcdef',
    owner: 'ada',
    containerId: 'c1',
    imageDigest: 'sha256:1',
    claim: { gpuIds: [GPU_ID], memoryMb: 8_000 },
    taskIds: [],
    startedAt: 1_000,
    readyAt: 3_500,
    exitedAt: null,
    tasksServed: 2,
    peakMemoryMb: 7_000,
    cursor: { stdout: '', stderr: '' },
    eventSeq: null,
    exit: null,
    endReason: null,
    loadMs: 2_500,
    loadProgress: 1,
    idleSince: 4_000,
    endsAt: null,
    memoryUsedMb: 6_500,
    explanation: 'It is warm and idle.',
    ...changes,
  }
}

export function gpu(changes: Partial<LiveGpu> = {}): LiveGpu {
  return {
    id: GPU_ID,
    index: 0,
    name: 'NVIDIA H200',
    memoryTotalMb: 24_000,
    simulated: true,
    parentId: null,
    telemetry: null,
    stale: false,
    health: 'OK',
    problem: null,
    status: 'AVAILABLE',
    drained: false,
    memoryClaimedMb: 0,
    foreignMemoryMb: null,
    memoryFreeMb: 24_000,
    workerIds: [],
    explanation: 'It is free.',
    ...changes,
  }
}

/** Simulated GPUs that keep what they were told. */
export function simulation(ids: readonly GpuId[]): GpuSimulation & { readonly told: unknown[] } {
  const told: unknown[] = []
  return {
    told,
    use: () => undefined,
    set(id, change) {
      if (!ids.includes(id)) return false
      told.push(change)
      return true
    },
  }
}
