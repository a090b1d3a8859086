import { delay } from '../clock.ts'
import type {
  Calibration,
  Dispatcher,
  DispatcherOptions,
  DryRun,
  LiveGpu,
  LiveWorker,
  Refused,
  SubmitProblem,
  SubmitRequest,
  SubmitResult,
} from '../dispatcher.ts'
import { Changes, Feeds } from '../feed.ts'
import type { GpuId, PresetId, TaskId, WorkerId, WorkerName } from '../ids.ts'
import { Nudge } from '../nudge.ts'
import {
  DEFAULT_RULES,
  estimateStart,
  explainWorker,
  plan,
  type Plan,
  type PlanAction,
  type PlanInput,
  type QueuedTask,
  type StartEstimate,
  type WantedSession,
  type WorkerFacts,
} from '../planner/index.ts'
import { inOrder } from '../planner/order.ts'
import { OUTPUT_START } from '../runner.ts'
import { specHashOf } from '../spec-hash.ts'
import type { WorkerSpec } from '../spec.ts'
import type { Claim, GpuDrain, NewTask, NewWorker, TaskFilter } from '../store.ts'
import { isFinal, type Task } from '../task.ts'
import type { GpuClaim, Worker } from '../worker.ts'
import type { Run } from '../workers/run.ts'
import type { WorkerLife } from '../workers/worker-life.ts'
import { EstimateCalibration } from './calibration.ts'
import { explainTask } from './explain-task.ts'
import { liveGpus, plannedGpus } from './live-gpus.ts'
import { conflict, hashInForce, hashOf, prepare, refused, settled } from './submission.ts'
import { queueEntry, TaskQueue, type QueueEntry } from './task-queue.ts'
import type { WorkerHistories } from './worker-histories.ts'
import { isUnderWay, WorkerPool } from './worker-pool.ts'

const RETRY_PLAN_MS = 250
/** For storing what has been read when the service lets go of its workers. */
const DETACH_MS = 5_000
/** Estimates that are made unasked after a plan, so that their quality is known. */
const ESTIMATES_PER_PLAN = 2
const MAX_ESTIMATED_QUEUE = 200

type StartAction = Extract<PlanAction, { kind: 'start' }>
type AssignAction = Extract<PlanAction, { kind: 'assign' }>

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
  readonly #nudge = new Nudge()
  readonly #stopPlanning = new AbortController()
  #plan: Plan = { actions: [], waiting: new Map(), wakeAt: null }
  #planning: Promise<void> = Promise.resolve()
  #wake: Disposable | null = null
  #refusing = false

  constructor(options: DispatcherOptions, histories: WorkerHistories, drains: ReadonlyMap<GpuId, GpuDrain>) {
    this.#options = options
    this.#histories = histories
    this.#drains = new Map(drains)
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
      attemptEnded: (run, { requeued }) => {
        void this.#onAttemptEnded(run, requeued)
      },
      changed: () => {
        this.#nudge.nudge()
      },
    })
  }

  /** Reads the queue, takes up the workers that an earlier process of this installation left, and begins to plan. */
  async begin(): Promise<void> {
    const { store } = this.#options
    const tasks = await store.activeTasks()
    for (const task of tasks) {
      if (task.status !== 'QUEUED') continue
      this.#queue.add(task)
      this.#histories.asked(specHashOf(task.spec), task.createdAt)
      // The process died between the end of an attempt that was cancelled and the end of its task.
      if (task.cancelRequestedAt !== null) await this.cancel(task.id, task.cancelReason)
    }
    await this.#pool.takeUp(tasks.filter(isUnderWay))
    this.#planning = this.#planLoop()
  }

  // ----------------------------------------------------------------------------------------------------------------- clients

  async submit(requests: readonly SubmitRequest[]): Promise<SubmitResult> {
    return this.#submit(requests, null)
  }

  async #submit(requests: readonly SubmitRequest[], retryOf: TaskId | null): Promise<SubmitResult> {
    const { store, maxQueued } = this.#options
    // First of all: a client that asks again whether its task was taken must hear so, full queue or not.
    const earlier = await this.#submittedBefore(requests)
    if (earlier !== null) return earlier
    if (this.#refusing) return refused('SHUTTING_DOWN', 'The service is stopping and takes no new tasks.')
    const tasks: NewTask[] = []
    for (const [index, request] of requests.entries()) {
      const prepared = prepare(request, index, this.#options, retryOf)
      if (prepared.status !== 'prepared') return prepared
      tasks.push(prepared.task)
    }
    if (this.#queue.size + tasks.length > maxQueued)
      return refused(
        'QUEUE_FULL',
        `${this.#queue.size} of ${maxQueued} places in the queue are taken. Try again later.`,
      )
    const created = await store.create(tasks)
    if (created.status === 'conflict') return conflict(created.task, created.index)
    for (const { task, duplicate } of created.tasks) {
      if (duplicate) continue
      this.#queue.add(task)
      this.#histories.asked(specHashOf(task.spec), task.createdAt)
      this.taskChanges.changed(task.id)
    }
    this.#nudge.nudge()
    return { status: 'submitted', tasks: created.tasks }
  }

  /** Where all of them were submitted before under their keys: what became of them. */
  async #submittedBefore(requests: readonly SubmitRequest[]): Promise<SubmitResult | null> {
    const { store } = this.#options
    const tasks: { readonly task: Task; readonly duplicate: true }[] = []
    for (const [index, request] of requests.entries()) {
      const { owner, idempotencyKey } = request
      const earlier = idempotencyKey === null ? null : await store.submitted(owner, idempotencyKey)
      if (earlier === null) return null
      if (earlier.requestHash !== hashOf(request)) return conflict(earlier.task, index)
      tasks.push({ task: earlier.task, duplicate: true })
    }
    return { status: 'submitted', tasks }
  }

  async dryRun(request: SubmitRequest): Promise<DryRun | SubmitProblem> {
    const { store, maxQueued, clock } = this.#options
    const { owner, idempotencyKey } = request
    if (idempotencyKey !== null) {
      const earlier = await store.submitted(owner, idempotencyKey)
      if (earlier !== null && earlier.requestHash !== hashOf(request)) return conflict(earlier.task, 0)
    }
    if (this.#refusing) return refused('SHUTTING_DOWN', 'The service is stopping and takes no new tasks.')
    const prepared = prepare(request, 0, this.#options)
    if (prepared.status !== 'prepared') return prepared
    if (this.#queue.size >= maxQueued)
      return refused('QUEUE_FULL', `${maxQueued} tasks are waiting already. Try again later.`)
    const { task } = prepared
    const entry = queueEntry({
      ...task,
      ...{ queuedAt: task.createdAt, retryAt: null, attempt: 0, lastSeq: 1 },
    })
    const input = this.#input(clock.now(), [...this.#queue.entries(), entry])
    const planned = plan(input)
    const own = planned.actions.find(
      (action): action is StartAction | AssignAction => action.kind !== 'end' && action.taskId === task.id,
    )
    const evicts = planned.actions.flatMap((action) =>
      action.kind === 'end' && action.forTask === task.id ? [action.workerId] : [],
    )
    const estimate = estimateStart(input, task.id)
    const outlook = { status: 'planned', evicts, estimate } as const
    if (own === undefined) {
      const reason = planned.waiting.get(task.id)?.reason ?? 'It would wait for its turn.'
      return { ...outlook, action: 'wait', reason, gpuIds: [], workerId: null }
    }
    if (own.kind === 'start')
      return { ...outlook, action: 'start', reason: own.reason, gpuIds: own.claim.gpuIds, workerId: null }
    const gpuIds = this.#pool.get(own.workerId)?.worker.claim.gpuIds ?? []
    return { ...outlook, action: 'assign', reason: own.reason, gpuIds, workerId: own.workerId }
  }

  async cancel(id: TaskId, reason: string | null): Promise<Task | null> {
    const { store, clock } = this.#options
    const task = await store.requestCancel(id, { at: clock.now(), reason })
    if (task === null) return null
    if (task.status === 'CANCELLED' && this.#queue.delete(id)) {
      this.#calibration.forget(id)
      this.feeds.changed(id)
      this.#nudge.nudge()
    }
    if (task.stopReason !== null && !isFinal(task.status))
      this.#pool.lifeOf(id)?.stopTask(id, task.stopReason, task.cancelReason)
    this.taskChanges.changed(id)
    return task
  }

  async cancelMatching(filter: TaskFilter, reason: string | null): Promise<readonly Task[]> {
    const matching = await this.#options.store.matching(this.activeTasks(), filter)
    const cancelled = await Promise.all(
      matching.filter(({ status }) => !isFinal(status)).map(({ id }) => this.cancel(id, reason)),
    )
    return cancelled.filter((task) => task !== null)
  }

  async retry(id: TaskId, owner: string): Promise<SubmitResult | null> {
    const task = await this.#options.store.task(id)
    if (task === null) return null
    if (!isFinal(task.status))
      return refused('NOT_ENDED', `The task is ${task.status}; only one that has ended can be repeated.`)
    const { presetId, input, priority, labels, affinity, spec } = task
    const preset = this.#options.presets.preset(presetId)
    const { runMs } = spec.timeouts
    const gpuIds = spec.gpus.ids
    return this.#submit(
      [
        {
          ...{ owner, presetId, input, priority, labels, affinity, idempotencyKey: null },
          // Only what the task itself had asked for; the preset may say otherwise by now.
          timeoutMs: preset === null || preset.spec.timeouts.runMs === runMs ? null : runMs,
          gpuIds: sameIds(preset?.spec.gpus.ids ?? null, gpuIds) ? null : gpuIds,
        },
      ],
      id,
    )
  }

  async startSession(
    presetId: string,
    owner: string,
  ): Promise<
    | { readonly status: 'started'; readonly worker: LiveWorker }
    | { readonly status: 'unknown-preset'; readonly message: string }
    | Refused
  > {
    const { presets, gpus, clock } = this.#options
    const preset = presets.preset(presetId)
    if (preset === null)
      return { status: 'unknown-preset', message: `There is no preset ${JSON.stringify(presetId)}.` }
    if (this.#refusing)
      return refused('SHUTTING_DOWN', 'The service is stopping and starts nothing any more.')
    const spec = settled(preset.spec, gpus.list())
    const { session } = spec
    if (session === null)
      return refused('NOT_A_SESSION', `The preset ${presetId} has no session workers (mode: one-off).`)
    if (this.#pool.blocked !== null) return refused('NO_ROOM', this.#pool.blocked)
    const specHash = specHashOf(spec)
    const live = this.#pool
      .lives()
      .filter((life) => life.worker.specHash === specHash && !life.isEnding && life.retiring === null).length
    if (session.maxWorkers !== null && live >= session.maxWorkers)
      return refused(
        'NO_ROOM',
        `The preset has ${live} workers, and session.max_workers is ${session.maxWorkers}.`,
      )
    const wanted: WantedSession = {
      ...{ presetId: preset.id, specHash, gpus: spec.gpus, session },
      count: live + 1,
      notBefore: 0,
    }
    const input = { ...this.#input(clock.now(), this.#queue.entries()), wanted: [wanted] }
    const start = plan(input).actions.find(
      (action): action is StartAction =>
        action.kind === 'start' && action.taskId === null && action.presetId === preset.id,
    )
    if (start === undefined)
      return refused(
        'NO_ROOM',
        'There is no room for another worker beside those that are there and the tasks that wait.',
      )
    const reason = 'A client asked for it.'
    const life = await this.#startWanted(
      preset.id,
      spec,
      start.claim,
      reason,
      session.isolation === 'owner' ? owner : null,
    )
    return { status: 'started', worker: this.#live(life) }
  }

  endSession(id: WorkerId, force: boolean): LiveWorker | Refused | null {
    const life = this.#pool.get(id)
    if (life === undefined) return null
    if (life.worker.mode !== 'SESSION')
      return refused('NOT_A_SESSION', 'The worker has one task and ends with it; cancel the task instead.')
    life.end('A client asked for its end.', force)
    this.#nudge.nudge()
    return this.#live(life)
  }

  async drainGpu(id: GpuId, reason: string | null): Promise<LiveGpu | null> {
    const { store, clock, gpus } = this.#options
    if (!gpus.list().some((gpu) => gpu.id === id)) return null
    const drain = { at: clock.now(), reason }
    await store.setDrain(id, drain)
    this.#drains.set(id, drain)
    return this.#gpuChanged(id)
  }

  async enableGpu(id: GpuId): Promise<LiveGpu | null> {
    const { store, gpus } = this.#options
    if (!gpus.list().some((gpu) => gpu.id === id)) return null
    await store.setDrain(id, null)
    this.#drains.delete(id)
    gpus.restore(id)
    return this.#gpuChanged(id)
  }

  #gpuChanged(id: GpuId): LiveGpu | null {
    this.gpuChanges.changed(id)
    this.#nudge.nudge()
    return this.gpus().find((gpu) => gpu.id === id) ?? null
  }

  // --------------------------------------------------------------------------------------------------------------- questions

  queuePosition(id: TaskId): number | null {
    if (this.#queue.get(id) === undefined) return null
    const input = this.#input(this.#options.clock.now(), this.#queue.entries())
    return inOrder(input).findIndex((task) => task.id === id) + 1
  }

  explain(task: Task): string | null {
    const life = task.status === 'STARTING' ? this.#pool.lifeOf(task.id) : undefined
    return explainTask(task, {
      waiting: this.#plan.waiting.get(task.id)?.reason ?? null,
      blocked: this.#pool.blocked,
      worker: life === undefined ? null : this.#pool.live(life),
    })
  }

  estimate(task: Task): StartEstimate | null {
    const now = this.#options.clock.now()
    if (task.status === 'STARTING') return this.#estimateStarting(task, now)
    if (this.#queue.get(task.id) === undefined) return null
    const estimate = estimateStart(this.#input(now, this.#queue.entries()), task.id)
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
    const { loadMs } = this.factsOf(worker.specHash)
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

  factsOf(specHash: string): WorkerFacts {
    return this.#histories.facts(specHash, this.#options.clock.now())
  }

  activeTasks(): readonly TaskId[] {
    return [...this.#pool.taskIds(), ...this.#queue.ids()]
  }

  workers(): readonly LiveWorker[] {
    const input = this.#input(this.#options.clock.now(), this.#queue.entries())
    return this.#pool.lives().map((life) => this.#live(life, input))
  }

  #live(
    life: WorkerLife,
    input: PlanInput = this.#input(this.#options.clock.now(), this.#queue.entries()),
  ): LiveWorker {
    return { ...this.#pool.live(life), explanation: explainWorker(input, life.worker.id) }
  }

  gpus(): readonly LiveGpu[] {
    const input = this.#input(this.#options.clock.now(), this.#queue.entries())
    return liveGpus(this.#pool.memory.attributed(this.#options.gpus.list()), this.#drains, input)
  }

  get blocked(): string | null {
    return this.#pool.blocked
  }

  get load(): { readonly queued: number; readonly running: number } {
    return { queued: this.#queue.size, running: this.#pool.taskIds().length }
  }

  refuse(): void {
    this.#refusing = true
  }

  /** Ends planning and lets go of the workers (or stops them), after everything that was read is stored. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#refusing = true
    this.#stopPlanning.abort()
    this.#wake?.[Symbol.dispose]()
    this.#nudge.nudge()
    await this.#planning
    if (this.#options.shutdown === 'stop') {
      const reason = 'The service was stopped (SHUTDOWN=stop).'
      await Promise.all(this.#pool.taskIds().map((id) => this.cancel(id, reason)))
      await this.#pool.stopAll()
    }
    this.#pool.detach()
    await this.#pool.workEnds(DETACH_MS)
  }

  // -------------------------------------------------------------------------------------------------------------------- plan

  #input(now: number, queue: Iterable<QueuedTask>): PlanInput {
    const { gpus, presets, maxWorkers, maxPassMs } = this.#options
    const inventory = gpus.list()
    const inForce = new Map(presets.presets().map((preset) => [preset.id, hashInForce(preset, inventory)]))
    return {
      now,
      queue,
      workers: this.#pool.planned(),
      gpus: plannedGpus(inventory, this.#drains),
      wanted: this.#wanted(inForce),
      inForce,
      factsOf: (specHash) => this.#histories.facts(specHash, now),
      maxWorkers,
      blocked: this.#pool.blocked,
      rules: { ...DEFAULT_RULES, maxPassMs },
    }
  }

  #wanted(inForce: ReadonlyMap<PresetId, string>): readonly WantedSession[] {
    const { presets, gpus } = this.#options
    return presets.presets().flatMap(({ id, spec }): WantedSession[] => {
      const { session } = spec
      const specHash = inForce.get(id)
      // One owner's worker serves nobody else: it can be kept warm for an owner only once there is a task.
      if (
        session === null ||
        session.prewarm === 0 ||
        session.isolation === 'owner' ||
        specHash === undefined
      )
        return []
      const need = settled(spec, gpus.list()).gpus
      const notBefore = this.#pool.notBefore(specHash)
      return [{ presetId: id, specHash, gpus: need, session, count: session.prewarm, notBefore }]
    })
  }

  async #planLoop(): Promise<void> {
    const { signal } = this.#stopPlanning
    const { gpus, presets, logger, clock } = this.#options
    const forgetGpus = gpus.onChange((changed) => {
      this.#onGpusChanged(changed)
    })
    const forgetPresets = presets.onChange(() => {
      this.#nudge.nudge()
    })
    this.#onGpusChanged(gpus.list().map(({ id }) => id))
    while (!signal.aborted) {
      const { version } = this.#nudge
      try {
        await this.#planOnce()
        await this.#nudge.waitPast(version, signal)
        // What else comes in this turn of the event loop is planned with it.
        await new Promise(setImmediate)
      } catch (error) {
        logger.error({ err: error }, 'Tasks could not be given to workers; trying again.')
        await delay(clock, RETRY_PLAN_MS, signal)
      }
    }
    forgetGpus()
    forgetPresets()
  }

  async #planOnce(): Promise<void> {
    const { clock } = this.#options
    const now = clock.now()
    for (const id of this.#queue.overdue(now)) await this.#expire(id, now)
    const input = this.#input(now, this.#queue.entries())
    this.#plan = plan(input)
    this.#armWake(now)
    this.#predict(input)
    const { actions } = this.#plan
    for (const action of actions)
      if (action.kind === 'end') this.#pool.get(action.workerId)?.end(action.reason)
    const claiming = actions.filter(
      (action): action is StartAction | AssignAction => action.kind !== 'end' && action.taskId !== null,
    )
    if (claiming.length > 0) await this.#claim(claiming)
    for (const action of actions)
      if (action.kind === 'start' && action.taskId === null) await this.#prewarm(action)
  }

  #armWake(now: number): void {
    this.#wake?.[Symbol.dispose]()
    const dueAt = Math.min(this.#plan.wakeAt ?? Infinity, this.#queue.nextDueAt ?? Infinity)
    this.#wake =
      dueAt === Infinity
        ? null
        : this.#options.clock.after(Math.max(1, dueAt - now), () => {
            this.#nudge.nudge()
          })
  }

  /** Some estimates are made though nobody asked, so that it is known how good they are. */
  #predict(input: PlanInput): void {
    if (this.#queue.size > MAX_ESTIMATED_QUEUE) return
    let left = ESTIMATES_PER_PLAN
    for (const id of this.#plan.waiting.keys()) {
      if (left === 0) return
      if (this.#calibration.isPredicted(id)) continue
      left--
      const estimate = estimateStart(input, id)
      if (estimate !== null) this.#calibration.predicted(id, estimate)
    }
  }

  async #expire(id: TaskId, at: number): Promise<void> {
    const entry = this.#queue.get(id)
    const waitedMs = entry === undefined ? 0 : at - Math.max(entry.queuedAt, entry.retryAt ?? 0)
    const why = this.#plan.waiting.get(id)?.reason ?? ''
    const message =
      `It waited ${waitedMs} ms in the queue, longer than it may (timeouts.queue). ${why}`.trim()
    const error = { code: 'QUEUE_TIMEOUT', message }
    const ended = await this.#options.store.endQueued(id, { at, status: 'TIMED_OUT', error })
    this.#queue.delete(id)
    this.#calibration.forget(id)
    if (ended === null) return
    this.feeds.changed(id)
    this.taskChanges.changed(id)
  }

  async #claim(actions: readonly (StartAction | AssignAction)[]): Promise<void> {
    const { store, clock } = this.#options
    const claims = (await Promise.all(actions.map((action) => this.#claimFor(action)))).filter(
      (claim) => claim !== null,
    )
    if (claims.length === 0 || this.#stopPlanning.signal.aborted) return
    const at = clock.now()
    const claimed = await store.claim(claims.map((claim) => ({ ...claim, at })))
    claims.forEach(({ taskId, worker }, index) => {
      this.#queue.delete(taskId)
      const task = claimed[index] ?? null
      if (task === null) return
      this.feeds.changed(taskId)
      this.taskChanges.changed(taskId)
      if ('spec' in worker) this.#pool.add(freshWorker({ ...worker, at }), [task], true)
      else this.#pool.get(worker.id)?.take(task)
    })
  }

  async #claimFor(action: StartAction | AssignAction): Promise<Claim | null> {
    const { taskId, reason } = action
    const entry = taskId === null ? undefined : this.#queue.get(taskId)
    if (taskId === null || entry === undefined) return null
    const claim = { taskId, attempt: entry.attempt + 1, after: entry.lastSeq, at: 0, reason }
    if (action.kind === 'assign') {
      const life = this.#pool.get(action.workerId)
      if (life === undefined) return null
      const { id, claim: held } = life.worker
      return { ...claim, worker: { id, claim: held }, warm: action.warm }
    }
    const task = await this.#options.store.task(taskId)
    if (task === null) return null
    return { ...claim, worker: this.#newWorker(task.spec, action.claim, entry), warm: false }
  }

  #newWorker(spec: WorkerSpec, claim: GpuClaim, { presetId, session, owner }: QueueEntry): NewWorker {
    return this.#workerRow(presetId, spec, claim, session?.isolation === 'owner' ? owner : null)
  }

  #workerRow(presetId: PresetId, spec: WorkerSpec, claim: GpuClaim, owner: string | null): NewWorker {
    const { store, newId, clock } = this.#options
    const id = newId() as WorkerId
    const name = `gpu-${store.installation}-${id}` as WorkerName
    const at = clock.now()
    return { id, name, presetId, mode: spec.mode, spec, specHash: specHashOf(spec), owner, claim, at }
  }

  async #prewarm({ presetId, claim, reason }: StartAction): Promise<void> {
    const preset = this.#options.presets.preset(presetId)
    if (preset === null || this.#stopPlanning.signal.aborted) return
    const spec = settled(preset.spec, this.#options.gpus.list())
    await this.#startWanted(presetId, spec, claim, reason, null)
  }

  async #startWanted(
    presetId: PresetId,
    spec: WorkerSpec,
    claim: GpuClaim,
    reason: string,
    owner: string | null,
  ): Promise<WorkerLife> {
    const { store, logger } = this.#options
    const row = this.#workerRow(presetId, spec, claim, owner)
    await store.createWorker(row)
    logger.info({ workerId: row.id, presetId, reason }, 'Starting a session worker that no task asked for.')
    return this.#pool.add(freshWorker(row), [], true)
  }

  // ------------------------------------------------------------------------------------------------------------------ changes

  async #onAttemptEnded({ task: { id } }: Run, requeued: boolean): Promise<void> {
    const { store, logger } = this.#options
    try {
      if (!requeued) {
        this.#calibration.forget(id)
        this.feeds.forget(id)
        await store.compact(id)
        return
      }
      const task = await store.task(id)
      if (task?.status !== 'QUEUED') return
      // A cancel that came while the attempt ended found a task that was still under way.
      if (task.cancelRequestedAt !== null) {
        this.#queue.add(task)
        await this.cancel(id, task.cancelReason)
      } else {
        this.#queue.add(task)
        this.#nudge.nudge()
      }
    } catch (error) {
      logger.error({ err: error, taskId: id }, 'What follows an ended attempt could not be done.')
    }
  }

  #onGpusChanged(changed: readonly GpuId[]): void {
    for (const id of changed) this.gpuChanges.changed(id)
    const lost = new Set(
      this.#options.gpus.list().flatMap(({ id, health }) => (health === 'LOST' ? [id] : [])),
    )
    for (const life of this.#pool.lives()) {
      if (!life.isEnding && life.worker.claim.gpuIds.some((id) => lost.has(id))) void this.#loseGpu(life)
    }
    void this.#pool.memory.look().then(() => {
      this.#nudge.nudge()
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
      if (runs.length === 0) life.end('A GPU that it holds was lost.', true)
    } catch (error) {
      logger.error(
        { err: error, workerId: life.worker.id },
        'A worker whose GPU is lost could not be stopped.',
      )
    }
  }
}

function freshWorker({ at, ...worker }: NewWorker): Worker {
  return {
    ...worker,
    status: 'STARTING',
    containerId: null,
    taskIds: [],
    startedAt: at,
    readyAt: null,
    exitedAt: null,
    tasksServed: 0,
    peakMemoryMb: null,
    cursor: OUTPUT_START,
    eventSeq: null,
    exit: null,
    endReason: null,
  }
}

function sameIds(a: readonly GpuId[] | null, b: readonly GpuId[] | null): boolean {
  if (a === null || b === null) return a === b
  return a.length === b.length && a.every((id) => b.includes(id))
}
