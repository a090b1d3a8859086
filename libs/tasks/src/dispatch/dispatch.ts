import { createHash } from 'node:crypto'
import type { ArtifactFiles } from './artifact-files.ts'
import { Attempt, type AttemptContext } from './attempt.ts'
import { delay, type Clock } from './clock.ts'
import { Changes, Feeds } from './feed.ts'
import type { Gpu, GpuInventory } from './gpu.ts'
import type { ArtifactId, GpuId, PresetId, TaskId, WorkerId, WorkerName } from './ids.ts'
import { canonicalJson, type JsonValue, type TextMap } from './json.ts'
import type { Logger } from './logger.ts'
import { Nudge } from './nudge.ts'
import { allowedGpus, gpuCount, plan, queueOrder, type Plan, type QueuedTask } from './planner.ts'
import type { InputIssue, PresetCatalog } from './presets.ts'
import { OUTPUT_START, RunnerError, type AssignedGpu, type WorkerRunner } from './runner.ts'
import type { GpuNeed, WorkerMode } from './spec.ts'
import type { TaskStore } from './store.ts'
import { isFinal, type Task } from './task.ts'
import type { Worker } from './worker.ts'

export interface DispatcherOptions {
  readonly store: TaskStore
  readonly runner: WorkerRunner
  readonly gpus: GpuInventory
  readonly presets: PresetCatalog
  readonly artifactFiles: ArtifactFiles
  readonly clock: Clock
  readonly logger: Logger
  /** Makes ids that sort in the order in which they were made: UUIDs of version 7. */
  readonly newId: () => string
  /** The most workers at a time. */
  readonly maxWorkers: number
  /** The most QUEUED tasks. */
  readonly maxQueued: number
  /** What becomes of the workers when the dispatcher is disposed: they go on, or are stopped and their tasks cancelled. */
  readonly shutdown: 'detach' | 'stop'
}

/** What a client asks for. */
export interface SubmitRequest {
  readonly owner: string
  readonly presetId: string
  readonly input: JsonValue
  readonly priority: number
  readonly labels: TextMap
  readonly idempotencyKey: string | null
  readonly affinity: string | null
  readonly timeoutMs: number | null
  readonly gpuIds: readonly string[] | null
}

export type SubmitResult =
  | { readonly status: 'submitted'; readonly task: Task; readonly duplicate: boolean }
  | { readonly status: 'unknown-preset'; readonly message: string }
  | { readonly status: 'invalid-input'; readonly issues: readonly InputIssue[] }
  | {
      readonly status: 'refused'
      readonly code:
        'SHUTTING_DOWN' | 'QUEUE_FULL' | 'NO_SUCH_GPU' | 'IDEMPOTENCY_CONFLICT' | 'SESSIONS_NOT_SUPPORTED'
      readonly message: string
    }

interface QueueEntry extends QueuedTask {
  readonly presetId: PresetId
  readonly mode: WorkerMode
  readonly attempt: number
  readonly lastSeq: number
}

const FIRST_PROBE_MS = 250
const LAST_PROBE_MS = 5_000
/** Beside the workers' own grace periods, for the engine to stop and remove them. */
const STOP_MARGIN_MS = 15_000
/** For storing what has been read when the service lets go of its workers. */
const DETACH_MS = 5_000

/**
 * Takes tasks, decides with the planner which starts where and when, follows each to its stored end, and answers what waits and why. One
 * per installation: it owns the workers.
 */
export class Dispatcher implements AsyncDisposable {
  readonly #options: DispatcherOptions
  /** The tasks' events, stored and live. */
  readonly feeds: Feeds
  /** Tasks whose row has changed. */
  readonly taskChanges = new Changes<TaskId>()
  /** GPUs whose claims have changed. */
  readonly gpuChanges = new Changes<GpuId>()

  /** What the planner and a claim need of each QUEUED task; inputs and specs stay in the store. */
  readonly #queue = new Map<TaskId, QueueEntry>()
  readonly #attempts = new Map<TaskId, Attempt>()
  readonly #claims = new Map<WorkerId, Worker>()
  /** Attempts and clean-ups that are under way. */
  readonly #work = new Set<Promise<void>>()
  readonly #nudge = new Nudge()
  readonly #stopPlanning = new AbortController()
  readonly #detach = new AbortController()
  readonly #context: AttemptContext
  #plan: Plan = { actions: [], waiting: new Map() }
  #planning: Promise<void> = Promise.resolve()
  #refusing = false
  /** Why no worker can be started at the moment; `null`: they can. */
  #blocked: string | null = null

  private constructor(options: DispatcherOptions) {
    this.#options = options
    this.feeds = new Feeds(options.store)
    this.#context = {
      ...options,
      feeds: this.feeds,
      newArtifactId: () => options.newId() as ArtifactId,
      detach: this.#detach.signal,
      taskChanged: (id) => {
        this.taskChanges.changed(id)
      },
      workerChanged: (worker) => {
        if (this.#claims.has(worker.id)) this.#claims.set(worker.id, worker)
      },
      reachable: (reachable, detail) => {
        this.#onReachable(reachable, detail)
      },
    }
  }

  /** Reads the queue, takes up the workers that an earlier process of this installation left, and begins to plan. */
  static async open(options: DispatcherOptions): Promise<Dispatcher> {
    const dispatcher = new Dispatcher(options)
    await dispatcher.#takeUp()
    dispatcher.#planning = dispatcher.#planLoop()
    return dispatcher
  }

  // ----------------------------------------------------------------------------------------------------------------- clients

  async submit(request: SubmitRequest): Promise<SubmitResult> {
    const { presets, store, gpus, newId, clock, maxQueued } = this.#options
    const refused = (
      code: Extract<SubmitResult, { status: 'refused' }>['code'],
      message: string,
    ): SubmitResult => ({
      status: 'refused',
      code,
      message,
    })
    const { owner, priority, labels, idempotencyKey, affinity } = request
    const requestHash = hashOf(request)
    // First of all: a client that asks again whether its task was taken must hear so, full queue or not.
    const earlier = idempotencyKey === null ? null : await store.submitted(owner, idempotencyKey)
    if (earlier !== null) {
      const { task } = earlier
      return earlier.requestHash === requestHash
        ? { status: 'submitted', task, duplicate: true }
        : conflict(task)
    }
    if (this.#refusing) return refused('SHUTTING_DOWN', 'The service is stopping and takes no new tasks.')
    const gpuIds = request.gpuIds as readonly GpuId[] | null
    const resolved = presets.resolve({ ...request, gpuIds })
    if (resolved.status !== 'resolved') return resolved
    const { input } = resolved
    const inventory = gpus.list()
    // Settled now: what a task needs must not change with the cards that come and go while it waits.
    const spec = Object.freeze({
      ...resolved.spec,
      gpus: { ...resolved.spec.gpus, count: gpuCount(resolved.spec.gpus, inventory) },
    })
    if (spec.mode === 'SESSION') {
      return refused(
        'SESSIONS_NOT_SUPPORTED',
        `The preset ${spec.presetId} has mode: session, which this version cannot run yet.`,
      )
    }
    const missing = missingGpus(spec.gpus, inventory)
    if (missing !== null) return refused('NO_SUCH_GPU', missing)
    if (this.#queue.size >= maxQueued)
      return refused('QUEUE_FULL', `${maxQueued} tasks are waiting already. Try again later.`)

    const created = await store.create({
      id: newId() as TaskId,
      owner,
      presetId: request.presetId as PresetId,
      spec,
      input,
      labels,
      priority,
      idempotencyKey,
      requestHash,
      affinity,
      createdAt: clock.now(),
    })
    if (created.status === 'conflict') return conflict(created.task)
    const { task, duplicate } = created
    if (!duplicate) {
      this.#queue.set(task.id, queueEntry(task))
      this.taskChanges.changed(task.id)
      this.#nudge.nudge()
    }
    return { status: 'submitted', task, duplicate }
  }

  /** Answers when the request is stored. `null`: no such task. An ended task stays as it ended. */
  async cancel(id: TaskId, reason: string | null): Promise<Task | null> {
    const { store, clock } = this.#options
    const task = await store.requestCancel(id, { at: clock.now(), reason })
    if (task === null) return null
    if (task.status === 'CANCELLED' && this.#queue.delete(id)) {
      this.feeds.changed(id)
      this.#nudge.nudge()
    }
    if (task.stopReason !== null && !isFinal(task.status)) this.#attempts.get(id)?.stopFor(task.stopReason)
    this.taskChanges.changed(id)
    return task
  }

  /** 1 is next; `null` for a task that does not wait. */
  queuePosition(id: TaskId): number | null {
    if (!this.#queue.has(id)) return null
    const order = [...this.#queue.values()].sort(queueOrder)
    return order.findIndex((task) => task.id === id) + 1
  }

  /** Why a task waits, or why it ended as it did. */
  explain(task: Task): string | null {
    switch (task.status) {
      case 'QUEUED':
        return this.#plan.waiting.get(task.id) ?? 'It is about to be planned.'
      case 'STARTING':
        return this.#blocked ?? 'Its worker is starting.'
      case 'RUNNING':
        return task.cancelRequestedAt === null
          ? null
          : 'Its cancel was requested; the worker is being stopped.'
      case 'COMPLETED':
        return task.exitCode === 0 || task.exitCode === null
          ? 'The worker said that the task is completed.'
          : `The worker said that the task is completed, and then exited with code ${task.exitCode}.`
      case 'CANCELLED':
        return task.cancelReason === null ? 'It was cancelled.' : `It was cancelled: ${task.cancelReason}`
      case 'FAILED':
      case 'TIMED_OUT':
        return task.error?.message ?? null
    }
  }

  /** The tasks that have not ended. */
  activeTasks(): readonly TaskId[] {
    return [...this.#attempts.keys(), ...this.#queue.keys()]
  }

  /** The workers that have not exited, oldest first, as they are now. */
  workers(): readonly Worker[] {
    return [...this.#claims.values()]
  }

  /** Why no worker can be started at the moment; `null`: they can. */
  get blocked(): string | null {
    return this.#blocked
  }

  /** How many tasks wait and how many have a worker. */
  get load(): { readonly queued: number; readonly running: number } {
    return { queued: this.#queue.size, running: this.#attempts.size }
  }

  /** From now on submits are refused with SHUTTING_DOWN; everything else goes on. */
  refuse(): void {
    this.#refusing = true
  }

  /** Ends planning and lets go of the workers (or stops them), after everything that was read is stored. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#refusing = true
    this.#stopPlanning.abort()
    this.#nudge.nudge()
    await this.#planning
    if (this.#options.shutdown === 'stop') await this.#stopAll()
    this.#detach.abort()
    await this.#workEnds(DETACH_MS)
  }

  /** Waits for what is under way, but no longer than so: an engine that hangs must not keep the service. */
  async #workEnds(atMostMs: number): Promise<void> {
    const ended = new AbortController()
    const all = (async () => {
      while (this.#work.size > 0 && !ended.signal.aborted) await Promise.all(this.#work)
    })()
    await Promise.race([all, delay(this.#options.clock, atMostMs, ended.signal)])
    ended.abort()
  }

  /** Cancels what has a worker and waits for its end, as long as the workers may take for it and no longer than an engine that is away. */
  async #stopAll(): Promise<void> {
    const reason = 'The service was stopped (SHUTDOWN=stop).'
    const graceMs = Math.max(0, ...[...this.#attempts.values()].map((attempt) => attempt.stopGraceMs))
    await Promise.all([...this.#attempts.keys()].map((id) => this.cancel(id, reason)))
    await this.#workEnds(graceMs + STOP_MARGIN_MS)
  }

  // ------------------------------------------------------------------------------------------------------------------- start

  async #takeUp(): Promise<void> {
    const { store, logger } = this.#options
    const workers = new Map((await store.liveWorkers()).map((worker) => [worker.id, worker]))
    for (const task of await store.activeTasks()) {
      if (task.status === 'QUEUED') {
        this.#queue.set(task.id, queueEntry(task))
        continue
      }
      const worker = task.workerId === null ? undefined : workers.get(task.workerId)
      if (worker === undefined) {
        logger.error(
          { taskId: task.id },
          'A task is under way, but its worker is not known; it stays as it is.',
        )
        continue
      }
      workers.delete(worker.id)
      logger.info({ taskId: task.id, workerId: worker.id }, 'Taking up a worker of an earlier process.')
      const state =
        task.runningAt === null ? worker : { ...worker, status: 'WORKING' as const, readyAt: task.runningAt }
      this.#follow(task, state, false)
    }
    const known = new Set([...this.#claims.values()].map((worker) => worker.name))
    this.#spawn(this.#removeLeftovers(known, [...workers.values()]))
  }

  /** Workers of ours that no task needs: their task was settled, but the process died before they were removed or never recorded them. */
  async #removeLeftovers(known: ReadonlySet<WorkerName>, ended: readonly Worker[]): Promise<void> {
    const { runner, store, clock, logger } = this.#options
    for (
      let waitMs = FIRST_PROBE_MS;
      !this.#detach.signal.aborted;
      waitMs = Math.min(waitMs * 2, LAST_PROBE_MS)
    ) {
      try {
        const listed = await runner.list()
        const live = new Set([...known, ...[...this.#claims.values()].map((worker) => worker.name)])
        for (const { name } of listed.filter((worker) => !live.has(worker.name)))
          await this.#removeLeftover(name)
        for (const { id } of ended) await store.updateWorker(id, { status: 'EXITED', exitedAt: clock.now() })
        return
      } catch (error) {
        if (isAway(error)) this.#onReachable(false, error.message)
        else
          logger.error({ err: error }, 'What an earlier process left could not be looked at; trying again.')
        await delay(clock, waitMs, this.#detach.signal)
      }
    }
  }

  async #removeLeftover(name: WorkerName): Promise<void> {
    const { runner, logger } = this.#options
    logger.info({ worker: name }, 'Removing a worker that no task needs.')
    try {
      await runner.remove(name)
    } catch (error) {
      if (isAway(error)) throw error
      // One that cannot be removed must not keep the others; the next start tries again.
      logger.error({ err: error, worker: name }, 'A worker that no task needs could not be removed.')
    }
  }

  async #planLoop(): Promise<void> {
    const { signal } = this.#stopPlanning
    const { gpus, logger, clock } = this.#options
    const forget = gpus.onChange((changed) => {
      for (const id of changed) this.gpuChanges.changed(id)
      this.#nudge.nudge()
    })
    while (!signal.aborted) {
      const { version } = this.#nudge
      try {
        await this.#planOnce()
        await this.#nudge.waitPast(version, signal)
      } catch (error) {
        logger.error({ err: error }, 'Tasks could not be given to workers; trying again.')
        await delay(clock, FIRST_PROBE_MS, signal)
      }
    }
    forget()
  }

  async #planOnce(): Promise<void> {
    const { gpus, maxWorkers } = this.#options
    this.#plan = plan({
      queue: this.#queue.values(),
      workers: [...this.#claims.values()],
      gpus: gpus.list(),
      maxWorkers,
      blocked: this.#blocked,
    })
    for (const action of this.#plan.actions) await this.#claim(action.taskId, action.gpuIds, action.reason)
  }

  async #claim(id: TaskId, gpuIds: readonly GpuId[], reason: string): Promise<void> {
    const { store, newId, clock } = this.#options
    const task = this.#queue.get(id)
    if (task === undefined || this.#stopPlanning.signal.aborted) return
    const { presetId, mode } = task
    const workerId = newId() as WorkerId
    const name = `gpu-${store.installation}-${workerId}` as WorkerName
    const at = clock.now()
    const worker = { id: workerId, name, presetId, mode, gpuIds }
    const claimed = await store.claim({
      taskId: id,
      attempt: task.attempt + 1,
      after: task.lastSeq,
      at,
      reason,
      worker,
    })
    this.#queue.delete(id)
    if (claimed === null) return
    this.feeds.changed(id)
    this.taskChanges.changed(id)
    const state: Worker = {
      ...worker,
      status: 'STARTING',
      containerId: null,
      taskIds: [id],
      startedAt: at,
      readyAt: null,
      tasksServed: 0,
      cursor: OUTPUT_START,
      eventSeq: null,
      exit: null,
    }
    this.#follow(claimed, state, true)
  }

  #follow(task: Task, worker: Worker, isFresh: boolean): void {
    const attempt = new Attempt(this.#context, task, worker, this.#assigned(worker.gpuIds), isFresh)
    this.#attempts.set(task.id, attempt)
    this.#claims.set(worker.id, worker)
    for (const id of worker.gpuIds) this.gpuChanges.changed(id)
    this.#spawn(this.#runAttempt(task, worker, attempt))
  }

  async #runAttempt(task: Task, worker: Worker, attempt: Attempt): Promise<void> {
    const { store, logger } = this.#options
    try {
      if ((await attempt.run()) === 'detached') return
    } catch (error) {
      // Its worker and its GPUs stay as they are: somebody else holds the task, and the next start sorts it out.
      logger.error({ err: error, taskId: task.id, workerId: worker.id }, 'An attempt was given up.')
      return
    }
    this.#attempts.delete(task.id)
    this.#claims.delete(worker.id)
    for (const id of worker.gpuIds) this.gpuChanges.changed(id)
    this.#nudge.nudge()
    await attempt.cleanUp()
    this.feeds.forget(task.id)
    await store.compact(task.id)
  }

  #assigned(ids: readonly GpuId[]): readonly AssignedGpu[] {
    const gpus = this.#options.gpus.list()
    return ids.flatMap((id) => gpus.find((gpu) => gpu.id === id) ?? [])
  }

  #spawn(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => {
        this.#options.logger.error({ err: error }, 'Work in the background failed.')
      })
      .finally(() => this.#work.delete(tracked))
    this.#work.add(tracked)
  }

  // ------------------------------------------------------------------------------------------------- the runner's neighbour

  #onReachable(reachable: boolean, detail: string): void {
    const { logger } = this.#options
    if (reachable) {
      if (this.#blocked === null) return
      this.#blocked = null
      logger.info({}, 'Workers can be started again.')
      this.#nudge.nudge()
    } else if (this.#blocked === null) {
      this.#blocked = `No worker can be started: ${detail}`
      logger.warn({ detail }, 'No worker can be started; tasks wait.')
      this.#nudge.nudge()
      this.#spawn(this.#probe())
    }
  }

  async #probe(): Promise<void> {
    const { runner, clock } = this.#options
    for (let waitMs = FIRST_PROBE_MS; this.#blocked !== null; waitMs = Math.min(waitMs * 2, LAST_PROBE_MS)) {
      await delay(clock, waitMs, this.#detach.signal)
      if (this.#detach.signal.aborted) return
      const answered = await runner.list().then(
        () => true,
        () => false,
      )
      if (answered) this.#onReachable(true, '')
    }
  }
}

function isAway(error: unknown): error is RunnerError {
  return error instanceof RunnerError && error.code === 'ENGINE_UNAVAILABLE'
}

function conflict({ id }: Task): SubmitResult {
  const message = `The idempotency key was used for another request, which became task ${id}.`
  return { status: 'refused', code: 'IDEMPOTENCY_CONFLICT', message }
}

function queueEntry({ id, priority, spec, presetId, attempt, lastSeq }: Task): QueueEntry {
  return { id, priority, gpus: spec.gpus, presetId, mode: spec.mode, attempt, lastSeq }
}

/** Why this machine can never serve the need; `null`: it can. */
function missingGpus(need: GpuNeed, gpus: readonly Gpu[]): string | null {
  const unknown = (need.ids ?? []).filter((id) => !gpus.some((gpu) => gpu.id === id))
  if (need.count !== 0 && unknown.length > 0) return `This machine has no GPU ${unknown.join(', ')}.`
  const count = gpuCount(need, gpus)
  const allowed = allowedGpus(need, gpus).length
  if (count <= allowed) return null
  return allowed === gpus.length
    ? `The task needs ${count} GPUs, and this machine has ${gpus.length === 0 ? 'none' : gpus.length}.`
    : `The task needs ${count} GPUs, and of those that it may use this machine has ${allowed}.`
}

function hashOf(request: SubmitRequest): string {
  const { presetId, input, priority, labels, affinity, timeoutMs, gpuIds } = request
  return createHash('sha256')
    .update(canonicalJson({ presetId, input, priority, labels, affinity, timeoutMs, gpuIds }))
    .digest('hex')
}
