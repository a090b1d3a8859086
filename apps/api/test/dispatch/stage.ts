import { openGpuInventory } from '@gpu-service/gpus'
import {
  DEFAULT_KEY_LIMITS,
  openDispatcher,
  silentLogger,
  type ArtifactFiles,
  type Clock,
  type Dispatcher,
  type DispatcherOptions,
  type GpuId,
  type GpuInventory,
  type GpuSimulation,
  type SecretSources,
  type LiveGpu,
  type LiveWorker,
  type PresetId,
  type RetentionLimits,
  type SessionOptions,
  type SubmitRequest,
  type SubmitResult,
  type Task,
  type TaskEvent,
  type TaskEventBody,
  type TaskId,
  type TaskStatus,
  type TaskStore,
  type WorkerSpec,
} from '@gpu-service/tasks'
import { EXAMPLE_SESSION, EXAMPLE_SPEC } from '@gpu-service/tasks/testing'
import { v7 as uuidv7 } from 'uuid'
import { expect, vi } from 'vitest'
import { discard, freshStore } from './fresh-store.ts'
import { PresetShelf } from './preset-shelf.ts'
import { ScriptedClock } from './scripted-clock.ts'
import { ScriptedRunner } from './scripted-runner.ts'
import type { ScriptedWorker } from './scripted-worker.ts'

type Limits = Pick<
  DispatcherOptions,
  'maxWorkers' | 'maxQueued' | 'maxPassMs' | 'housekeepingMs' | 'retention' | 'shutdown'
>

export interface StageOptions extends Partial<Limits> {
  readonly presets: readonly WorkerSpec[]
  /** One of 8,192 MB by default. */
  readonly gpus?: { readonly count: number; readonly memoryMb: number }
  /** A scripted one by default. */
  readonly clock?: Clock
  /** Some that take everything and keep nothing by default. */
  readonly artifactFiles?: ArtifactFiles
}

/** What a preset says beyond the example's; its parts are merged. */
export interface SpecChange {
  readonly gpus?: Partial<WorkerSpec['gpus']>
  readonly timeouts?: Partial<WorkerSpec['timeouts']>
  readonly retry?: Partial<WorkerSpec['retry']>
  readonly session?: Partial<SessionOptions>
}

/** A preset of one-off workers, each of which has a GPU as a whole. */
export function oneOff(kind: string, change: SpecChange = {}): WorkerSpec {
  return spec(kind, change, null)
}

/** A preset of sessions; a task that none has taken, or that one leaves behind as it dies, is tried once more. */
export function session(kind: string, change: SpecChange = {}): WorkerSpec {
  const retry = { maxAttempts: 2, on: ['unacknowledged', 'session_died'] } as const
  return spec(kind, { retry, ...change }, { ...EXAMPLE_SESSION, ...change.session })
}

function spec(
  kind: string,
  { gpus, timeouts, retry }: SpecChange,
  ofSessions: SessionOptions | null,
): WorkerSpec {
  return Object.freeze({
    ...EXAMPLE_SPEC,
    kind,
    presetId: `test/${kind}` as PresetId,
    mode: ofSessions === null ? 'ONE_OFF' : 'SESSION',
    gpus: { ...EXAMPLE_SPEC.gpus, count: 1, ...gpus },
    timeouts: { ...EXAMPLE_SPEC.timeouts, ...timeouts },
    retry: { ...EXAMPLE_SPEC.retry, ...retry },
    session: ofSessions,
  })
}

/** A few turns of the event loop: what is due without waiting for anything happens in them. */
export async function turns(count = 10): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate)
}

export const NO_GPU = { count: 0 } as const

/** Waits until it holds. */
export function eventually<T>(holds: () => T | Promise<T>): Promise<T> {
  return vi.waitFor(holds, { timeout: 4_000, interval: 2 })
}

type Hook = () => Promise<void> | void
type StoreMethod = Exclude<keyof TaskStore, 'kind' | 'installation' | typeof Symbol.asyncDispose>

/** The dispatcher between a real store, simulated GPUs and a runner that does what the test says. */
export class Stage implements AsyncDisposable {
  readonly runner: ScriptedRunner
  readonly presets = new PresetShelf()
  readonly store: TaskStore
  readonly gpus: GpuInventory
  dispatcher!: Dispatcher
  readonly #clock: Clock
  readonly #limits: Limits
  readonly #artifactFiles: ArtifactFiles
  readonly #before = new Map<string, Hook>()
  readonly #after = new Map<string, Hook>()

  private constructor(options: StageOptions, store: TaskStore, gpus: GpuInventory) {
    const { presets, clock = new ScriptedClock() } = options
    const { maxWorkers = 20, maxQueued = 1_000, maxPassMs = 30_000, shutdown = 'detach' } = options
    const { housekeepingMs = 30_000, retention = KEEP_ALL, artifactFiles = ARTIFACT_FILES } = options
    this.#limits = { maxWorkers, maxQueued, maxPassMs, housekeepingMs, retention, shutdown }
    this.#artifactFiles = artifactFiles
    this.#clock = clock
    this.store = store
    this.gpus = gpus
    this.runner = new ScriptedRunner(clock)
    for (const spec of presets) this.presets.put(spec)
  }

  static async open(options: StageOptions): Promise<Stage> {
    const store = await freshStore()
    const gpus = await openGpuInventory({
      source: { simulated: options.gpus ?? { count: 1, memoryMb: 8_192 } },
      logger: silentLogger,
      sampleIntervalMs: 100,
    })
    const stage = new Stage(options, store, gpus)
    await stage.up()
    return stage
  }

  /** Opens a dispatcher on what is there. */
  async up(more: Partial<DispatcherOptions> = {}): Promise<void> {
    this.dispatcher = await openDispatcher({
      store: this.#hooked(),
      runner: this.runner,
      gpus: this.gpus,
      presets: this.presets,
      artifactFiles: this.#artifactFiles,
      secrets: NO_SECRETS,
      room: { full: null, onChange: () => () => undefined },
      clock: this.#clock,
      logger: silentLogger,
      newId: uuidv7,
      limitsOf: () => DEFAULT_KEY_LIMITS,
      scrubAfterMs: 60_000,
      ...this.#limits,
      ...more,
    })
  }

  /** As a stop and a start of the service: the workers go on. */
  async restart(): Promise<void> {
    await this.dispatcher[Symbol.asyncDispose]()
    await this.up()
  }

  /** Also sees to it that the dispatcher leaves nothing running behind. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispatcher[Symbol.asyncDispose]()
    const { openOutputs, openInputs } = this.runner
    const timers = this.#clock instanceof ScriptedClock ? this.#clock.pending : 0
    await this.gpus[Symbol.asyncDispose]()
    discard(this.store)
    expect({ openOutputs, openInputs, timers, listeners: this.presets.listeners }).toEqual({
      ...{ openOutputs: 0, openInputs: 0, timers: 0, listeners: 0 },
    })
  }

  get clock(): ScriptedClock {
    if (!(this.#clock instanceof ScriptedClock)) throw new Error('the clock is not scripted')
    return this.#clock
  }

  get simulation(): GpuSimulation {
    if (this.gpus.simulation === null) throw new Error('the GPUs are not simulated')
    return this.gpus.simulation
  }

  /** Does something right before each call of that method of the store, which then goes on; what it throws the method throws. */
  beforeStore(method: StoreMethod, action: Hook): void {
    this.#before.set(method, action)
  }

  /** Does something when that method of the store has done its work, before the next call's answer is given; then no more. */
  onceStored(method: StoreMethod, action: Hook): void {
    this.#after.set(method, () => {
      this.#after.delete(method)
      return action()
    })
  }

  /** The first so many calls of that method of the store fail; gives how many have. */
  storeFails(method: StoreMethod, times: number): () => number {
    let failed = 0
    this.beforeStore(method, () => {
      if (failed === times) return
      failed++
      throw new Error('the database is locked')
    })
    return () => failed
  }

  // ------------------------------------------------------------------------------------------------------------------- tasks

  request(kind: string, more: Partial<SubmitRequest> = {}): SubmitRequest {
    return {
      ...{
        owner: 'ada',
        keyId: null,
        privacy: 'full',
        presetId: `test/${kind}`,
        input: { prompt: 'Hello' },
        priority: 0,
        labels: {},
      },
      ...{ idempotencyKey: null, affinity: null, timeoutMs: null, gpuIds: null, files: [] },
      ...more,
    }
  }

  /** Earlier tasks that can start have been given their workers then: one that meets others of its kind in the queue would wait for time to pass. */
  async submit(kind: string, more: Partial<SubmitRequest> = {}): Promise<TaskId> {
    await turns()
    return onlyTask(await this.dispatcher.submit([this.request(kind, more)])).id
  }

  async task(id: TaskId): Promise<Task> {
    const task = await this.store.task(id)
    if (task === null) throw new Error(`there is no task ${id}`)
    return task
  }

  /** The task, once it has that status. */
  reached(id: TaskId, status: TaskStatus): Promise<Task> {
    return eventually(async () => {
      const task = await this.task(id)
      expect(task.status).toBe(status)
      return task
    })
  }

  events(id: TaskId): Promise<readonly TaskEvent[]> {
    return this.store.events(id, 0, 10_000)
  }

  /** Of all its events of one type, what they say. */
  async said<T extends TaskEventBody['type']>(
    id: TaskId,
    type: T,
  ): Promise<readonly Extract<TaskEventBody, { type: T }>[]> {
    const isOfType = (body: TaskEventBody): body is Extract<TaskEventBody, { type: T }> => body.type === type
    return (await this.events(id)).map(({ body }) => body).filter(isOfType)
  }

  /** The statuses that it went through. */
  async statuses(id: TaskId): Promise<readonly TaskStatus[]> {
    return (await this.said(id, 'status')).map(({ taskStatus }) => taskStatus)
  }

  /** Its output text. */
  async text(id: TaskId): Promise<string | null> {
    return (await this.store.output(id)).text
  }

  // ----------------------------------------------------------------------------------------------------------------- workers

  /** The worker that was made as the `n`th, once it was. */
  worker(n = 1): Promise<ScriptedWorker> {
    return eventually(() => {
      const worker = this.runner.workers[n - 1]
      if (worker === undefined) throw new Error(`worker ${n} has not been started`)
      return worker
    })
  }

  /** What the worker was handed as its `n`th task, once it was. */
  handed(worker: ScriptedWorker, n = 1): Promise<ScriptedWorker['runs'][number]> {
    return eventually(() => {
      const run = worker.runs[n - 1]
      if (run === undefined) throw new Error(`task ${n} has not been handed over`)
      return run
    })
  }

  async startSession(kind: string, owner = 'ada'): Promise<LiveWorker> {
    const started = await this.dispatcher.startSession(`test/${kind}`, owner)
    if (started.status !== 'started') throw new Error(JSON.stringify(started))
    return started.worker
  }

  /** Starts a session and waits until it can take tasks. */
  async warm(kind: string): Promise<ScriptedWorker> {
    const { id, name } = await this.startSession(kind)
    await eventually(() => {
      expect(this.live(id)?.idleSince ?? null).not.toBeNull()
    })
    const worker = this.runner.find(name)
    if (worker === undefined) throw new Error('it is not there')
    return worker
  }

  /** As the dispatcher tells of it; `undefined`: it has gone. */
  live(id: string): LiveWorker | undefined {
    return this.dispatcher.workers().find((worker) => worker.id === id)
  }

  /** What it said outside of tasks, and what became of it. */
  async workerLog({ order }: ScriptedWorker): Promise<readonly TaskEventBody[]> {
    return (await this.store.workerLog(order.workerId, 0, 1_000)).map(({ body }) => body)
  }

  /** Waits until no worker is there any more and the GPUs are free. */
  async allGone(): Promise<void> {
    await eventually(async () => {
      expect(this.dispatcher.workers()).toEqual([])
      expect(this.runner.running).toEqual([])
      expect(await this.store.liveWorkers()).toEqual([])
      for (const gpu of this.dispatcher.gpus())
        expect(gpu).toMatchObject({ memoryClaimedMb: 0, workerIds: [] })
    })
  }

  /** The one task that has not ended, also before its submitter has heard of it. */
  async onlyTask(): Promise<TaskId> {
    const [task] = await this.store.activeTasks()
    if (task === undefined) throw new Error('there is no task')
    return task.id
  }

  /** Lets the time pass in which what a silent worker may have said after all would be read. */
  async listened(): Promise<void> {
    await turns()
    this.clock.advance(3_000)
  }

  /** Waits until what is under way has been planned and carried out: whatever was to be started has been asked for then. */
  async planned(): Promise<void> {
    const [preset] = this.presets.presets()
    await turns()
    await this.dispatcher.dryRun(this.request(preset?.spec.kind ?? ''))
    await turns()
  }

  // -------------------------------------------------------------------------------------------------------------------- gpus

  gpu(index = 0): LiveGpu {
    const gpu = this.dispatcher.gpus()[index]
    if (gpu === undefined) throw new Error(`there is no GPU ${index}`)
    return gpu
  }

  gpuId(index = 0): GpuId {
    return this.gpu(index).id
  }

  #hooked(): TaskStore {
    return new Proxy(this.store, {
      get: (store, name): unknown => {
        const member: unknown = Reflect.get(store, name)
        if (typeof member !== 'function' || typeof name !== 'string') return member
        return async (...args: unknown[]): Promise<unknown> => {
          await this.#before.get(name)?.()
          const answer: unknown = await Reflect.apply(member, store, args)
          await this.#after.get(name)?.()
          return answer
        }
      },
    })
  }
}

/** The one task of a submission that was taken. */
export function onlyTask(result: SubmitResult | null): Task {
  if (result?.status !== 'submitted') throw new Error(JSON.stringify(result))
  const [submitted] = result.tasks
  if (submitted === undefined) throw new Error('nothing was submitted')
  return submitted.task
}

const KEEP_ALL: RetentionLimits = {
  ...{ maxAgeMs: null, maxArtifactBytes: null, maxDatabaseBytes: null, maxAuditAgeMs: null },
}

/** Every artifact is taken, when the turn of the event loop is over. */
const NO_SECRETS: SecretSources = {
  read: () => Promise.resolve({ status: 'refused', message: 'there are none.' }),
}

const ARTIFACT_FILES: ArtifactFiles = {
  async take() {
    await new Promise(setImmediate)
    return { status: 'taken', bytes: 3, sha256: '0'.repeat(64) }
  },
  async remove() {},
  async place() {},
  missing: () => Promise.resolve([]),
  removeStrays: () => Promise.resolve(0),
}
