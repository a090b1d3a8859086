import type {
  Calibration,
  Dispatcher,
  DispatcherOptions,
  DryRun,
  Housekeeping,
  KeyUse,
  LiveGpu,
  LiveWorker,
  Refused,
  SubmitProblem,
  SubmitRequest,
  SubmitResult,
} from '../dispatcher.ts'
import { type Actor, SERVICE } from '../audit.ts'
import type { Charge } from '../charge.ts'
import { watchJumps } from '../clock.ts'
import { Changes, Feeds } from '../feed.ts'
import { Retention } from '../housekeeping/retention.ts'
import type { GpuId, TaskId, WorkerId } from '../ids.ts'
import { insist } from '../insist.ts'
import { createOutlook, type Outlook, type StartEstimate, type WorkerFacts } from '../planner/index.ts'
import type { Preset } from '../presets.ts'
import { specHashOf } from '../spec-hash.ts'
import type { GpuDrain, TaskFilter } from '../store.ts'
import { isFinal, type Task } from '../task.ts'
import type { Run } from '../workers/run.ts'
import type { WorkerLife } from '../workers/worker-life.ts'
import { EstimateCalibration } from './calibration.ts'
import { dryRunOf } from './dry-run.ts'
import { explainTask } from './explain-task.ts'
import { Intake } from './intake.ts'
import { KeyUsage } from './key-usage.ts'
import { liveGpus } from './live-gpus.ts'
import { PlanLoop } from './plan-loop.ts'
import { startSession } from './start-session.ts'
import { hashInForce, refused, settled } from './submission.ts'
import { queueEntry, TaskQueue } from './task-queue.ts'
import type { WorkerHistories } from './worker-histories.ts'
import { isUnderWay, WorkerPool } from './worker-pool.ts'

/** For storing what has been read when the service lets go of its workers. */
const DETACH_MS = 5_000
/** A task that was stored in so few is read as fast as one that was compacted. */
const FEW_COMMITS = 6

/** What is read from the store before there is a dispatcher. */
export interface Known {
  readonly histories: WorkerHistories
  readonly drains: ReadonlyMap<GpuId, GpuDrain>
  /** Of this day. */
  readonly charges: readonly Charge[]
}

/** The dispatcher over its ports; made by `openDispatcher`. */
export class TaskDispatcher implements Dispatcher {
  readonly feeds: Feeds
  readonly taskChanges = new Changes<TaskId>()
  readonly gpuChanges = new Changes<GpuId>()
  readonly workerChanges = new Changes<WorkerId>()

  readonly #options: DispatcherOptions
  readonly #queue = new TaskQueue()
  readonly #pool: WorkerPool
  readonly #histories: WorkerHistories
  readonly #calibration = new EstimateCalibration()
  readonly #drains: Map<GpuId, GpuDrain>
  readonly #keyUsage: KeyUsage
  readonly #intake: Intake
  readonly #loop: PlanLoop
  readonly #disposed = new AbortController()
  readonly #retention: Retention
  #keeping: Promise<void> = Promise.resolve()
  #planning: Promise<void> = Promise.resolve()

  constructor(given: DispatcherOptions, known: Known) {
    const clock = watchJumps(given.clock, (ms) => {
      this.#onClockJumped(ms)
    })
    const options = { ...given, clock }
    this.#options = options
    const { histories } = known
    this.#histories = histories
    this.#drains = new Map(known.drains)
    this.#keyUsage = new KeyUsage({
      limitsOf: options.limitsOf,
      queue: this.#queue,
      running: () => this.#pool.tasks(),
      charges: known.charges,
      now: clock.now(),
    })
    this.feeds = new Feeds(options.store)
    this.#pool = new WorkerPool(options, this.feeds, histories, {
      taskChanged: (id) => {
        this.taskChanges.changed(id)
      },
      workerChanged: (id) => {
        this.workerChanges.changed(id)
      },
      gpuChanged: (id) => {
        this.gpuChanges.changed(id)
      },
      attemptAlive: (run, at) => {
        this.#calibration.started(run.task.id, at)
      },
      attemptEnded: (run, { charge, at, retryAt }) => {
        if (charge !== null) this.#keyUsage.charge(charge, at)
        void this.#onAttemptEnded(run, retryAt !== undefined)
      },
      changed: () => {
        this.#loop.nudge()
      },
    })
    this.#retention = new Retention({
      ...options,
      signal: this.#disposed.signal,
      changed: (id) => {
        this.feeds.changed(id)
        this.taskChanges.changed(id)
      },
    })
    this.#loop = new PlanLoop({
      ...options,
      queue: this.#queue,
      pool: this.#pool,
      histories,
      calibration: this.#calibration,
      drains: this.#drains,
      keyUsage: this.#keyUsage,
      taskChanged: (id) => {
        this.feeds.changed(id)
        this.taskChanges.changed(id)
      },
    })
    this.#intake = new Intake({
      ...options,
      queue: this.#queue,
      keyUsage: this.#keyUsage,
      taken: (task) => {
        this.#loop.enqueue(task)
        this.#histories.asked(specHashOf(task.spec), task.createdAt)
        this.taskChanges.changed(task.id)
      },
    })
  }

  /** Reads the queue, takes up the workers that an earlier process of this installation left, and begins to plan. */
  async begin(): Promise<void> {
    const { store } = this.#options
    const tasks = await store.activeTasks()
    for (const task of tasks) {
      if (task.status !== 'QUEUED') continue
      this.#queue.add(task, this.#options.clock.now())
      this.#histories.asked(specHashOf(task.spec), task.createdAt)
      // The process died between the end of an attempt that was cancelled and the end of its task.
      if (task.cancelRequestedAt !== null) await this.cancel(task.id, task.cancelReason)
    }
    await this.#pool.takeUp(tasks.filter(isUnderWay))
    const { gpus, presets, room } = this.#options
    const forget = [
      room.onChange(() => {
        this.#loop.nudge()
      }),
      gpus.onChange((changed) => {
        this.#onGpusChanged(changed)
      }),
      presets.onChange(() => {
        this.#loop.nudge()
      }),
    ]
    this.#onGpusChanged(gpus.list().map(({ id }) => id))
    this.#keeping = this.#retention.run()
    this.#planning = this.#loop.run().finally(() => {
      for (const end of forget) end()
    })
  }

  // ----------------------------------------------------------------------------------------------------------------- clients

  submit(requests: readonly SubmitRequest[], by: Actor = SERVICE): Promise<SubmitResult> {
    return this.#intake.submit(requests, null, by)
  }

  async dryRun(request: SubmitRequest): Promise<DryRun | SubmitProblem> {
    const considered = await this.#intake.consider(request)
    if (considered.status === 'submitted-before') {
      const reason = `It was submitted before under this idempotency key, as task ${considered.task.id}.`
      const nothing = { gpuIds: [], workerId: null, evicts: [], estimate: null }
      return { status: 'planned', action: 'wait', reason, ...nothing }
    }
    if (considered.status !== 'prepared') return considered
    const { task } = considered
    const entry = queueEntry(
      { ...task, ...{ queuedAt: task.createdAt, retryAt: null, attempt: 0, lastSeq: 1 } },
      task.createdAt,
    )
    return this.#loop.inTurn(() => {
      const outlook = createOutlook(this.#loop.input([entry]))
      const gpusOf = (id: WorkerId): readonly GpuId[] => this.#pool.get(id)?.worker.claim.gpuIds ?? []
      return Promise.resolve(dryRunOf(outlook, task.id, gpusOf))
    })
  }

  async cancel(id: TaskId, reason: string | null, by: Actor = SERVICE): Promise<Task | null> {
    const { store, clock } = this.#options
    const task = await store.requestCancel(id, { at: clock.now(), reason }, by)
    if (task === null) return null
    const { status, stopReason, cancelReason } = task
    if (status === 'CANCELLED') {
      this.#queue.delete(id)
      this.#calibration.forget(id)
      this.feeds.changed(id)
      this.#loop.nudge()
    }
    if (stopReason !== null && !isFinal(status)) {
      const life = this.#pool.lifeOf(id)
      if (life === undefined) this.#loop.stopEarly(id, stopReason, cancelReason)
      else life.stopTask(id, stopReason, cancelReason)
    }
    this.taskChanges.changed(id)
    return task
  }

  async cancelMatching(
    filter: TaskFilter,
    reason: string | null,
    by: Actor = SERVICE,
  ): Promise<readonly Task[]> {
    const matching = await this.#options.store.matching(this.activeTasks(), filter)
    const cancelled = await Promise.all(
      matching.filter(({ status }) => !isFinal(status)).map(({ id }) => this.cancel(id, reason, by)),
    )
    return cancelled.filter((task) => task !== null)
  }

  async retry(
    id: TaskId,
    from: Pick<SubmitRequest, 'owner' | 'keyId'>,
    by: Actor = SERVICE,
  ): Promise<SubmitResult | null> {
    const task = await this.#options.store.task(id)
    if (task === null) return null
    if (!isFinal(task.status))
      return refused('NOT_ENDED', `The task is ${task.status}; only one that has ended can be repeated.`)
    if (task.scrubbedAt !== null)
      return refused('SCRUBBED', `The task was ${task.privacy}: its input was removed after its end.`)
    const { presetId, privacy, input, priority, labels, affinity, asked } = task
    const { owner, keyId } = from
    const files = task.files.map(({ id: uploadId, name }) => ({ uploadId, name }))
    const own = { presetId, privacy, input, priority, labels, affinity, ...asked, files }
    const request = { ...own, owner, keyId, idempotencyKey: null }
    return this.#intake.submit([request], task, by)
  }

  async deleteTask(
    id: TaskId,
    by: Actor = SERVICE,
  ): Promise<{ readonly status: 'deleted' } | Refused | null> {
    const task = await this.#options.store.task(id)
    if (task === null) return null
    if (!isFinal(task.status))
      return refused('NOT_ENDED', `The task is ${task.status}; only one that has ended can be deleted.`)
    // None: somebody else was first.
    return (await this.#retention.remove([id], by, null)) === 0 ? null : { status: 'deleted' }
  }

  async startSession(
    presetId: string,
    owner: string,
    by: Actor = SERVICE,
  ): Promise<
    | { readonly status: 'started'; readonly worker: LiveWorker }
    | { readonly status: 'unknown-preset'; readonly message: string }
    | Refused
  > {
    const { presets, gpus } = this.#options
    const preset = presets.preset(presetId)
    if (preset === null)
      return { status: 'unknown-preset', message: `There is no preset ${JSON.stringify(presetId)}.` }
    if (this.#intake.isClosed)
      return refused('SHUTTING_DOWN', 'The service is stopping and starts nothing any more.')
    const spec = settled(preset.spec, gpus.list())
    const started = await this.#loop.inTurn(() =>
      startSession(this.#loop, this.#pool, preset.id, spec, owner, by),
    )
    return 'status' in started ? started : { status: 'started', worker: this.#live(started) }
  }

  async endSession(id: WorkerId, force: boolean, by: Actor = SERVICE): Promise<LiveWorker | Refused | null> {
    const life = this.#pool.get(id)
    if (life === undefined) return null
    if (life.worker.mode !== 'SESSION')
      return refused('NOT_A_SESSION', 'The worker has one task and ends with it; cancel the task instead.')
    // Before it ends: what is asked for is written, whatever comes of it.
    const target = { kind: 'worker', id } as const
    const details = { force: String(force) }
    await this.#options.store.recordAudit([
      { actor: by, action: 'worker.end', target, result: 'OK', status: null, reason: null, details },
    ])
    await life.end('A client asked for its end.', force)
    this.#loop.nudge()
    return this.#live(life)
  }

  async drainGpu(id: GpuId, reason: string | null, by: Actor = SERVICE): Promise<LiveGpu | null> {
    const { store, clock, gpus } = this.#options
    if (!gpus.list().some((gpu) => gpu.id === id)) return null
    const drain = { at: clock.now(), reason }
    await store.setDrain(id, drain, by)
    this.#drains.set(id, drain)
    return this.#gpuChanged(id)
  }

  async enableGpu(id: GpuId, by: Actor = SERVICE): Promise<LiveGpu | null> {
    const { store, gpus } = this.#options
    if (!gpus.list().some((gpu) => gpu.id === id)) return null
    await store.setDrain(id, null, by)
    this.#drains.delete(id)
    gpus.restore(id)
    return this.#gpuChanged(id)
  }

  #gpuChanged(id: GpuId): LiveGpu | null {
    this.gpuChanges.changed(id)
    this.#loop.nudge()
    return this.gpus().find((gpu) => gpu.id === id) ?? null
  }

  // --------------------------------------------------------------------------------------------------------------- questions

  queuePosition(id: TaskId): number | null {
    return this.#queue.get(id) === undefined ? null : this.#loop.outlook().position(id)
  }

  explain(task: Task): string | null {
    const life = task.status === 'STARTING' ? this.#pool.lifeOf(task.id) : undefined
    return explainTask(task, {
      waiting: this.#loop.waitingReason(task.id),
      blocked: this.#pool.blocked,
      worker: life === undefined ? null : this.#pool.live(life),
    })
  }

  estimate(task: Task): StartEstimate | null {
    const now = this.#options.clock.now()
    if (task.status === 'STARTING') return this.#estimateStarting(task, now)
    if (this.#queue.get(task.id) === undefined) return null
    const estimate = this.#loop.outlook().estimate(task.id)
    if (estimate !== null) this.#calibration.predicted(task.id, estimate)
    return estimate
  }

  #estimateStarting(task: Task, now: number): StartEstimate | null {
    const worker = this.#pool.lifeOf(task.id)?.worker
    if (worker === undefined) return null
    if (worker.readyAt !== null)
      return {
        at: now,
        earliest: now,
        latest: now + task.spec.timeouts.ackMs,
        warm: true,
        how: 'Its worker is ready.',
      }
    const { loadMs } = this.#factsOf(worker.specHash)
    if (loadMs === null) return null
    const from = worker.startedAt
    return {
      at: Math.max(now, from + loadMs.middle),
      earliest: Math.max(now, from + loadMs.low),
      latest: Math.max(now, from + loadMs.high),
      warm: false,
      how: `Its worker is starting since ${now - from} ms; the last ones took ${Math.round(loadMs.middle)} ms.`,
    }
  }

  get calibration(): Calibration {
    return this.#calibration.result
  }

  #factsOf(specHash: string): WorkerFacts {
    return this.#histories.facts(specHash, this.#options.clock.now())
  }

  factsOfPreset(preset: Preset): WorkerFacts {
    return this.#factsOf(hashInForce(preset, this.#options.gpus.list()))
  }

  keyUse(keyId: string): KeyUse {
    return this.#keyUsage.of(keyId, this.#options.clock.now())
  }

  activeTasks(): readonly TaskId[] {
    return [...this.#pool.taskIds(), ...this.#queue.ids()]
  }

  workers(): readonly LiveWorker[] {
    const outlook = this.#loop.outlook()
    return this.#pool.lives().map((life) => this.#live(life, outlook))
  }

  #live(life: WorkerLife, outlook: Outlook = this.#loop.outlook()): LiveWorker {
    return { ...this.#pool.live(life), explanation: outlook.explainWorker(life.worker.id) }
  }

  gpus(): readonly LiveGpu[] {
    const gpus = this.#pool.memory.attributed(this.#options.gpus.list())
    return liveGpus(gpus, this.#drains, this.#loop.outlook())
  }

  get blocked(): string | null {
    return this.#pool.blocked
  }

  get load(): { readonly queued: number; readonly running: number } {
    return { queued: this.#queue.size, running: this.#pool.taskIds().length }
  }

  get housekeeping(): Housekeeping {
    const { lastRoundAt, removed: removedTasks } = this.#retention
    return { lastRoundAt, removedTasks, removedWorkers: this.#pool.removedLeftovers }
  }

  refuse(): void {
    this.#intake.close()
  }

  /** Ends planning and lets go of the workers (or stops them), after everything that was read is stored. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#intake.close()
    this.#loop.stop()
    await this.#planning
    if (this.#options.shutdown === 'stop') {
      const reason = 'The service was stopped (SHUTDOWN=stop).'
      await Promise.all(this.#pool.taskIds().map((id) => this.cancel(id, reason)))
      await this.#pool.stopAll()
    }
    this.#pool.detach()
    this.#disposed.abort()
    await Promise.all([this.#pool.workEnds(DETACH_MS), this.#keeping])
  }

  // ------------------------------------------------------------------------------------------------------------------ changes

  async #onAttemptEnded({ task: { id, attempt }, writer }: Run, requeued: boolean): Promise<void> {
    const { store } = this.#options
    if (!requeued) {
      this.#calibration.forget(id)
      this.feeds.forget(id)
      if (attempt > 1 || writer.commits > FEW_COMMITS)
        await this.#insist('compact the events of a task', id, () => store.compact(id))
      return
    }
    const found = await this.#insist('read a task that is tried again', id, () => store.task(id))
    const task = found?.value ?? null
    if (task?.status !== 'QUEUED') return
    this.#queue.add(task, this.#options.clock.now())
    // A cancel that came while the attempt ended found a task that was still under way.
    if (task.cancelRequestedAt !== null)
      await this.#insist('cancel a task', id, () => this.cancel(id, task.cancelReason))
    this.#loop.nudge()
  }

  #insist<T>(what: string, taskId: TaskId, action: () => Promise<T>): Promise<{ readonly value: T } | null> {
    const { clock, logger } = this.#options
    const context = { clock, logger, reachable: () => undefined }
    return insist(context, what, { taskId }, this.#disposed.signal, action)
  }

  #onClockJumped(ms: number): void {
    this.#options.logger.warn({ ms }, 'The clock of this machine was set.')
    this.#queue.clockJumped(ms)
    this.#pool.clockJumped(ms)
    this.#loop.nudge()
  }

  #onGpusChanged(changed: readonly GpuId[]): void {
    for (const id of changed) this.gpuChanges.changed(id)
    const gpus = this.#options.gpus.list()
    this.#pool.readings.note(gpus)
    const lost = new Set(gpus.flatMap(({ id, health }) => (health === 'LOST' ? [id] : [])))
    for (const life of this.#pool.lives()) {
      if (!life.isEnding && life.worker.claim.gpuIds.some((id) => lost.has(id))) void this.#loseGpu(life)
    }
    void this.#pool.memory.look().then(() => {
      this.#loop.nudge()
    })
  }

  async #loseGpu(life: WorkerLife): Promise<void> {
    const { store, logger } = this.#options
    const { runs } = life
    try {
      for (const { task } of runs) {
        const { stopReason, cancelReason } = await store.recordStop(task.id, task.attempt, 'gpu-lost')
        if (stopReason !== null) life.stopTask(task.id, stopReason, cancelReason)
      }
      if (runs.length === 0) await life.end('A GPU that it holds was lost.', true)
    } catch (error) {
      logger.error(
        { err: error, workerId: life.worker.id },
        'A worker whose GPU is lost could not be stopped.',
      )
    }
  }
}
