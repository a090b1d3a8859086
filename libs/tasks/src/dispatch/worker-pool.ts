import { delay } from '../clock.ts'
import type { DispatcherOptions, LiveWorker } from '../dispatcher.ts'
import type { Feeds } from '../feed.ts'
import type { ArtifactId, GpuId, TaskId, WorkerId, WorkerName } from '../ids.ts'
import { Leftovers } from '../housekeeping/leftovers.ts'
import { insist } from '../insist.ts'
import type { PlannedWorker } from '../planner/index.ts'
import type { AssignedGpu } from '../runner.ts'
import { isFinal, type Task } from '../task.ts'
import type { Worker } from '../worker.ts'
import type { Ending } from '../workers/event-writer.ts'
import type { Run } from '../workers/run.ts'
import { WorkerLife, type WorkerContext } from '../workers/worker-life.ts'
import { GpuMemory } from './gpu-memory.ts'
import { GpuReadings } from './gpu-readings.ts'
import { FIRST_PROBE_MS, isAway, LAST_PROBE_MS, Reachability } from './reachability.ts'
import type { WorkerHistories } from './worker-histories.ts'

/** Beside the workers' own grace periods, for the engine to stop and remove them. */
const STOP_MARGIN_MS = 15_000
/** Between tries to warm a worker that does not come up: the first, and at most. */
const FIRST_BACKOFF_MS = 10_000
const LAST_BACKOFF_MS = 300_000

export interface WorkerPoolEvents {
  readonly taskChanged: (id: TaskId) => void
  readonly workerChanged: (id: WorkerId) => void
  readonly gpuChanged: (id: GpuId) => void
  /** An attempt's end is stored. */
  readonly attemptEnded: (run: Run, ending: Ending) => void
  /** A task is RUNNING. */
  readonly attemptAlive: (run: Run, at: number) => void
  /** What can be planned has changed. */
  readonly changed: () => void
}

interface Entry {
  readonly life: WorkerLife
  isReleasing: boolean
  /** What of it a plan depends on, as it was when it last changed. */
  flags: string
  runs: number
  /** By how much the clock was set since the moments of its life that are older than that, by what it said then. */
  readonly shifts: Map<number, number>
}

/**
 * The workers of this installation: started, taken up after a restart, followed to their ends, their GPU memory awaited, and removed; and
 * what has been learned from them.
 */
export class WorkerPool {
  readonly #options: DispatcherOptions
  readonly #events: WorkerPoolEvents
  readonly #histories: WorkerHistories
  readonly #entries = new Map<WorkerId, Entry>()
  /** Lives and clean-ups that are under way. */
  readonly #work = new Set<Promise<void>>()
  readonly #detach = new AbortController()
  readonly #context: WorkerContext
  readonly #reachability: Reachability
  readonly #leftovers: Leftovers
  /** Workers that have ended and are being removed. */
  readonly #removing = new Set<WorkerName>()
  readonly #backoff = new Map<string, { failures: number; notBefore: number }>()
  /** Those whose load time has been noted. */
  readonly #loaded = new WeakSet<WorkerLife>()
  readonly #runningAt = new WeakMap<Run, number>()
  /** Which GPU memory is whose. */
  readonly memory: GpuMemory
  readonly readings = new GpuReadings()

  constructor(
    options: DispatcherOptions,
    feeds: Feeds,
    histories: WorkerHistories,
    events: WorkerPoolEvents,
  ) {
    this.#options = options
    this.#events = events
    this.#histories = histories
    this.memory = new GpuMemory(options)
    this.#reachability = new Reachability({
      ...options,
      signal: this.#detach.signal,
      onChange: events.changed,
    })
    this.#leftovers = new Leftovers({
      ...options,
      lives: () => this.lives(),
      isBeingRemoved: (name) => this.#removing.has(name),
    })
    this.#context = {
      ...options,
      feeds,
      newArtifactId: () => options.newId() as ArtifactId,
      detach: this.#detach.signal,
      taskChanged: events.taskChanged,
      workerChanged: (life) => {
        this.#onChanged(life)
      },
      attemptAlive: (life, run, at) => {
        this.#onAlive(life, run, at)
      },
      attemptEnded: (life, run, ending) => {
        this.#onEnded(life, run, ending)
      },
      memoryTold: (life, memoryMb) => {
        this.memory.told(life.worker.id, memoryMb)
      },
      gpuReadings: (ids) => this.readings.of(ids),
      reachable: (reachable, detail) => {
        this.#reachability.note(reachable, detail)
      },
    }
  }

  /** How many workers that nobody needed have been removed. */
  get removedLeftovers(): number {
    return this.#leftovers.removed
  }

  /** Why no worker can be started at the moment; `null`: they can. */
  get blocked(): string | null {
    return this.#reachability.blocked ?? this.#options.room.full
  }

  get(id: WorkerId): WorkerLife | undefined {
    return this.#entries.get(id)?.life
  }

  lives(): readonly WorkerLife[] {
    return [...this.#entries.values()].map(({ life }) => life)
  }

  /** The life that works on the task, if one does. */
  lifeOf(id: TaskId): WorkerLife | undefined {
    return this.lives().find((life) => life.runs.some(({ task }) => task.id === id))
  }

  /** The tasks that have a worker. */
  tasks(): readonly Task[] {
    return this.lives().flatMap((life) => life.runs.map(({ task }) => task))
  }

  taskIds(): readonly TaskId[] {
    return this.tasks().map(({ id }) => id)
  }

  /** A session worker of the spec that could not be warmed is not tried again before this. */
  notBefore(specHash: string): number {
    return this.#backoff.get(specHash)?.notBefore ?? 0
  }

  /** As the planner sees them. */
  planned(): readonly PlannedWorker[] {
    return [...this.#entries.values()].map(({ life, isReleasing, shifts }): PlannedWorker => {
      const { worker, runs } = life
      const { id, presetId, specHash, mode, claim, owner, spec, startedAt, readyAt, tasksServed } = worker
      const shifted = (at: number): number => at + (shifts.get(at) ?? 0)
      return {
        ...{ id, presetId, specHash, mode, claim, owner, tasksServed },
        startedAt: shifted(startedAt),
        readyAt: readyAt === null ? null : shifted(readyAt),
        phase: life.isEnding || isReleasing ? 'ending' : readyAt === null ? 'starting' : 'ready',
        usedMb: this.memory.usedBy(id),
        session: spec.session,
        runningSince: runs.map(({ task }) => shifted(task.startedAt ?? startedAt)),
        runningOwners: runs.map(({ task }) => task.owner),
        runningKeys: runs.map(({ task }) => task.keyId),
        retiring: life.retiring,
        idleSince: life.idleSince === null ? null : shifted(life.idleSince),
        affinities: life.affinities,
      }
    })
  }

  /** The clock was set forward by so many milliseconds (back: below 0): nothing is older or younger by it. */
  clockJumped(ms: number): void {
    for (const { life, shifts } of this.#entries.values()) {
      const { worker, runs, idleSince } = life
      const moments = [worker.startedAt, worker.readyAt, idleSince, ...runs.map(({ task }) => task.startedAt)]
      const before = new Map(shifts)
      shifts.clear()
      for (const at of moments) if (at !== null) shifts.set(at, (before.get(at) ?? 0) + ms)
    }
    for (const backoff of this.#backoff.values()) backoff.notBefore += ms
  }

  /** As clients see them, but for the explanation. */
  live(life: WorkerLife): Omit<LiveWorker, 'explanation'> {
    const { worker, idleSince } = life
    const { spec, id } = worker
    const used = [...this.memory.usedBy(id).values()]
    const idleMs = spec.session === null || spec.session.pinned ? null : spec.session.idleMs
    return {
      ...worker,
      peakMemoryMb: this.memory.peakOf(id) ?? worker.peakMemoryMb,
      loadMs: life.loadMs,
      loadProgress: life.loadProgress,
      idleSince,
      endsAt: idleSince === null || idleMs === null ? null : idleSince + idleMs,
      memoryUsedMb: used.length === 0 ? null : used.reduce((sum, mb) => sum + mb, 0),
    }
  }

  /** Follows a worker whose row is written: one that is to be started, or, after a restart, one that may be there. */
  add(worker: Worker, tasks: readonly Task[], isFresh: boolean): WorkerLife {
    const { gpuIds, memoryMb } = worker.claim
    const life = new WorkerLife(this.#context, worker, tasks, this.#assigned(gpuIds), isFresh)
    this.#entries.set(worker.id, {
      life,
      isReleasing: false,
      flags: '',
      runs: tasks.length,
      shifts: new Map(),
    })
    this.memory.claimed(worker, memoryMb ?? worker.spec.gpus.memoryMb ?? 0, isFresh)
    for (const id of gpuIds) this.#events.gpuChanged(id)
    this.#events.workerChanged(worker.id)
    this.#spawn(this.#live(life))
    return life
  }

  /** Takes up what an earlier process of this installation left. */
  async takeUp(tasks: readonly Task[]): Promise<void> {
    const { store, logger } = this.#options
    const ended = new Set<WorkerId>()
    const workers = await store.liveWorkers()
    for (const worker of workers) {
      const own = tasks.filter(({ workerId }) => workerId === worker.id)
      // Its task is settled, but it was not removed any more.
      if (own.length === 0 && worker.mode === 'ONE_OFF') {
        ended.add(worker.id)
        continue
      }
      logger.info({ workerId: worker.id, tasks: own.length }, 'Taking up a worker of an earlier process.')
      const aliveAt = worker.mode === 'ONE_OFF' ? (own[0]?.runningAt ?? null) : null
      this.add(aliveAt === null ? worker : { ...worker, status: 'WORKING', readyAt: aliveAt }, own, false)
    }
    const known = new Set(workers.map(({ id }) => id))
    for (const task of tasks)
      if (task.workerId === null || !known.has(task.workerId)) await this.#takeUpStray(task)
    void this.#removeLeftovers(ended)
  }

  /** A task that was given to a worker which had ended: what the runner still knows of it decides, most likely that it is lost. */
  async #takeUpStray(task: Task): Promise<void> {
    const { store, logger } = this.#options
    const worker = task.workerId === null ? null : await store.worker(task.workerId)
    if (worker === null) {
      const what = 'A task is under way, but its worker is not known; it stays as it is.'
      logger.error({ taskId: task.id }, what)
      return
    }
    logger.warn({ taskId: task.id, workerId: worker.id }, 'Taking up a task whose worker had ended.')
    this.add({ ...worker, status: 'STOPPING' }, [task], false)
  }

  /** Lets go of the workers, which go on. */
  detach(): void {
    this.#detach.abort()
  }

  /** Has all workers end, as long as they may take for it and no longer than an engine that is away. Their tasks are cancelled before. */
  async stopAll(): Promise<void> {
    const graceMs = Math.max(0, ...this.lives().map(({ worker }) => worker.spec.timeouts.stopGraceMs))
    for (const life of this.lives())
      if (life.worker.mode === 'SESSION') void life.end('The service was stopped (SHUTDOWN=stop).')
    await this.workEnds(graceMs + STOP_MARGIN_MS)
  }

  /** Waits for what is under way, but no longer than so: an engine that hangs must not keep the service. */
  async workEnds(atMostMs: number): Promise<void> {
    const ended = new AbortController()
    const all = (async () => {
      while (this.#work.size > 0 && !ended.signal.aborted) await Promise.all(this.#work)
    })()
    await Promise.race([all, delay(this.#options.clock, atMostMs, ended.signal)])
    ended.abort()
  }

  async #live(life: WorkerLife): Promise<void> {
    const { logger } = this.#options
    const { id } = life.worker
    try {
      if ((await life.run()) === 'detached') return
    } catch (error) {
      // The worker and its GPUs stay as they are: somebody else holds its task, and the next start sorts it out.
      logger.error({ err: error, workerId: id }, 'A worker was given up.')
      return
    }
    await Promise.all([this.#release(life), this.#remove(life)])
    this.#entries.delete(id)
    this.#onChanged(life)
    for (const gpuId of life.worker.claim.gpuIds) this.#events.gpuChanged(gpuId)
    this.#events.changed()
  }

  /** Its claim stands until the GPUs' memory is back: the next worker would not fit beside what is still there. */
  async #release(life: WorkerLife): Promise<void> {
    const { store, clock } = this.#options
    const { id, specHash, mode, claim } = life.worker
    const entry = this.#entries.get(id)
    if (entry !== undefined) entry.isReleasing = true
    const peakMb = this.memory.peakOf(id)
    if (peakMb !== null) this.#histories.peaked(specHash, peakMb)
    if (mode === 'SESSION' && life.wasInVain) this.#backOff(specHash)
    const isFree = claim.gpuIds.length === 0 || (await this.memory.released(id, this.#detach.signal))
    // The container's removal takes its time and holds nothing.
    this.#entries.delete(id)
    this.#events.changed()
    if (!isFree || claim.gpuIds.length === 0) return
    const gpuFreeAt = clock.now()
    for (const { taskId, attempt } of life.stoppedWithIt) {
      const record = (): Promise<void> => store.recordRelease(taskId, attempt, { gpuFreeAt })
      await insist(this.#context, 'record a free GPU', { taskId }, this.#detach.signal, record)
      this.#events.taskChanged(taskId)
    }
  }

  async #remove(life: WorkerLife): Promise<void> {
    const { id, name } = life.worker
    const peakMemoryMb = this.memory.peakOf(id)
    this.#removing.add(name)
    await life
      .cleanUp(peakMemoryMb === null ? {} : { peakMemoryMb })
      .finally(() => this.#removing.delete(name))
  }

  #backOff(specHash: string): void {
    const { clock } = this.#options
    const failures = (this.#backoff.get(specHash)?.failures ?? 0) + 1
    const waitMs = Math.min(FIRST_BACKOFF_MS * 2 ** (failures - 1), LAST_BACKOFF_MS)
    this.#backoff.set(specHash, { failures, notBefore: clock.now() + waitMs })
  }

  #onChanged(life: WorkerLife): void {
    const { id, specHash, mode } = life.worker
    const { loadMs } = life
    if (mode === 'SESSION' && loadMs !== null && !this.#loaded.has(life)) {
      this.#loaded.add(life)
      this.#histories.loaded(specHash, loadMs)
    }
    this.#events.workerChanged(id)
    const entry = this.#entries.get(id)
    if (entry === undefined) return
    const { isEnding, isOpen, retiring, runs } = life
    const flags = `${isEnding} ${isOpen} ${retiring !== null}`
    // One that has taken a task offers nothing that the plan which gave it did not know of.
    const isNews = flags !== entry.flags || runs.length < entry.runs
    entry.flags = flags
    entry.runs = runs.length
    if (isNews) this.#events.changed()
  }

  #onAlive(life: WorkerLife, run: Run, at: number): void {
    const { mode, specHash, startedAt, readyAt } = life.worker
    if (mode === 'ONE_OFF') this.#histories.loaded(specHash, at - startedAt)
    const claimedAt = run.task.startedAt
    if (mode === 'SESSION' && claimedAt !== null && readyAt !== null && readyAt <= claimedAt)
      this.#histories.handedOver(specHash, at - claimedAt)
    this.#runningAt.set(run, at)
    this.#events.attemptAlive(run, at)
  }

  #onEnded(life: WorkerLife, run: Run, ending: Ending): void {
    if (run.transcript.finish !== null) this.#backoff.delete(life.worker.specHash)
    const runningAt = this.#runningAt.get(run)
    if (runningAt !== undefined && run.transcript.finish?.status === 'completed')
      this.#histories.ran(life.worker.specHash, this.#options.clock.now() - runningAt)
    for (const id of life.worker.claim.gpuIds) this.#events.gpuChanged(id)
    this.#events.attemptEnded(run, ending)
  }

  #assigned(ids: readonly GpuId[]): readonly AssignedGpu[] {
    const gpus = this.#options.gpus.list()
    return ids.flatMap((id) => gpus.find((gpu) => gpu.id === id) ?? [])
  }

  /** Removes what nobody needs, at once and then again and again until the service lets go of its workers. */
  async #removeLeftovers(ended: ReadonlySet<WorkerId>): Promise<void> {
    const { clock, housekeepingMs } = this.#options
    const { signal } = this.#detach
    for (let retryMs = FIRST_PROBE_MS, isFirst = true; !signal.aborted;) {
      const round = this.#removeLeftoversOnce(isFirst ? ended : new Set())
      this.#spawn(round.then(() => undefined))
      const isDone = await round
      isFirst &&= !isDone
      await delay(clock, isFirst ? retryMs : housekeepingMs, signal)
      retryMs = Math.min(retryMs * 2, LAST_PROBE_MS)
    }
  }

  async #removeLeftoversOnce(ended: ReadonlySet<WorkerId>): Promise<boolean> {
    try {
      await this.#leftovers.round(ended)
      return true
    } catch (error) {
      if (isAway(error)) this.#reachability.note(false, error.message)
      else
        this.#options.logger.error({ err: error }, 'What nobody needs could not be looked for; trying again.')
      return false
    }
  }

  #spawn(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => {
        this.#options.logger.error({ err: error }, 'Work in the background failed.')
      })
      .finally(() => this.#work.delete(tracked))
    this.#work.add(tracked)
  }
}

/** Whether a task's row says that a worker is on it. */
export function isUnderWay({ status }: Task): boolean {
  return status !== 'QUEUED' && !isFinal(status)
}
