import type { Actor } from '../audit.ts'
import { delay } from '../clock.ts'
import type { DispatcherOptions } from '../dispatcher.ts'
import type { GpuId, PresetId, TaskId, WorkerId, WorkerName } from '../ids.ts'
import { Nudge } from '../nudge.ts'
import {
  createOutlook,
  DEFAULT_RULES,
  type Outlook,
  type Plan,
  type PlanAction,
  type PlanInput,
  type QueuedTask,
  type WantedSession,
} from '../planner/index.ts'
import { OUTPUT_START } from '../runner.ts'
import { specHashOf } from '../spec-hash.ts'
import type { WorkerSpec } from '../spec.ts'
import type { Claim, GpuDrain, NewWorker } from '../store.ts'
import type { StopReason, Task } from '../task.ts'
import type { GpuClaim, Worker } from '../worker.ts'
import type { WorkerLife } from '../workers/worker-life.ts'
import type { EstimateCalibration } from './calibration.ts'
import type { KeyUsage } from './key-usage.ts'
import { plannedGpus } from './live-gpus.ts'
import { hashInForce, settled } from './submission.ts'
import type { TaskQueue } from './task-queue.ts'
import type { WorkerHistories } from './worker-histories.ts'
import type { WorkerPool } from './worker-pool.ts'

const RETRY_PLAN_MS = 250
/** How late the plan may be that first knows of a task behind others of its kind. */
const SOON_MS = 20
/** What is told to those who ask is made anew after so long, though nothing has changed but the time and what is measured. */
const OUTLOOK_MS = 250
/** In longer queues no estimates are made unasked. */
const MAX_ESTIMATED_QUEUE = 200
/** A forecast costs as much as many plans. */
const PREDICT_EVERY_MS = 1_000

export type StartAction = Extract<PlanAction, { kind: 'start' }>
export type AssignAction = Extract<PlanAction, { kind: 'assign' }>

export interface PlanLoopOptions extends DispatcherOptions {
  readonly queue: TaskQueue
  readonly pool: WorkerPool
  readonly histories: WorkerHistories
  readonly calibration: EstimateCalibration
  readonly drains: ReadonlyMap<GpuId, GpuDrain>
  readonly keyUsage: KeyUsage
  /** The task's row and its events have changed: it was claimed, or has waited too long. */
  readonly taskChanged: (id: TaskId) => void
}

interface EarlyStop {
  readonly reason: StopReason
  readonly cancelReason: string | null
}

/** A task that is being given to a worker; `life` is `null` where that is still to be started. */
interface Pending {
  readonly claim: Claim
  readonly life: WorkerLife | null
}

/**
 * Asks the planner again whenever something has changed, and carries out what it says. One plan at a time: a plan is made from what the
 * ones before it have done.
 */
export class PlanLoop {
  readonly #options: PlanLoopOptions
  readonly #nudge = new Nudge()
  readonly #stop = new AbortController()
  /** Tasks that are being claimed, with the stops that were asked of them meanwhile. */
  readonly #claiming = new Map<TaskId, EarlyStop | null>()
  #plan: Plan = { actions: [], waiting: new Map(), wakeAt: null }
  #outlook: { readonly version: number; readonly madeAt: number; readonly outlook: Outlook } | null = null
  #wake: Disposable | null = null
  #predictedAt = -Infinity
  #soon: Disposable | null = null
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: PlanLoopOptions) {
    this.#options = options
  }

  /** Says that a plan may come out differently now. */
  nudge(): void {
    this.#nudge.nudge()
  }

  /** Takes a new task into the queue. Where others of its kind wait already, it cannot start either: a plan soon is soon enough. */
  enqueue(task: Task): void {
    const { queue, clock } = this.#options
    const isOneOfMany = queue.hasOf(specHashOf(task.spec))
    queue.add(task, clock.now())
    this.#outlook = null
    if (!isOneOfMany) this.#nudge.nudge()
    else
      this.#soon ??= clock.after(SOON_MS, () => {
        this.#soon = null
        this.#nudge.nudge()
      })
  }

  /** Why the task did not start by the last plan; `null`: it has not been planned yet. */
  waitingReason(id: TaskId): string | null {
    return this.#plan.waiting.get(id)?.reason ?? null
  }

  /** Plans until it is stopped. */
  async run(): Promise<void> {
    const { logger, clock } = this.#options
    const { signal } = this.#stop
    while (!signal.aborted) {
      const { version } = this.#nudge
      try {
        await this.inTurn(() => this.#planOnce())
        await this.#nudge.waitPast(version, signal)
        // What else comes in this turn of the event loop is planned with it.
        await new Promise(setImmediate)
      } catch (error) {
        logger.error({ err: error }, 'Tasks could not be given to workers; trying again.')
        await delay(clock, RETRY_PLAN_MS, signal)
      }
    }
  }

  /** Ends `run`; what it is carrying out is finished. */
  stop(): void {
    this.#stop.abort()
    this.#wake?.[Symbol.dispose]()
    this.#soon?.[Symbol.dispose]()
    this.#nudge.nudge()
  }

  /** Runs `work` between two plans, when nothing that was decided is still being carried out. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work)
    this.#turn = result.catch(() => undefined)
    return result
  }

  /** A stop was recorded for a task that no worker is on: `true` where it is just being given to one, which then hears of it. */
  stopEarly(id: TaskId, reason: StopReason, cancelReason: string | null): boolean {
    if (!this.#claiming.has(id)) return false
    this.#claiming.set(id, { reason, cancelReason })
    return true
  }

  /** What a plan is made from at the moment, with more tasks behind those that wait. */
  input(more: readonly QueuedTask[] = []): PlanInput {
    const { gpus, presets, maxWorkers, maxPassMs, pool, histories, drains, keyUsage, clock } = this.#options
    const now = clock.now()
    const inventory = gpus.list()
    const inForce = new Map(presets.presets().map((preset) => [preset.id, hashInForce(preset, inventory)]))
    return {
      now,
      queue: [...this.#options.queue.entries(), ...more],
      workers: pool.planned(),
      gpus: plannedGpus(inventory, drains),
      wanted: this.#wanted(inForce),
      inForce,
      factsOf: (specHash) => histories.facts(specHash, now),
      keys: keyUsage.caps(now),
      maxWorkers,
      blocked: pool.blocked,
      rules: { ...DEFAULT_RULES, maxPassMs },
    }
  }

  /** What can be told of the moment; kept for as long as nothing changes, and not for long. */
  outlook(): Outlook {
    const { version } = this.#nudge
    const kept = this.#outlook
    const madeAt = this.#options.clock.monotonic()
    if (kept?.version === version && madeAt - kept.madeAt < OUTLOOK_MS) return kept.outlook
    const outlook = createOutlook(this.input())
    this.#outlook = { version, madeAt, outlook }
    return outlook
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
      const notBefore = this.#options.pool.notBefore(specHash)
      return [{ presetId: id, specHash, gpus: need, session, count: session.prewarm, notBefore }]
    })
  }

  async #planOnce(): Promise<void> {
    const { clock, queue, pool } = this.#options
    const now = clock.now()
    for (const id of queue.overdue(now)) await this.#expire(id, now)
    const { version } = this.#nudge
    const outlook = createOutlook(this.input())
    this.#plan = outlook.plan
    this.#outlook = { version, madeAt: clock.monotonic(), outlook }
    this.#armWake(now)
    const { actions } = this.#plan
    for (const action of actions)
      if (action.kind === 'end') void pool.get(action.workerId)?.end(action.reason)
    const claiming = actions.filter(
      (action): action is StartAction | AssignAction => action.kind !== 'end' && action.taskId !== null,
    )
    if (claiming.length > 0) await this.#claim(claiming)
    for (const action of actions)
      if (action.kind === 'start' && action.taskId === null) await this.#prewarm(action)
    this.#predict(outlook)
  }

  #armWake(now: number): void {
    this.#wake?.[Symbol.dispose]()
    const dueAt = Math.min(this.#plan.wakeAt ?? Infinity, this.#options.queue.nextDueAt ?? Infinity)
    this.#wake =
      dueAt === Infinity
        ? null
        : this.#options.clock.after(Math.max(1, dueAt - now), () => {
            this.#nudge.nudge()
          })
  }

  /** Estimates are made though nobody asked, so that it is known how good they are. */
  #predict(outlook: Outlook): void {
    const { queue, calibration, clock } = this.#options
    const now = clock.monotonic()
    if (queue.size > MAX_ESTIMATED_QUEUE || now - this.#predictedAt < PREDICT_EVERY_MS) return
    this.#predictedAt = now
    for (const id of outlook.plan.waiting.keys()) {
      if (calibration.isPredicted(id)) continue
      const estimate = outlook.estimate(id)
      if (estimate !== null) calibration.predicted(id, estimate)
    }
  }

  async #expire(id: TaskId, at: number): Promise<void> {
    const { store, queue, calibration, taskChanged } = this.#options
    const entry = queue.get(id)
    const waitedMs = entry === undefined ? 0 : at - Math.max(entry.queuedAt, entry.retryAt ?? 0)
    const why = this.waitingReason(id) ?? ''
    const message =
      `It waited ${waitedMs} ms in the queue, longer than it may (timeouts.queue). ${why}`.trim()
    const error = { code: 'QUEUE_TIMEOUT', message }
    const ended = await store.endQueued(id, { at, status: 'TIMED_OUT', error })
    queue.delete(id)
    calibration.forget(id)
    if (ended !== null) taskChanged(id)
  }

  async #claim(actions: readonly (StartAction | AssignAction)[]): Promise<void> {
    const { store, clock, queue } = this.#options
    const pending = (await Promise.all(actions.map((action) => this.#pendingFor(action)))).filter(
      (found) => found !== null,
    )
    if (pending.length === 0 || this.#stop.signal.aborted) return
    const at = clock.now()
    for (const { claim } of pending) this.#claiming.set(claim.taskId, null)
    try {
      const claimed = await store.claim(pending.map(({ claim }) => ({ ...claim, at })))
      pending.forEach((one, index) => {
        queue.delete(one.claim.taskId)
        this.#outlook = null
        const task = claimed[index] ?? null
        if (task !== null) this.#give(task, one, at)
      })
    } finally {
      for (const { claim } of pending) this.#claiming.delete(claim.taskId)
    }
  }

  /** The task is claimed: its worker gets it, and hears of a stop that came meanwhile. */
  #give(task: Task, { claim: { worker }, life }: Pending, at: number): void {
    const { pool, taskChanged } = this.#options
    taskChanged(task.id)
    let server = life
    if ('spec' in worker) {
      server = pool.add(freshWorker({ ...worker, at }), [task], true)
      // Others may share it.
      this.#nudge.nudge()
    } else server?.take(task)
    const stop = this.#claiming.get(task.id) ?? null
    if (stop !== null) server?.stopTask(task.id, stop.reason, stop.cancelReason)
  }

  async #pendingFor(action: StartAction | AssignAction): Promise<Pending | null> {
    const { taskId, reason } = action
    const { queue, pool, store } = this.#options
    const entry = taskId === null ? undefined : queue.get(taskId)
    if (taskId === null || entry === undefined) return null
    const claim = { taskId, attempt: entry.attempt + 1, after: entry.lastSeq, at: 0, reason }
    if (action.kind === 'assign') {
      const life = pool.get(action.workerId)
      if (life === undefined) return null
      const { id, claim: held } = life.worker
      return { claim: { ...claim, worker: { id, claim: held }, warm: action.warm }, life }
    }
    const task = await store.task(taskId)
    if (task === null) return null
    const owner = entry.session?.isolation === 'owner' ? entry.owner : null
    const worker = this.#workerRow(entry.presetId, task.spec, action.claim, owner)
    return { claim: { ...claim, worker, warm: false }, life: null }
  }

  #workerRow(presetId: PresetId, spec: WorkerSpec, claim: GpuClaim, owner: string | null): NewWorker {
    const { store, newId, clock } = this.#options
    const id = newId() as WorkerId
    const name = `gpu-${store.installation}-${id}` as WorkerName
    const at = clock.now()
    return { id, name, presetId, mode: spec.mode, spec, specHash: specHashOf(spec), owner, claim, at }
  }

  async #prewarm({ presetId, claim, reason }: StartAction): Promise<void> {
    const { presets, gpus } = this.#options
    const preset = presets.preset(presetId)
    if (preset === null || this.#stop.signal.aborted) return
    await this.startWorker(presetId, settled(preset.spec, gpus.list()), claim, reason, null)
  }

  /** Starts a session worker that no task has asked for. To be called in turn. */
  async startWorker(
    presetId: PresetId,
    spec: WorkerSpec,
    claim: GpuClaim,
    reason: string,
    owner: string | null,
    by?: Actor,
  ): Promise<WorkerLife> {
    const { store, logger, pool } = this.#options
    const row = this.#workerRow(presetId, spec, claim, owner)
    await store.createWorker(row, by)
    this.#outlook = null
    logger.info({ workerId: row.id, presetId, reason }, 'Starting a session worker that no task asked for.')
    return pool.add(freshWorker(row), [], true)
  }
}

function freshWorker({ at, ...worker }: NewWorker): Worker {
  return {
    ...worker,
    status: 'STARTING',
    containerId: null,
    imageDigest: null,
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
