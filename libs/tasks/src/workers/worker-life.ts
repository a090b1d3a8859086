import type { ArtifactFiles } from '../artifact-files.ts'
import { chargeOf } from '../charge.ts'
import { delay, leftOf, type Clock } from '../clock.ts'
import type { Feeds } from '../feed.ts'
import type { GpuReading } from '../evidence.ts'
import type { ArtifactId, GpuId, TaskId } from '../ids.ts'
import { insist } from '../insist.ts'
import type { Logger } from '../logger.ts'
import type { AssignedGpu, PullProgress, RunOrder, WorkerRunner, WorkerState } from '../runner.ts'
import type { SecretSources } from '../secrets.ts'
import type { TaskStore, WorkerPatch } from '../store.ts'
import type { StopReason, Task, TaskRelease } from '../task.ts'
import type { Worker } from '../worker.ts'
import { CommandChannel } from './command-channel.ts'
import { EventWriter, type Ending } from './event-writer.ts'
import { isPoisoned, type AttemptEnd, type Outcome } from './outcome.ts'
import { RecentKeys } from './recent-keys.ts'
import { DETACHED, Reading } from './reading.ts'
import { runOrderOf } from './run-order.ts'
import { CATCH_UP_MS, Run, type RunEvents } from './run.ts'
import { StopLadder } from './stop-ladder.ts'
import type { Transcript } from './transcript.ts'
import { endText, endUnderTask, type WorkerEnd } from './worker-end.ts'
import { WorkerStart } from './worker-start.ts'

/** What a worker's life needs of its surroundings. */
export interface WorkerContext {
  readonly store: TaskStore
  readonly runner: WorkerRunner
  readonly artifactFiles: ArtifactFiles
  readonly secrets: SecretSources
  readonly feeds: Feeds
  readonly clock: Clock
  readonly logger: Logger
  readonly newArtifactId: () => ArtifactId
  /** Aborted when the service lets go of its workers; they go on without it. */
  readonly detach: AbortSignal
  /** The task's row has changed in a way that a watcher of tasks wants to see. */
  readonly taskChanged: (task: TaskId) => void
  /** Something of the worker has changed, or of what it can take. */
  readonly workerChanged: (life: WorkerLife) => void
  /** A task is RUNNING since `at`. */
  readonly attemptAlive: (life: WorkerLife, run: Run, at: number) => void
  /** An attempt's end is stored. */
  readonly attemptEnded: (life: WorkerLife, run: Run, ending: Ending) => void
  /** The worker told of the memory that it uses on a GPU. */
  readonly memoryTold: (life: WorkerLife, memoryMb: number) => void
  /** What the meters of these GPUs showed lately. */
  readonly gpuReadings: (ids: readonly GpuId[]) => readonly GpuReading[]
  /** The runner's neighbour is away (`false`) or has answered again (`true`). */
  readonly reachable: (reachable: boolean, detail: string) => void
}

/** Between SIGTERM and SIGKILL of a session worker that has let its grace period pass already. */
const LAST_GRACE_MS = 500
/** So long a runner may take to read on when its neighbour answers again. */
const HEARING_MS = 3_000
/** Run ids of a session worker that have ended and are remembered, so that a late word is told from a foreign one. */
const MAX_PAST = 1_000
const MAX_AFFINITIES = 1_000
/** Between the clocks of the engine and of the service. */
const MAX_SKEW_MS = 5_000
/** A session worker that has written so much ends once it is idle: after a restart of the service its log is read again. */
const MAX_LOG_BYTES = 64 * 1024 * 1024

/**
 * One worker from its start (or its adoption after a restart of the service) to its end: it is started, given tasks, read, stopped and
 * removed here, and the end of each of its attempts is stored.
 *
 * A one-off worker gets its task as it starts, and the task ends with it. A session worker is given tasks as they come; each ends with its
 * `finish`, and those that it leaves behind end with it.
 */
export class WorkerLife {
  readonly #context: WorkerContext
  readonly #start: WorkerStart
  readonly #isFresh: boolean
  #worker: Worker
  readonly #writer: EventWriter
  readonly #reading: Reading
  readonly #channel: CommandChannel
  readonly #runs = new Map<string, Run>()
  /** Those of them that the worker has got (of a session worker: that were handed over). */
  readonly #handed = new Map<string, Transcript>()
  /** Run ids that have ended. */
  readonly #past = new RecentKeys<true>(MAX_PAST)
  readonly #affinities = new RecentKeys<number>(MAX_AFFINITIES)
  readonly #timers = new Set<Disposable>()
  /** Attempts that were stopped, not ended by themselves. */
  readonly #stopped: { readonly taskId: TaskId; readonly attempt: number }[] = []
  readonly #ended = new AbortController()
  readonly #ladder: StopLadder
  /** Its end was asked for with what it works on. */
  #forced = false
  /** Somebody asked for its end before it was ready. */
  #endedByOthers = false
  #startedAt: number | null = null
  #hungAfterFinish = false
  /** Its readiness is stored, so that tasks may be handed over. */
  #open: boolean
  #retiring: string | null
  #idleSince: number | null
  #loadProgress: number | null = null
  #bytesRead = 0
  #poisoned = false

  /**
   * @param tasks Those that it works on: one of a one-off worker, any number of a session worker.
   * @param isFresh Its row has just been written: nothing of the worker can be there yet.
   */
  constructor(
    context: WorkerContext,
    worker: Worker,
    tasks: readonly Task[],
    gpus: readonly AssignedGpu[],
    isFresh: boolean,
  ) {
    this.#context = context
    this.#isFresh = isFresh
    this.#worker = worker
    this.#open = worker.readyAt !== null
    this.#retiring = worker.endReason
    this.#forced = worker.status === 'STOPPING'
    this.#idleSince = this.#open && tasks.length === 0 ? context.clock.now() : null
    this.#channel = new CommandChannel({ ...context, name: worker.name, ended: this.#ended.signal })
    this.#ladder = new StopLadder({
      ...context,
      workerId: worker.id,
      channel: this.#channel,
      stop: (graceMs) => {
        const stop = (): Promise<void> => context.runner.stop(worker.name, { graceMs })
        void this.#insist('stop the worker', this.#ended.signal, stop)
      },
      onChange: () => {
        this.#changed()
      },
    })
    this.#start = new WorkerStart({
      ...{ context, worker, gpus, ladder: this.#ladder },
      runs: () => this.runs,
      onStarted: ({ containerId, startedAt, imageDigest }) => {
        this.#changeWorker({ containerId, ...(imageDigest !== undefined && { imageDigest }) })
        this.#armDeadlines(startedAt)
      },
      onPull: (progress) => {
        this.#tellOfPull(progress)
      },
    })
    this.#writer = new EventWriter(context, worker.id, worker.cursor)
    for (const task of tasks) this.#addRun(task)
    this.#reading = new Reading({
      ...{ context, worker, isFresh, writer: this.#writer, runs: this.#runs, handed: this.#handed },
      isPast: (runId) => this.#past.has(runId),
      sink: {
        onReady: (at) => {
          this.#onReady(at)
        },
        onLoading: (progress) => {
          this.#loadProgress = progress
          this.#changed()
        },
        onMemory: (memoryMb) => {
          context.memoryTold(this, memoryMb)
        },
        onForeign: (runId, isFinish) => {
          this.#onForeign(runId, isFinish)
        },
        onFinished: (transcript) => {
          this.#onFinished(transcript)
        },
        onExit: (exit) => {
          this.#changeWorker({ exit })
        },
        onBytes: (bytes) => {
          this.#countLog(bytes)
        },
      },
    })
  }

  /** As it is now. */
  get worker(): Worker {
    const taskIds = this.runs.map(({ task }) => task.id)
    return { ...this.#worker, status: this.#status, taskIds, endReason: this.#retiring }
  }

  /** The attempts that it works on. */
  get runs(): readonly Run[] {
    return [...this.#runs.values()]
  }

  /** Why it takes no more tasks; `null`: it takes them, if it is of sessions. */
  get retiring(): string | null {
    return this.#retiring
  }

  /** Its end is under way or over. */
  get isEnding(): boolean {
    return this.#ladder.isStopping || this.#ended.signal.aborted
  }

  /** A session worker is ready, and that is stored: it can be given tasks at once. */
  get isOpen(): boolean {
    return this.#open
  }

  /** It came to nothing, and nobody had asked for its end. */
  get wasInVain(): boolean {
    return this.#worker.tasksServed === 0 && !this.#endedByOthers
  }

  /** From the start of its container (or process) to its readiness, in milliseconds; `null` while it is not ready. */
  get loadMs(): number | null {
    const { readyAt, startedAt } = this.#worker
    return readyAt === null ? null : Math.max(0, readyAt - (this.#startedAt ?? startedAt))
  }

  get idleSince(): number | null {
    return this.#idleSince
  }

  get loadProgress(): number | null {
    return this.#loadProgress
  }

  /** The attempts that were stopped and took the worker with them. */
  get stoppedWithIt(): readonly { readonly taskId: TaskId; readonly attempt: number }[] {
    return this.#stopped
  }

  /** When it was given the last task of each affinity key. */
  get affinities(): ReadonlyMap<string, number> {
    return this.#affinities.all
  }

  get #status(): Worker['status'] {
    if (this.#worker.status === 'EXITED') return 'EXITED'
    if (this.isEnding) return 'STOPPING'
    if (this.#worker.readyAt === null) return 'STARTING'
    return this.#runs.size > 0 ? 'WORKING' : 'READY'
  }

  get #isSession(): boolean {
    return this.#worker.mode === 'SESSION'
  }

  /**
   * Starts the worker and follows it until it has ended and the ends of all its attempts are stored.
   * @returns `ended` with the worker still to be removed, or `detached`.
   * @throws StaleWriteError where somebody else holds one of its tasks; the worker is left alone.
   */
  async run(): Promise<'ended' | 'detached'> {
    const end = await this.#follow()
    this.#ended.abort()
    this.#ladder[Symbol.dispose]()
    for (const timer of this.#timers) timer[Symbol.dispose]()
    this.#channel.detach()
    if (end.kind !== 'detached' && !this.#context.detach.aborted) await this.#settleAll(end)
    for (const run of this.#runs.values()) run.over()
    await this.#writer.idle()
    // What could not be stored any more is read again by the next start: the cursor has not moved over it.
    if (this.#context.detach.aborted || end.kind === 'detached') return 'detached'
    this.#writer.broken.throwIfAborted()
    return 'ended'
  }

  /** Removes the ended worker and says so in its row; tries again while the runner's neighbour is away. */
  async cleanUp(more: Pick<WorkerPatch, 'peakMemoryMb'>): Promise<void> {
    const { runner, store, clock, detach } = this.#context
    const { id, name, readyAt, exit } = this.#worker
    // What it said is gone with it: what was stored of that must not be lost any more, not even with the power.
    await this.#insist('make its end durable', detach, () => store.sync())
    const removed = await this.#insist('remove the worker', detach, () => runner.remove(name))
    if (removed === null) return
    const exitedAt = clock.now()
    const patch: WorkerPatch = {
      status: 'EXITED',
      exitedAt,
      exit,
      ...(readyAt !== null && { readyAt }),
      ...(this.#retiring !== null && { endReason: this.#retiring }),
      ...more,
    }
    await this.#insist("record the worker's exit", detach, () => store.updateWorker(id, patch))
    this.#changeWorker({ status: 'EXITED', exitedAt })
  }

  /** Gives a session worker one more task; it is handed over as soon as the worker is ready. */
  take(task: Task): void {
    const run = this.#addRun(task)
    this.#idleSince = null
    if (this.isEnding || this.#retiring !== null) {
      this.#endRun(run, {
        kind: 'unacknowledged',
        detail: 'The session worker ended before it got the task.',
      })
      return
    }
    if (this.#open) void this.#handOver(run)
    else if (this.#startedAt !== null) run.armStartTimeout(this.#startedAt)
    this.#changed()
  }

  /** Takes over a stop reason that has been recorded in the task's row, and has the worker stop working on it. */
  stopTask(id: TaskId, reason: StopReason, cancelReason: string | null): void {
    const run = this.runs.find(({ task }) => task.id === id)
    if (run === undefined || run.stopReason !== null) return
    run.stopFor(reason, cancelReason)
    this.#stopRun(run)
  }

  /**
   * Ends a session worker: when it is idle, or, with `force`, at once with what it works on. The first reason stays. Resolves when that is
   * recorded, so that a restart of the service does not forget it.
   */
  end(reason: string, force = false): Promise<void> {
    this.#endedByOthers ||= this.#retiring === null
    return this.#retire(reason, force)
  }

  async #retire(reason: string, force = false): Promise<void> {
    const { store } = this.#context
    const isNew = this.#retiring === null || (force && !this.#forced)
    this.#retiring ??= reason
    this.#forced ||= force
    const endReason = this.#retiring
    if (isNew) this.#writeOwn('warning', endReason)
    const patch: WorkerPatch = { endReason, ...(force && { status: 'STOPPING' }) }
    if (force || this.#runs.size === 0) this.#shutDown()
    this.#changed()
    if (!isNew) return
    const record = (): Promise<void> => store.updateWorker(this.#worker.id, patch)
    await this.#insist('record why the worker ends', this.#ended.signal, record)
  }

  // ------------------------------------------------------------------------------------------------------------------ start

  async #follow(): Promise<WorkerEnd | typeof DETACHED> {
    try {
      const beginning = await (this.#isFresh ? this.#start.start() : this.#start.find())
      if (beginning.kind !== 'there') return beginning
      this.#ladder.there()
      this.#catchUp()
      return await this.#reading.read()
    } catch (error) {
      const { logger, runner, detach } = this.#context
      if (detach.aborted) return DETACHED
      logger.error({ err: error, workerId: this.#worker.id }, 'Following the worker failed.')
      await this.#insist('stop the worker', detach, () => runner.stop(this.#worker.name, { graceMs: 0 }))
      return { kind: 'lost', detail: error instanceof Error ? error.message : String(error) }
    }
  }

  /** What was asked of the worker before it was there. */
  #catchUp(): void {
    if (this.#retiring !== null && (this.#forced || this.#runs.size === 0)) this.#shutDown()
    for (const run of this.runs) {
      if (run.stopReason !== null) this.#stopRun(run)
      else if (this.#isSession && run.handedAt !== null) run.armRunTimeout(run.handedAt)
      else if (this.#isSession && this.#open) {
        // An earlier process may have handed it over, or not: the worker says so, or it goes to another one.
        const now = this.#context.clock.now()
        this.#setHanded(run, now)
        run.armRunTimeout(run.task.startedAt ?? now)
        run.armAcknowledgement()
      }
    }
  }

  #tellOfPull({ message, progress }: PullProgress): void {
    const body = { type: 'worker', status: 'pulling', message, progress } as const
    this.#writer.aside(this.#context.clock.now(), () => {
      if (this.#isSession) this.#writer.writeWorker(body)
      for (const run of this.runs) run.transcript.write(body)
    })
  }

  // ---------------------------------------------------------------------------------------------------------------- sessions

  /** The readiness goes into the store with the event that told it; only then are tasks handed over. */
  #onReady(at: number): void {
    this.#loadProgress = null
    const patch: WorkerPatch = this.#forced ? { readyAt: at } : { status: 'READY', readyAt: at }
    this.#writer.changeWorker(patch, () => {
      this.#open = true
      if (this.#ended.signal.aborted || this.#context.detach.aborted) return
      if (this.#runs.size === 0) this.#idleSince = this.#context.clock.now()
      for (const run of this.runs) void this.#handOver(run)
      if (this.#runs.size === 0 && this.#retiring !== null) this.#shutDown()
      this.#changed()
    })
    this.#changeWorker({ status: 'READY', readyAt: at })
  }

  #setHanded(run: Run, at: number): void {
    run.handedAt = at
    this.#handed.set(run.id, run.transcript)
  }

  async #handOver(run: Run): Promise<void> {
    const describe = (): Promise<RunOrder> => runOrderOf(run.task, this.#context)
    const order = await this.#insist('describe the task to its worker', run.unwanted, describe)
    if (order === null) return
    const delivery = await this.#channel.run(order.value, {
      isWanted: () => !run.isOver && run.handedAt === null && run.stopReason === null,
      beforeSending: () => {
        const at = this.#context.clock.now()
        this.#setHanded(run, at)
        run.armRunTimeout(at)
        run.armAcknowledgement()
      },
      onUnsent: () => {
        run.takeBack()
        this.#handed.delete(run.id)
      },
    })
    if (delivery.kind === 'refused')
      this.#giveBack(run, `The task could not be handed to its session worker: ${delivery.message}`)
  }

  #onUnacknowledged(run: Run): void {
    const { ackMs } = run.task.spec.timeouts
    this.#giveBack(run, `The session worker did not take the task within ${ackMs} ms (timeouts.acknowledge).`)
  }

  #giveBack(run: Run, detail: string): void {
    if (run.isOver || run.transcript.isAlive) return
    this.#endRun(run, { kind: 'unacknowledged', detail })
    void this.#retire(`It did not take task ${run.task.id}.`)
  }

  #onForeign(runId: string, isFinish: boolean): void {
    const name = JSON.stringify(runId.slice(0, 200))
    const handed = this.runs.filter((run) => run.handedAt !== null)
    for (const run of handed) {
      // Who answers for another task has not understood the one that it got.
      const detail = `The session worker answered for another task (${name}).`
      if (!run.transcript.isAlive) this.#endRun(run, { kind: 'unacknowledged', detail })
      else if (isFinish && handed.length === 1) {
        const given = `The session worker said the finish of another task (${name}); nothing more is to be expected of this one.`
        this.#endRun(run, { kind: 'given-up', detail: given })
      }
    }
    void this.#retire('It answered for a task that it was never given.')
  }

  #onFinished(transcript: Transcript): void {
    const run = this.runs.find((candidate) => candidate.transcript === transcript)
    if (run === undefined) return
    if (transcript.finish !== null && isPoisoned(transcript.finish)) {
      this.#poisoned = true
      void this.#retire('A task failed in a way that leaves its GPU context or its memory in doubt.')
    }
    // Nobody asked for it: the worker itself is being ended, by us, by its engine or by hand.
    const isGivenUp = transcript.finish?.status === 'cancelled' && run.stopReason === null
    const why = this.isEnding ? `it was being ended: ${this.#retiring ?? ''}` : 'nobody had asked it to.'
    const detail = `The session worker gave the task up; ${why}`
    this.#endRun(run, isGivenUp ? { kind: 'given-up', detail } : { kind: 'finished' })
  }

  /** After a restart of the service all that the engine keeps of it may have to be looked through. */
  #countLog(bytes: number): void {
    this.#bytesRead += bytes
    if (this.#isSession && this.#bytesRead > MAX_LOG_BYTES && this.#retiring === null)
      void this.#retire(`Its log has grown over ${MAX_LOG_BYTES / 1024 / 1024} MB.`)
  }

  // ------------------------------------------------------------------------------------------------------------------- runs

  #addRun(task: Task): Run {
    const { clock, attemptAlive } = this.#context
    if (task.affinity !== null) this.#affinities.note(task.affinity, clock.now())
    const events: RunEvents = {
      onOverdue: (run, reason) => {
        if (reason === 'silence' || reason === 'output-lost') void this.#doubtSilence(run, reason)
        else void this.#stopAfter(run, reason)
      },
      onUnacknowledged: (run) => {
        this.#onUnacknowledged(run)
      },
      onAlive: (run, at) => {
        attemptAlive(this, run, at)
        if (!this.#isSession) this.#changeWorker({ status: 'WORKING', readyAt: this.#writer.at })
      },
      onFinish: () => {
        if (!this.#isSession) this.#armFinishGrace(task)
      },
    }
    const isAlive = task.runningAt !== null
    const run = new Run(clock, events, task, this.#writer, isAlive ? task.runningAt : null)
    this.#runs.set(run.id, run)
    if (isAlive || !this.#isSession) this.#handed.set(run.id, run.transcript)
    return run
  }

  /** Writes the attempt's last event; what it comes to is stored with the next commit. */
  #endRun(
    run: Run,
    end: AttemptEnd['end'],
    stored: { readonly task: Task | null; readonly at: number } | null = null,
  ): Outcome {
    const { clock, attemptEnded } = this.#context
    const { imageDigest, spec } = this.#worker
    const { outcome, evidence } = run.outcome(end, {
      stored: stored?.task ?? null,
      hungAfterFinish: this.#hungAfterFinish,
      workerWords: this.#reading.lastWords,
      worker: { imageDigest, spec },
      gpuReadings: () => this.#context.gpuReadings(run.task.gpuIds),
    })
    const now = clock.now()
    // No earlier than its worker's last word, which the engine has stamped; but a clock that was set back is believed.
    const at = Math.max(now, Math.min(this.#writer.at, now + MAX_SKEW_MS))
    const retryAt = run.retryAt(outcome, now)
    const { status, error, failureClass, exitCode, reason } = outcome
    const output = run.transcript.output()
    const ending: Ending = {
      ...{ status, at, error, failureClass, exitCode, evidence, output },
      charge: chargeOf(run.task, at),
      ...(retryAt !== null && { retryAt }),
    }
    const text = retryAt === null ? reason : retryText(run.task.attempt, outcome, retryAt - now)
    run.over()
    this.#runs.delete(run.id)
    this.#handed.delete(run.id)
    this.#past.note(run.id, true)
    this.#worker = { ...this.#worker, tasksServed: this.#worker.tasksServed + 1 }
    this.#writer.aside(at, () => {
      run.writer.end(ending, text, () => {
        attemptEnded(this, run, ending)
      })
    })
    if (run.stopReason !== null) {
      // A session worker that goes on keeps its GPUs.
      if (stored !== null) this.#stopped.push({ taskId: run.task.id, attempt: run.task.attempt })
      this.#recordRelease(run, { stoppedAt: stored?.at ?? at, killed: stored !== null && this.#wasKilled })
    }
    if (this.#runs.size === 0) this.#becomeIdle(at)
    this.#changed()
    return outcome
  }

  #becomeIdle(at: number): void {
    if (!this.#isSession || this.#ended.signal.aborted) return
    this.#idleSince = this.#open ? at : null
    if (this.#retiring !== null) this.#shutDown()
  }

  /** The worker is gone: so are the attempts that it still had. */
  async #settleAll(end: WorkerEnd): Promise<void> {
    const { store, detach } = this.#context
    if (this.#isSession && this.#retiring === null) this.#tellEnd(end)
    if (this.runs.length > 0) await this.#reading.recall().catch(() => undefined)
    for (const run of this.runs) {
      const row = await this.#insist('read the task', detach, () => store.task(run.task.id))
      if (row === null) return
      const ended = this.#isSession ? endUnderTask(end, this.#ladder.isStopping, this.#retiring) : end
      const stoppedAt = end.kind === 'exited' ? end.exit.finishedAt : this.#context.clock.now()
      this.#endRun(run, ended, { task: row.value, at: stoppedAt })
    }
    this.#reading.close()
  }

  /** Nobody has asked for the end of the session worker: the reason is kept with it, since there may be no task to tell it. */
  #tellEnd(end: WorkerEnd): void {
    const { logger } = this.#context
    this.#retiring = endText(end)
    const { id, presetId } = this.#worker
    logger.warn({ workerId: id, presetId, reason: this.#retiring }, 'A session worker ended by itself.')
    this.#writeOwn('error', this.#retiring)
  }

  /** A word of the service's own in the worker's log. */
  #writeOwn(level: string, line: string): void {
    this.#writer.aside(this.#context.clock.now(), () => {
      this.#writer.writeWorker({ type: 'log', stream: 'STDERR', level, line })
    })
  }

  get #wasKilled(): boolean {
    return this.#ladder.isSignalled && this.#worker.exit?.exitCode === 137
  }

  #recordRelease(run: Run, release: Partial<TaskRelease>): void {
    const { store, detach, taskChanged } = this.#context
    const { id, attempt } = run.task
    void this.#writer
      .idle()
      .then(() =>
        this.#insist('record how the task was stopped', detach, () =>
          store.recordRelease(id, attempt, release),
        ),
      )
      .then(() => {
        taskChanged(id)
      })
  }

  // ------------------------------------------------------------------------------------------------------------------- stop

  #armDeadlines(startedAt: number): void {
    this.#startedAt = startedAt
    const { clock } = this.#context
    if (!this.#isSession) {
      for (const run of this.runs) {
        run.armStartTimeout(startedAt)
        run.armRunTimeout(startedAt)
        if (run.transcript.finish !== null) this.#armFinishGrace(run.task)
      }
    } else if (!this.#open) {
      for (const run of this.runs) run.armStartTimeout(startedAt)
      const { startMs } = this.#worker.spec.timeouts
      // Its tasks have the same deadline, and give it up with their own code.
      const leftMs = leftOf(clock, startedAt, startMs)
      // What it has said while nobody listened is read first: it may be ready by now.
      this.#after(leftMs < 0 ? CATCH_UP_MS + LAST_GRACE_MS : leftMs + LAST_GRACE_MS, () => {
        if (!this.#open) void this.#retire(`It was not ready within ${startMs} ms (timeouts.start).`, true)
      })
    }
  }

  #armFinishGrace(task: Task): void {
    this.#after(task.spec.timeouts.finishGraceMs, () => {
      this.#hungAfterFinish = true
      this.#ladder.signal(task.spec.timeouts.stopGraceMs)
    })
  }

  #after(ms: number, callback: () => void): void {
    const timer = this.#context.clock.after(Math.max(0, ms), () => {
      this.#timers.delete(timer)
      callback()
    })
    this.#timers.add(timer)
  }

  /**
   * Nothing was heard of the worker for too long. That is its own silence only where it could have been heard: where what it runs on answers,
   * and what it may have said meanwhile has had the time to be read.
   */
  async #doubtSilence(run: Run, reason: 'silence' | 'output-lost'): Promise<void> {
    const { clock, runner } = this.#context
    const { heardAt } = run
    const look = (): Promise<WorkerState> => runner.inspect(this.#worker.name)
    if (!this.#reading.isBehind) {
      await this.#insist('look at the worker', this.#ended.signal, look)
      await delay(clock, HEARING_MS, this.#ended.signal)
    }
    if (run.isOver || this.#ended.signal.aborted) return
    if (this.#reading.isBehind || run.heardAt !== heardAt) {
      run.armSilence()
      return
    }
    if (reason === 'output-lost') {
      await this.#reading.recall().catch(() => undefined)
      if (!run.transcript.isInDoubt) {
        run.trustEnd()
        return
      }
    }
    void this.#stopAfter(run, reason)
  }

  async #stopAfter(run: Run, reason: StopReason): Promise<void> {
    const { store } = this.#context
    const { id, attempt } = run.task
    const record = (): Promise<Task> => store.recordStop(id, attempt, reason)
    const recorded = await this.#insist('record the stop', this.#ended.signal, record)
    const stopReason = recorded?.value.stopReason ?? null
    if (stopReason !== null) this.stopTask(id, stopReason, recorded?.value.cancelReason ?? null)
  }

  #stopRun(run: Run): void {
    const { stopGraceMs } = run.task.spec.timeouts
    if (run.stopReason === 'gpu-lost') {
      // Nothing that runs on it can be asked politely for long.
      this.#retiring ??= 'A GPU that it holds was lost.'
      this.#ladder.signal(Math.min(stopGraceMs, LAST_GRACE_MS))
    } else if (!this.#isSession) this.#ladder.signal(stopGraceMs)
    else if (run.handedAt === null) {
      const isStuck = run.stopReason === 'start-timeout'
      this.#endRun(run, { kind: 'finished' })
      if (isStuck) void this.#retire('It did not become ready in time (timeouts.start).', true)
    } else void this.#cancelRun(run, stopGraceMs)
  }

  /** A session worker is asked to stop the one task; if it does not, or cannot be asked, it ends with all of them. */
  async #cancelRun(run: Run, graceMs: number): Promise<void> {
    const delivery = await this.#channel.cancel(run.id, {
      isWanted: () => !run.isOver,
      // The grace begins when the worker can have heard of it.
      beforeSending: () => {
        run.armCancelGrace(graceMs, () => {
          void this.#retire(`It did not stop task ${run.task.id} within ${graceMs} ms.`)
          this.#ladder.signal(Math.min(graceMs, LAST_GRACE_MS))
        })
      },
      onUnsent: () => {
        run.dropCancelGrace()
      },
    })
    if (delivery.kind !== 'refused' || run.isOver) return
    void this.#retire(`It could not be asked to stop task ${run.task.id}: ${delivery.message}`)
    this.#ladder.signal(graceMs)
  }

  /** Asks a session worker to end by its own protocol first, where it can be expected to heed it. */
  #shutDown(): void {
    const { stopGraceMs } = this.#worker.spec.timeouts
    if (this.#open && this.#runs.size === 0 && !this.#poisoned) this.#ladder.ask(stopGraceMs)
    else this.#ladder.signal(stopGraceMs)
  }

  #changeWorker(change: Partial<Worker>): void {
    this.#worker = { ...this.#worker, ...change }
    this.#changed()
  }

  #changed(): void {
    this.#context.workerChanged(this)
  }

  #insist<T>(
    what: string,
    signal: AbortSignal,
    action: () => Promise<T>,
  ): Promise<{ readonly value: T } | null> {
    return insist(this.#context, what, { workerId: this.#worker.id }, signal, action)
  }
}

function retryText(attempt: number, { error, reason }: Outcome, waitMs: number): string {
  const when = waitMs > 0 ? `in ${waitMs / 1_000} s` : 'at once'
  return `Attempt ${attempt} failed (${error?.code ?? 'FAILED'}); it is tried again ${when}. ${reason ?? ''}`.trim()
}
