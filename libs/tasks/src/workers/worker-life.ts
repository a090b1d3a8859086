import type { ArtifactFiles, Taken } from './artifact-files.ts'
import { delay, type Clock } from './clock.ts'
import { EventWriter } from './event-writer.ts'
import type { Feeds } from './feed.ts'
import { runIdOf, type ArtifactId } from './ids.ts'
import { Interpreter } from './interpreter.ts'
import type { Logger } from './logger.ts'
import { outcomeOf, type AttemptEnd } from './outcome.ts'
import {
  RunnerError,
  type AssignedGpu,
  type OutputStream,
  type PullProgress,
  type StartFailure,
  type StartResult,
  type WorkerOrder,
  type WorkerRunner,
} from './runner.ts'
import type { TaskStore } from './store.ts'
import type { StopReason, Task } from './task.ts'
import type { Worker } from './worker.ts'

/** What an attempt needs of its surroundings. */
export interface AttemptContext {
  readonly store: TaskStore
  readonly runner: WorkerRunner
  readonly artifactFiles: ArtifactFiles
  readonly feeds: Feeds
  readonly clock: Clock
  readonly logger: Logger
  readonly newArtifactId: () => ArtifactId
  /** Aborted when the service lets go of its workers; they go on without it. */
  readonly detach: AbortSignal
  /** The task's row has changed in a way that a watcher of tasks wants to see. */
  readonly taskChanged: (task: Task['id']) => void
  /** The worker has changed. */
  readonly workerChanged: (worker: Worker) => void
  /** The runner's neighbour is away (`false`) or has answered again (`true`). */
  readonly reachable: (reachable: boolean, detail: string) => void
}

const FIRST_RETRY_MS = 150
const LAST_RETRY_MS = 5_000
const RECALL_EVENTS = 1_000
/** How long the output that has gathered may take to be read before a deadline that has passed unseen counts. */
const CATCH_UP_MS = 2_000

/** The worker's output ended, or could not begin; `detached`: the service let go of the worker, which goes on. */
type End = AttemptEnd['end'] | { readonly kind: 'detached' }

const DETACHED = { kind: 'detached' } as const

/**
 * One execution of a task by a one-off worker, from the start of the worker (or its adoption after a restart of the service) to the
 * stored final state and the removed worker.
 */
export class Attempt {
  readonly #context: AttemptContext
  readonly #task: Task
  readonly #gpus: readonly AssignedGpu[]
  readonly #isFresh: boolean
  #worker: Worker
  readonly #writer: EventWriter
  readonly #interpreter: Interpreter

  #stopReason: StopReason | null
  readonly #stopAsked = new AbortController()
  /** The engine went away while it was asked to start the worker. */
  #mayHaveStarted = false
  /** The worker is there, so that it can be stopped. */
  #begun = false
  #hungAfterFinish = false
  readonly #timers: Disposable[] = []
  readonly #ended = new AbortController()

  /** @param isFresh The claim has just been made: nothing of the worker can be there yet. */
  constructor(
    context: AttemptContext,
    task: Task,
    worker: Worker,
    gpus: readonly AssignedGpu[],
    isFresh: boolean,
  ) {
    this.#context = context
    this.#isFresh = isFresh
    this.#task = task
    this.#gpus = gpus
    this.#worker = worker
    this.#stopReason = task.stopReason
    const { id: taskId, attempt, lastSeq } = task
    const { id: workerId, cursor } = worker
    const writer = new EventWriter(context, { taskId, attempt, lastSeq, workerId, cursor })
    this.#writer = writer
    this.#interpreter = new Interpreter({
      runId: this.#runId,
      newArtifactId: context.newArtifactId,
      takeArtifact: (id, source) => this.#takeArtifact(id, source),
      eventSeq: worker.eventSeq ?? (cursor.stdout === '' ? 0 : null),
      seen: { signOfLife: task.runningAt !== null, text: task.firstTextAt !== null, finish: task.finish },
      sink: {
        write: (body) => {
          writer.write(body)
        },
        onSignOfLife: () => {
          writer.change({ status: 'RUNNING', runningAt: writer.at })
          writer.write({ type: 'status', taskStatus: 'RUNNING', reason: null })
          this.#changeWorker({ status: 'WORKING', readyAt: writer.at })
        },
        onFirstText: () => {
          writer.change({ firstTextAt: writer.at })
        },
        onFinish: (finish) => {
          writer.change({ finish })
          this.#armFinishGrace()
        },
        onArtifact: (artifact) => {
          writer.announce(artifact)
        },
      },
    })
  }

  /** How long its worker may take to end when it is asked to, in milliseconds. */
  get stopGraceMs(): number {
    return this.#task.spec.timeouts.stopGraceMs
  }

  /**
   * Starts the worker and follows it to the stored final state.
   * @returns `settled` with the worker still to be removed, or `detached`.
   * @throws StaleWriteError where somebody else holds the task; the worker is left alone.
   */
  async run(): Promise<'settled' | 'detached'> {
    const end = await this.#follow()
    this.#ended.abort()
    for (const timer of this.#timers) timer[Symbol.dispose]()
    await this.#writer.idle()
    // What could not be stored any more is read again by the next start: the cursor has not moved over it.
    if (this.#context.detach.aborted) return 'detached'
    this.#writer.broken.throwIfAborted()
    if (end.kind === 'detached') return 'detached'
    return this.#settle(end)
  }

  /** Removes the ended worker and says so in its row; tries again while the runner's neighbour is away. */
  async cleanUp(): Promise<void> {
    const { runner, store, clock, detach } = this.#context
    const { id, name, readyAt, exit } = this.#worker
    const removed = await this.#insist('remove the worker', detach, () => runner.remove(name))
    if (removed === null) return
    await this.#insist("record the worker's exit", detach, () =>
      store.updateWorker(id, {
        status: 'EXITED',
        exitedAt: clock.now(),
        exit,
        ...(readyAt !== null && { readyAt }),
      }),
    )
  }

  /** Takes over a stop reason that has been recorded in the task's row, and stops the worker for it. */
  stopFor(reason: StopReason): void {
    if (this.#stopReason !== null) return
    this.#stopReason = reason
    this.#stopAsked.abort()
    this.#stopWorker()
  }

  get #runId(): string {
    return runIdOf(this.#task.id, this.#task.attempt)
  }

  // ------------------------------------------------------------------------------------------------------------------ start

  async #follow(): Promise<End> {
    try {
      const end = await this.#begin()
      if (end !== null) return end
      this.#begun = true
      if (this.#stopReason !== null) this.#stopWorker()
      return await this.#read()
    } catch (error) {
      const { logger, runner } = this.#context
      logger.error(
        { err: error, taskId: this.#task.id, workerId: this.#worker.id },
        'Following the worker failed.',
      )
      await this.#insist('stop the worker', this.#context.detach, () =>
        runner.stop(this.#worker.name, { graceMs: 0 }),
      )
      return { kind: 'lost', detail: error instanceof Error ? error.message : String(error) }
    }
  }

  /** `null`: the worker has been started (or found), its output can be read. */
  async #begin(): Promise<End | null> {
    const { runner, store, detach } = this.#context
    // A cancel may have been recorded before this attempt could be told of it.
    const row = await this.#insist('read the task', detach, () => store.task(this.#task.id))
    this.#stopReason ??= row?.value?.stopReason ?? null
    if (this.#isFresh) return this.#start()
    const isRecalled = await this.#recall()
    const found = await this.#insist('look at the worker', detach, () => runner.inspect(this.#worker.name))
    if (!isRecalled || found === null) return DETACHED
    const state = found.value
    switch (state.phase) {
      case 'running':
        this.#armTimeout(state.startedAt)
        return null
      case 'exited':
        return null
      case 'unknown':
        // Never start a worker a second time: one that was there once is read as far as it can be, and is lost.
        return this.#worker.containerId === null && this.#task.runningAt === null ? this.#start() : null
      case 'created':
        return this.#start()
    }
  }

  async #start(): Promise<End | null> {
    const { clock, store, detach, reachable } = this.#context
    const { attempt, spec, input } = this.#task
    const order: WorkerOrder = {
      name: this.#worker.name,
      workerId: this.#worker.id,
      spec,
      gpus: this.#gpus,
      run: { runId: this.#runId, attempt, input },
    }
    const unwanted = AbortSignal.any([detach, this.#stopAsked.signal])
    for (let waitMs = FIRST_RETRY_MS; ; waitMs = Math.min(waitMs * 2, LAST_RETRY_MS)) {
      if (detach.aborted) return DETACHED
      if (this.#stopReason !== null) return this.#giveUpStart()
      const result = await this.#tryStart(order, unwanted)
      if (result.status === 'started') {
        reachable(true, '')
        const { containerId, imageDigest } = result
        this.#changeWorker({ containerId })
        this.#armTimeout(result.startedAt)
        const record = (): Promise<void> => store.updateWorker(this.#worker.id, { containerId, imageDigest })
        return (await this.#insist("record the worker's start", detach, record)) === null ? DETACHED : null
      }
      if (result.code === 'START_ABANDONED') continue
      if (result.code !== 'ENGINE_UNAVAILABLE') return { kind: 'start-failed', failure: result }
      reachable(false, `${result.message} ${result.hint}`.trim())
      await delay(clock, waitMs, unwanted)
    }
  }

  /** An engine that went away in the middle may have started the worker; trying again under the same name finds it. */
  async #tryStart(order: WorkerOrder, signal: AbortSignal): Promise<StartResult> {
    const onPull = (progress: PullProgress): void => {
      this.#tellOfPull(progress)
    }
    try {
      return await this.#context.runner.start(order, { signal, onPull })
    } catch (error) {
      if (!(error instanceof RunnerError) || error.code !== 'ENGINE_UNAVAILABLE')
        return this.#startBroke(error)
      this.#mayHaveStarted = true
      return { status: 'failed', code: error.code, message: error.message, hint: '' }
    }
  }

  /** Nothing that a runner foresees: its own files cannot be written, the disk is full. What there may be of the worker is removed. */
  #startBroke(error: unknown): StartFailure {
    this.#context.logger.error({ err: error, taskId: this.#task.id }, 'A worker could not be started.')
    const message = `The worker could not be started: ${error instanceof Error ? error.message : String(error)}.`
    return {
      status: 'failed',
      code: 'ENGINE_REFUSED',
      message,
      hint: "Check the service's data folder and its log.",
    }
  }

  #tellOfPull({ message, progress }: PullProgress): void {
    this.#writer.beginStretch(this.#context.clock.now())
    this.#writer.write({ type: 'worker', status: 'pulling', message, progress })
    this.#writer.endStretch(this.#writer.cursor, message.length, this.#interpreter.eventSeq)
  }

  /** The task is to be stopped before its worker was seen to start; `null`: it has started all the same, and must be stopped itself. */
  async #giveUpStart(): Promise<End | null> {
    const failure: StartFailure = {
      status: 'failed',
      code: 'START_ABANDONED',
      message: 'It was not started.',
      hint: '',
    }
    if (!this.#mayHaveStarted) return { kind: 'start-failed', failure }
    const { runner, detach } = this.#context
    const found = await this.#insist('look at the worker', detach, () => runner.inspect(this.#worker.name))
    if (found === null) return DETACHED
    const { phase } = found.value
    return phase === 'running' || phase === 'exited' ? null : { kind: 'start-failed', failure }
  }

  /** After a restart of the service: what the stored events say of this attempt. `false`: the service stops again. */
  async #recall(): Promise<boolean> {
    const { store, detach } = this.#context
    const { id, attempt, lastSeq } = this.#task
    for (let after = 0; after < lastSeq;) {
      const from = after
      const found = await this.#insist('read the events', detach, () => store.events(id, from, RECALL_EVENTS))
      if (found === null) return false
      for (const event of found.value) if (event.attempt === attempt) this.#interpreter.recall(event.body)
      after = found.value.at(-1)?.seq ?? lastSeq
    }
    return true
  }

  // ------------------------------------------------------------------------------------------------------------------- read

  async #read(): Promise<End> {
    const { runner, detach, clock } = this.#context
    const writer = this.#writer
    const signal = AbortSignal.any([detach, writer.broken])
    for await (const item of runner.output(this.#worker.name, { after: writer.cursor, signal })) {
      switch (item.kind) {
        case 'data': {
          writer.beginStretch(item.at)
          await this.#interpreter.feed(item.stream, item.bytes)
          const cursor: Record<OutputStream, string> = { ...writer.cursor }
          cursor[item.stream] = item.cursor
          writer.endStretch(cursor, item.bytes.length, this.#interpreter.eventSeq)
          await writer.ready()
          break
        }
        case 'gap':
          writer.beginStretch(clock.now())
          this.#interpreter.gap(item.detail)
          writer.endStretch(writer.cursor, item.detail.length, this.#interpreter.eventSeq)
          break
        case 'end':
          this.#changeWorker({ exit: item.exit })
          await this.#endOfOutput(item.exit.finishedAt)
          return { kind: 'exited', exit: item.exit }
        case 'lost':
          await this.#endOfOutput(clock.now())
          return { kind: 'lost', detail: item.detail }
      }
    }
    return DETACHED
  }

  /** The stretch stays open: a last line without a newline moves no cursor, so only the settlement may store what it says. */
  async #endOfOutput(at: number): Promise<void> {
    this.#writer.beginStretch(Math.max(this.#writer.at, at))
    await this.#interpreter.end()
  }

  async #takeArtifact(
    id: ArtifactId,
    source:
      { readonly kind: 'path'; readonly path: string } | { readonly kind: 'data'; readonly data: string },
  ): Promise<Taken> {
    const { artifactFiles, runner, logger } = this.#context
    const folder = runner.outputFolder(this.#worker.name, this.#runId)
    try {
      return await artifactFiles.take(
        id,
        source.kind === 'path' ? { kind: 'file', folder, path: source.path } : source,
      )
    } catch (error) {
      logger.error({ err: error, taskId: this.#task.id }, 'An artifact could not be kept.')
      const detail = error instanceof Error ? error.message : String(error)
      return { status: 'refused', message: `The service could not keep the file: ${detail}` }
    }
  }

  // ------------------------------------------------------------------------------------------------------------------ settle

  async #settle(end: AttemptEnd['end']): Promise<'settled' | 'detached'> {
    const { store, clock, detach } = this.#context
    const row = await this.#insist('read the task', detach, () => store.task(this.#task.id))
    if (row === null) return 'detached'
    const stored = row.value
    const outcome = outcomeOf({
      end,
      finish: this.#interpreter.finish,
      stopReason: stored?.stopReason ?? this.#stopReason,
      cancelReason: stored?.cancelReason ?? null,
      cancelRequested: stored !== null && stored.cancelRequestedAt !== null,
      timeoutMs: this.#task.spec.timeouts.runMs,
      hungAfterFinish: this.#hungAfterFinish,
      outputLost: this.#interpreter.outputLost,
      lastWords: this.#interpreter.lastWords,
    })
    const { status, error, exitCode, reason } = outcome
    const at = Math.max(this.#writer.at, clock.now())
    try {
      await this.#writer.settle({ status, at, error, exitCode, output: this.#interpreter.output() }, reason)
      return 'settled'
    } catch (failure) {
      if (detach.aborted) return 'detached'
      throw failure
    }
  }

  // ------------------------------------------------------------------------------------------------------------------- stop

  #armTimeout(startedAt: number): void {
    const { clock } = this.#context
    const dueAt = startedAt + this.#task.spec.timeouts.runMs
    const onDue = (): void => {
      // A process that was suspended, or was not there, first reads what the worker has said meanwhile: it may have finished in time.
      if (clock.now() - dueAt > CATCH_UP_MS) this.#after(CATCH_UP_MS, stop)
      else stop()
    }
    const stop = (): void => {
      void this.#stopAfter('timeout')
    }
    this.#after(Math.max(0, dueAt - clock.now()), onDue)
    if (this.#interpreter.finish !== null) this.#armFinishGrace()
  }

  #armFinishGrace(): void {
    this.#after(this.#task.spec.timeouts.finishGraceMs, () => {
      this.#hungAfterFinish = true
      this.#stopWorker()
    })
  }

  #after(ms: number, callback: () => void): void {
    this.#timers.push(this.#context.clock.after(ms, callback))
  }

  async #stopAfter(reason: StopReason): Promise<void> {
    const { id, attempt } = this.#task
    const record = (): Promise<Task> => this.#context.store.recordStop(id, attempt, reason)
    const recorded = await this.#insist('record the stop', this.#ended.signal, record)
    const stopReason = recorded?.value.stopReason ?? null
    if (stopReason !== null) this.stopFor(stopReason)
  }

  /** Before the worker has begun there is nothing to stop; it is stopped then. */
  #stopWorker(): void {
    if (!this.#begun || this.#ended.signal.aborted || this.#worker.status === 'STOPPING') return
    this.#changeWorker({ status: 'STOPPING' })
    const { runner } = this.#context
    const stop = (): Promise<void> => runner.stop(this.#worker.name, { graceMs: this.stopGraceMs })
    void this.#insist('stop the worker', this.#ended.signal, stop)
  }

  #changeWorker(change: Partial<Worker>): void {
    this.#worker = { ...this.#worker, ...change }
    this.#context.workerChanged(this.#worker)
  }

  /** Does something that only a neighbour in trouble can hinder, again and again until it is done; `null` where `signal` ended that. */
  async #insist<T>(
    what: string,
    signal: AbortSignal,
    action: () => Promise<T>,
  ): Promise<{ readonly value: T } | null> {
    const { clock, logger, reachable } = this.#context
    for (let waitMs = FIRST_RETRY_MS; !signal.aborted; waitMs = Math.min(waitMs * 2, LAST_RETRY_MS)) {
      try {
        return { value: await action() }
      } catch (error) {
        if (error instanceof RunnerError && error.code === 'ENGINE_UNAVAILABLE')
          reachable(false, error.message)
        logger.warn(
          { err: error, taskId: this.#task.id, workerId: this.#worker.id },
          `Could not ${what}; trying again.`,
        )
        await delay(clock, waitMs, signal)
      }
    }
    return null
  }
}
