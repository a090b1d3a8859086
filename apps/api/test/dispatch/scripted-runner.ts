import {
  RunnerError,
  type RunnerHealth,
  type Secret,
  type Clock,
  type ListedWorker,
  type OutputCursor,
  type StartOptions,
  type StartResult,
  type WorkerInput,
  type WorkerName,
  type WorkerOrder,
  type WorkerOutput,
  type WorkerRunner,
  type WorkerState,
} from '@gpu-service/tasks'
import { HeldStart, type HeldPhase } from './held-start.ts'
import { ScriptedWorker } from './scripted-worker.ts'

/**
 * A runner without workers: each is what the test makes of it. By itself, a start succeeds at once, a session worker is ready then, heeds
 * `cancel` and `shutdown`, and every worker heeds SIGTERM.
 */
export class ScriptedRunner implements WorkerRunner {
  readonly kind = 'process'
  /** Session workers say that they are ready as soon as they are there. */
  isReadyAtOnce = true
  /** What comes of a start instead of a worker; `null`: a worker. */
  startResult: StartResult | null = null
  /** Thrown by everything but `output` and what a worker's input is made for: the neighbour is away. */
  trouble: RunnerError | null = null
  /** Every call to `start`, in order. */
  readonly starts: WorkerOrder[] = []
  /** In the order in which they came to be; those that were removed stay. */
  readonly workers: ScriptedWorker[] = []
  readonly removed = new Set<WorkerName>()
  /** What it knows beside the workers that it was asked to start: another process's, or made by hand. */
  readonly planted = new Map<WorkerName, WorkerState>()
  /** How often it was asked what it knows. */
  lists = 0
  /** Workers that cannot be removed. */
  readonly stuck = new Set<WorkerName>()
  /** Of each worker, the runs that have files. */
  readonly runFiles = new Map<WorkerName, Set<string>>()
  readonly #clock: Clock
  readonly #held: HeldStart[] = []

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /**
   * The next start that is not held yet waits until the test says what comes of it: `pulling`, where an abort ends it, or `making`, where it
   * does not.
   */
  holdStart(phase: HeldPhase = 'making'): HeldStart {
    const held = new HeldStart(phase)
    this.#held.push(held)
    return held
  }

  /** The worker of that name, if one was made; one that was removed is still found here. */
  find(name: WorkerName): ScriptedWorker | undefined {
    return this.workers.find((worker) => worker.name === name)
  }

  /** Outputs that are being read. */
  get openOutputs(): number {
    return this.workers.reduce((sum, { readers }) => sum + readers, 0)
  }

  /** Inputs that were opened and not let go of, of workers that have not ended. */
  get openInputs(): number {
    return this.workers.reduce((sum, { openInputs, isRunning }) => sum + (isRunning ? openInputs : 0), 0)
  }

  /** Those that run. */
  get running(): readonly ScriptedWorker[] {
    return this.workers.filter(({ isRunning }) => isRunning)
  }

  async start(order: WorkerOrder, { signal, onPull }: StartOptions = {}): Promise<StartResult> {
    this.starts.push(order)
    const held = this.#held.shift()
    const said = held === undefined ? null : await held.wait(signal, onPull)
    if (this.trouble !== null) throw this.trouble
    const result = said ?? this.startResult
    if (result !== null) return result
    const worker = this.#there(order.name) ?? this.#create(order)
    const { startedAt } = worker
    return { status: 'started', containerId: worker.containerId, imageDigest: null, startedAt }
  }

  output(
    name: WorkerName,
    { after, signal }: { after: OutputCursor; signal: AbortSignal },
  ): AsyncIterable<WorkerOutput> {
    const worker = this.#there(name)
    return worker === undefined ? nothing() : worker.read(after, signal)
  }

  async openInput(name: WorkerName): Promise<WorkerInput> {
    if (this.trouble !== null) throw this.trouble
    const worker = this.#there(name)
    if (worker === undefined) throw new RunnerError('NOT_FOUND', `There is no worker ${name}.`)
    return worker.openInput()
  }

  async stop(name: WorkerName, { graceMs }: { graceMs: number }): Promise<void> {
    if (this.trouble !== null) throw this.trouble
    await this.#there(name)?.stop(graceMs)
  }

  inspect(name: WorkerName): Promise<WorkerState> {
    return this.#answer(() => this.#there(name)?.state ?? { phase: 'unknown' })
  }

  processes(): Promise<readonly number[]> {
    return this.#answer(() => [])
  }

  list(): Promise<readonly ListedWorker[]> {
    this.lists++
    return this.#answer(() => [
      ...this.workers
        .filter(({ name, isLost }) => !isLost && !this.removed.has(name))
        .map(({ name, state }): ListedWorker => ({ name, state })),
      ...[...this.planted].map(([name, state]): ListedWorker => ({ name, state })),
    ])
  }

  remove(name: WorkerName): Promise<void> {
    return this.#answer(() => {
      if (this.stuck.has(name)) throw new RunnerError('ENGINE_REFUSED', `${name} is stuck.`)
      this.find(name)?.exit(137)
      this.planted.delete(name)
      this.removed.add(name)
    })
  }

  removeRuns(name: WorkerName, isNeeded: (runId: string) => boolean): Promise<void> {
    return this.#answer(() => {
      const runs = this.runFiles.get(name)
      for (const runId of runs ?? []) if (!isNeeded(runId)) runs?.delete(runId)
    })
  }

  secrets(): Promise<readonly Secret[]> {
    return this.#answer(() => [])
  }

  health(): Promise<RunnerHealth> {
    return Promise.resolve({ ok: true, detail: 'scripted' })
  }

  outputFolder(name: WorkerName, runId: string): { host: string; worker: string } {
    return { host: `/nowhere/${name}/${runId}`, worker: `/output/${runId}` }
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  #create(order: WorkerOrder): ScriptedWorker {
    const worker = new ScriptedWorker(order, this.#clock)
    this.workers.push(worker)
    if (order.run === null && this.isReadyAtOnce) worker.ready()
    return worker
  }

  #there(name: WorkerName): ScriptedWorker | undefined {
    const worker = this.find(name)
    return worker === undefined || worker.isLost || this.removed.has(name) ? undefined : worker
  }

  #answer<T>(answer: () => T): Promise<T> {
    return new Promise((resolve) => {
      if (this.trouble !== null) throw this.trouble
      resolve(answer())
    })
  }
}

// eslint-disable-next-line @typescript-eslint/require-await -- the port asks for an iterable that can wait
async function* nothing(): AsyncIterable<WorkerOutput> {
  yield { kind: 'lost', detail: 'There is no such worker.' }
}
