import {
  createEventParser,
  createLineReader,
  type EventParser,
  type LineReader,
  type ProtocolFault,
  type WorkerEvent,
} from '@gpu-service/event-parser'
import type { ArtifactFiles } from './artifact-files.ts'
import { labelArtifact } from './artifact-label.ts'
import type { Clock } from './clock.ts'
import type { Artifact, TaskEvent, TaskEventBody } from './event.ts'
import type { Feeds } from './feed.ts'
import { runIdOf, type ArtifactId } from './ids.ts'
import type { Logger } from './logger.ts'
import { outcomeOf, type AttemptEnd, type Outcome } from './outcome.ts'
import { createOutputBuilder } from './output.ts'
import {
  RunnerError,
  type AssignedGpu,
  type OutputCursor,
  type StartFailure,
  type StartResult,
  type WorkerOrder,
  type WorkerRunner,
} from './runner.ts'
import { StaleWriteError, type TaskAppend, type TaskStore } from './store.ts'
import type { StopReason, Task, TaskFinish } from './task.ts'
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

/** Output that has been read but not stored is held up to this many events; then reading waits for the store. */
const MAX_PENDING_EVENTS = 20_000
/** A commit of so many events says that the worker prints faster than one commit per stretch of output can keep up with. */
const FLOOD_EVENTS = 256
const MAX_STDERR_CHARACTERS = 16 * 1024 * 1024
const MAX_STDERR_LINE_BYTES = 16 * 1024
const LAST_WORDS_LINES = 10
const LAST_WORDS_LINE_LENGTH = 500
const FIRST_RETRY_MS = 150
const LAST_RETRY_MS = 5_000

/** The worker's output ended, or could not begin; `detached`: the service let go of the worker, which goes on. */
type End = AttemptEnd['end'] | { readonly kind: 'detached' }

type Changes = {
  -readonly [K in keyof NonNullable<TaskAppend['changes']>]: NonNullable<TaskAppend['changes']>[K]
}

/**
 * One execution of a task by a one-off worker, from the start of the worker (or its adoption after a restart of the service) to the
 * stored final state and the removed worker. It is the only writer of its task's events meanwhile.
 */
export class Attempt {
  readonly #context: AttemptContext
  readonly #task: Task
  readonly #gpus: readonly AssignedGpu[]
  #worker: Worker

  readonly #parser: EventParser
  readonly #stderr: LineReader
  readonly #output = createOutputBuilder()
  #cursor: OutputCursor
  /** When the stretch of output that is being parsed was written. */
  #at = 0
  #lastSeq: number
  #lastWorkerSeq: number | null = null
  /** Lines that could not be read and may each have held one of the worker's counted events. */
  #unreadable = 0
  #running: boolean
  #firstText: boolean
  #finish: TaskFinish | null
  #outputLost = false
  #stderrCharacters = 0
  #lastWords: string[] = []

  /** Read, but not yet stored. */
  #pending: TaskEvent[] = []
  #pendingChanges: Changes = {}
  #pendingArtifacts: Artifact[] = []
  /** An artifact whose file is to be taken, and all that was said behind it, in order. */
  #deferred: (() => Promise<void> | void)[] = []
  /** In the middle of a stretch of output: the events so far are ahead of the cursor and must not be stored with it. */
  #inStretch = false
  #flushing: Promise<void> | null = null

  /** Aborted with the error where the store refuses what this attempt writes: somebody else holds its task. */
  readonly #broken = new AbortController()
  #stopReason: StopReason | null
  readonly #stopAsked = new AbortController()
  /** The engine went away while it was asked to start the worker. */
  #mayHaveStarted = false
  /** The worker is there, so that it can be stopped. */
  #begun = false
  #hungAfterFinish = false
  readonly #timers: Disposable[] = []
  readonly #ended = new AbortController()

  constructor(context: AttemptContext, task: Task, worker: Worker, gpus: readonly AssignedGpu[]) {
    this.#context = context
    this.#task = task
    this.#worker = worker
    this.#gpus = gpus
    this.#cursor = worker.cursor
    this.#lastSeq = task.lastSeq
    this.#running = task.runningAt !== null
    this.#firstText = task.firstTextAt !== null
    this.#finish = task.finish
    this.#stopReason = task.stopReason
    this.#parser = createEventParser({
      event: (event, runId, seq) => {
        this.#onEvent(event, runId, seq)
      },
      log: (line) => {
        this.#onLine({ type: 'log', stream: 'STDOUT', level: null, line })
      },
      fault: (fault, _runId, seq) => {
        this.#onFault(fault, seq)
      },
    })
    this.#stderr = createLineReader(
      {
        line: (text, truncated) => {
          this.#onStderr(text, truncated)
        },
      },
      { maxLineBytes: MAX_STDERR_LINE_BYTES },
    )
  }

  get worker(): Worker {
    return this.#worker
  }

  /**
   * Starts the worker and follows it to the stored final state.
   * @returns `settled` with the worker still to be removed, or `detached`.
   */
  async run(): Promise<'settled' | 'detached'> {
    const end = await this.#follow()
    this.#ended.abort()
    for (const timer of this.#timers) timer[Symbol.dispose]()
    while (this.#flushing !== null) await this.#flushing
    // What could not be stored any more is read again by the next start: the cursor has not moved over it.
    if (end.kind === 'detached' || this.#context.detach.aborted) return 'detached'
    this.#broken.signal.throwIfAborted()
    await this.#settle(end)
    return 'settled'
  }

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
      await this.#insist('stop', this.#context.detach, () => runner.stop(this.#worker.name, { graceMs: 0 }))
      return { kind: 'lost', detail: error instanceof Error ? error.message : String(error) }
    }
  }

  /** Removes the ended worker and says so in its row; tries again while the runner's neighbour is away. */
  async cleanUp(): Promise<void> {
    const { runner, store, clock, detach } = this.#context
    const removed = await this.#insist('remove', detach, () => runner.remove(this.#worker.name))
    if (!removed) return
    await this.#insist('record the exit', detach, () =>
      store.updateWorker(this.#worker.id, { status: 'EXITED', exitedAt: clock.now() }),
    )
  }

  /** Takes over a stop reason that has been recorded in the task's row, and stops the worker for it. */
  stopFor(reason: StopReason): void {
    if (this.#stopReason !== null) return
    this.#stopReason = reason
    this.#stopAsked.abort()
    this.#stopWorker()
  }

  // ------------------------------------------------------------------------------------------------------------------ start

  /** `null`: the worker has been started (or found), its output can be read. */
  async #begin(): Promise<End | null> {
    const { runner, store, detach } = this.#context
    // A cancel may have been recorded before this attempt could be told of it.
    this.#stopReason ??= (await store.task(this.#task.id))?.stopReason ?? null
    await this.#recall()
    const found = await this.#insist('look at', detach, () => runner.inspect(this.#worker.name))
    if (!found) return { kind: 'detached' }
    const state = found.value
    switch (state.phase) {
      case 'running':
        this.#armTimeout(state.startedAt)
        return null
      case 'exited':
        return null
      case 'unknown':
        // Never start a worker a second time: one that was there once is read as far as it can be, and is lost.
        return this.#worker.containerId === null && !this.#running ? this.#start() : null
      case 'created':
        return this.#start()
    }
  }

  async #start(): Promise<End | null> {
    const { store, clock, detach, reachable } = this.#context
    const { id, attempt, spec, input } = this.#task
    const order = {
      name: this.#worker.name,
      workerId: this.#worker.id,
      spec,
      gpus: this.#gpus,
      run: { runId: runIdOf(id, attempt), attempt, input },
    }
    for (let waitMs = FIRST_RETRY_MS; ; waitMs = Math.min(waitMs * 2, LAST_RETRY_MS)) {
      const result = await this.#tryStart(order)
      if (result.status === 'started') {
        reachable(true, '')
        this.#changeWorker({ containerId: result.containerId })
        this.#armTimeout(result.startedAt)
        const { containerId, imageDigest } = result
        await store.updateWorker(this.#worker.id, { containerId, imageDigest })
        return null
      }
      if (result.code !== 'ENGINE_UNAVAILABLE') return { kind: 'start-failed', failure: result }
      reachable(false, result.message)
      if (this.#stopReason !== null) return this.#giveUpStart(result)
      await delay(clock, waitMs, AbortSignal.any([detach, this.#stopAsked.signal]))
      if (detach.aborted) return { kind: 'detached' }
    }
  }

  /** The task is to be stopped before its worker was seen to start; `null`: it has started all the same, and must be stopped itself. */
  async #giveUpStart(failure: StartFailure): Promise<End | null> {
    if (!this.#mayHaveStarted) return { kind: 'start-failed', failure }
    const { runner, detach } = this.#context
    const found = await this.#insist('look at', detach, () => runner.inspect(this.#worker.name))
    if (found === null) return { kind: 'detached' }
    const { phase } = found.value
    return phase === 'running' || phase === 'exited' ? null : { kind: 'start-failed', failure }
  }

  /** An engine that went away in the middle may have started the worker; trying again under the same name finds it. */
  async #tryStart(order: WorkerOrder): Promise<StartResult> {
    try {
      return await this.#context.runner.start(order)
    } catch (error) {
      if (!(error instanceof RunnerError) || error.code !== 'ENGINE_UNAVAILABLE') throw error
      this.#mayHaveStarted = true
      return { status: 'failed', code: error.code, message: error.message, hint: '' }
    }
  }

  /** After a restart of the service: what the stored events say of this attempt. */
  async #recall(): Promise<void> {
    const { store } = this.#context
    for (let after = 0; after < this.#lastSeq;) {
      const events = await store.events(this.#task.id, after, 1_000)
      for (const { attempt, body } of events) if (attempt === this.#task.attempt) this.#observe(body)
      after = events.at(-1)?.seq ?? this.#lastSeq
    }
  }

  // ------------------------------------------------------------------------------------------------------------------- read

  async #read(): Promise<End> {
    const { runner, detach } = this.#context
    const signal = AbortSignal.any([detach, this.#broken.signal])
    for await (const item of runner.output(this.#worker.name, { after: this.#cursor, signal })) {
      switch (item.kind) {
        case 'data':
          this.#at = item.at
          this.#inStretch = true
          if (item.stream === 'stdout') {
            this.#parser.feed(item.bytes)
            await this.#takeDeferred()
            this.#cursor = { ...this.#cursor, stdout: item.cursor }
          } else {
            this.#stderr.feed(item.bytes)
            this.#cursor = { ...this.#cursor, stderr: item.cursor }
          }
          this.#inStretch = false
          this.#flush()
          if (this.#pending.length > MAX_PENDING_EVENTS) await this.#flushing
          break
        case 'gap':
          this.#at = this.#context.clock.now()
          this.#emit({ type: 'gap', detail: item.detail })
          this.#flush()
          break
        case 'end':
          this.#changeWorker({ exit: item.exit })
          await this.#endOfOutput(item.exit.finishedAt)
          return { kind: 'exited', exit: item.exit }
        case 'lost':
          await this.#endOfOutput(this.#context.clock.now())
          return { kind: 'lost', detail: item.detail }
      }
    }
    return { kind: 'detached' }
  }

  async #endOfOutput(at: number): Promise<void> {
    this.#at = Math.max(this.#at, at)
    this.#inStretch = true
    this.#parser.end()
    await this.#takeDeferred()
    this.#stderr.end()
    this.#inStretch = false
  }

  #onEvent(event: WorkerEvent, runId: string | null, seq: number | null): void {
    this.#onSignOfLife()
    if (seq !== null) this.#checkSeq(seq)
    const own = runIdOf(this.#task.id, this.#task.attempt)
    if (runId !== null && runId !== own) {
      const detail = `The event's task_id is ${JSON.stringify(runId.slice(0, 200))}, but the worker's task is "${own}".`
      this.#emit({ type: 'fault', kind: 'FOREIGN_TASK', line: '', detail })
    } else if (event.type === 'artifact') {
      this.#deferred.push(() => this.#takeArtifact(event))
    } else {
      this.#inOrder(() => {
        this.#take(event)
      })
    }
  }

  #inOrder(action: () => void): void {
    if (this.#deferred.length > 0) this.#deferred.push(action)
    else action()
  }

  #onLine(body: TaskEventBody): void {
    this.#onSignOfLife()
    this.#inOrder(() => {
      this.#emit(body)
    })
  }

  #onStderr(text: string, truncated: boolean): void {
    if (this.#stderrCharacters > MAX_STDERR_CHARACTERS) return
    const line = truncated ? `${text} [cut: the line is longer than ${MAX_STDERR_LINE_BYTES} bytes]` : text
    this.#emit({ type: 'log', stream: 'STDERR', level: null, line })
    if (this.#stderrCharacters > MAX_STDERR_CHARACTERS) {
      const cut = `[cut: more than ${MAX_STDERR_CHARACTERS} characters on stderr; the rest is not kept]`
      this.#emit({ type: 'log', stream: 'STDERR', level: 'warning', line: cut })
    }
  }

  /** The first complete line on stdout is what makes a task RUNNING. */
  #onSignOfLife(): void {
    if (this.#running) return
    this.#running = true
    this.#pendingChanges = { ...this.#pendingChanges, status: 'RUNNING', runningAt: this.#at }
    this.#emit({ type: 'status', taskStatus: 'RUNNING', reason: null })
    this.#changeWorker({ status: 'WORKING', readyAt: this.#at })
  }

  #onFault(fault: ProtocolFault, seq: number | null): void {
    this.#onSignOfLife()
    if (seq !== null) this.#checkSeq(seq)
    else if (fault.kind === 'INVALID_JSON' || fault.kind === 'TOO_DEEP' || fault.kind === 'LINE_TOO_LONG')
      this.#unreadable++
    this.#inOrder(() => {
      this.#emit({ type: 'fault', ...fault })
    })
  }

  /** A line that could not be read may have had the count that is missing. */
  #checkSeq(seq: number): void {
    const last = this.#lastWorkerSeq ?? seq - 1
    const missing = seq - last - 1
    const explained = Math.max(0, Math.min(missing, this.#unreadable))
    this.#unreadable -= explained
    this.#lastWorkerSeq = Math.max(seq, last)
    if (missing <= explained) return
    const detail = `The worker's own count jumps from ${last} to ${seq}: ${missing - explained} of its events are missing.`
    this.#inOrder(() => {
      this.#emit({ type: 'gap', detail })
    })
  }

  /** Turns a worker's event into one of the task; artifacts have been taken care of before. */
  #take(event: Exclude<WorkerEvent, { type: 'artifact' }>): void {
    if (this.#finish !== null) {
      const line = JSON.stringify(event).slice(0, 1_000)
      this.#emit({
        type: 'fault',
        kind: 'AFTER_FINISH',
        line,
        detail: 'The worker said this after its finish event.',
      })
      return
    }
    switch (event.type) {
      case 'text_delta':
      case 'text':
        if (!this.#firstText) {
          this.#firstText = true
          this.#pendingChanges = { ...this.#pendingChanges, firstTextAt: this.#at }
        }
        this.#emit(event)
        return
      case 'finish': {
        const error =
          event.error === null
            ? null
            : { code: event.error.code ?? 'WORKER_FAILED', message: event.error.message }
        const finish: TaskFinish = { status: event.status, error }
        this.#finish = finish
        this.#pendingChanges = { ...this.#pendingChanges, finish }
        this.#emit({ type: 'finish', ...finish })
        this.#armFinishGrace()
        return
      }
      case 'log':
        this.#emit({ type: 'log', stream: 'STDOUT', level: event.level, line: event.message })
        return
      default:
        this.#emit(event)
    }
  }

  /** Artifacts' files are taken one after the other, and what was said behind them waits. */
  async #takeDeferred(): Promise<void> {
    for (const action of this.#deferred) await action()
    this.#deferred = []
  }

  async #takeArtifact(event: Extract<WorkerEvent, { type: 'artifact' }>): Promise<void> {
    const { artifactFiles, runner, newArtifactId } = this.#context
    const id = newArtifactId()
    const folder = runner.outputFolder(this.#worker.name, runIdOf(this.#task.id, this.#task.attempt))
    const { source } = event
    const taken = await artifactFiles.take(
      id,
      source.kind === 'path' ? { kind: 'file', folder, path: source.path } : source,
    )
    if (taken.status === 'refused') {
      const line = source.kind === 'path' ? source.path.slice(0, 1_000) : ''
      this.#emit({ type: 'fault', kind: 'INVALID_ARTIFACT', line, detail: taken.message })
      return
    }
    const path = source.kind === 'path' ? source.path : null
    const label = labelArtifact({ name: event.name, mediaType: event.mediaType, path })
    const artifact: Artifact = { id, ...label, bytes: taken.bytes, sha256: taken.sha256 }
    this.#pendingArtifacts.push(artifact)
    this.#emit({ type: 'artifact', artifact })
  }

  #emit(body: TaskEventBody): void {
    this.#pending.push({ seq: ++this.#lastSeq, at: this.#at, attempt: this.#task.attempt, body })
    this.#observe(body)
  }

  /** What the end of the attempt needs to know of its events. */
  #observe(body: TaskEventBody): void {
    this.#output.add(body)
    if (body.type === 'gap') this.#outputLost = true
    if (body.type !== 'log' || body.stream !== 'STDERR') return
    this.#stderrCharacters += body.line.length + 1
    this.#lastWords.push(body.line.slice(0, LAST_WORDS_LINE_LENGTH))
    if (this.#lastWords.length > LAST_WORDS_LINES) this.#lastWords.shift()
  }

  // ------------------------------------------------------------------------------------------------------------------ store

  /** Stores what is pending. While a commit is under way what comes gathers for the next one. */
  #flush(): void {
    if (this.#flushing !== null || this.#pending.length === 0) return
    this.#flushing = this.#storePending().then(
      () => {
        this.#flushing = null
        // What came between the last look and here.
        if (!this.#inStretch) this.#flush()
      },
      (error: unknown) => {
        this.#flushing = null
        this.#broken.abort(error)
      },
    )
  }

  async #storePending(): Promise<void> {
    while (this.#pending.length > 0 && !this.#inStretch) {
      const append = this.#takePending()
      await this.#commit(append)
      // Under a flood each stretch of output would be a commit of its own: reading gets a turn, so that the next one holds more.
      if (append.events.length >= FLOOD_EVENTS) await new Promise(setImmediate)
    }
  }

  #takePending(): TaskAppend {
    const events = this.#pending
    const append: TaskAppend = {
      taskId: this.#task.id,
      attempt: this.#task.attempt,
      after: this.#lastSeq - events.length,
      events,
      changes: this.#pendingChanges,
      artifacts: this.#pendingArtifacts,
    }
    this.#pending = []
    this.#pendingChanges = {}
    this.#pendingArtifacts = []
    return append
  }

  async #commit(append: TaskAppend): Promise<void> {
    const { store, feeds, taskChanged, clock, logger, detach } = this.#context
    const progress = { workerId: this.#worker.id, cursor: this.#cursor, tasks: [append] }
    for (let waitMs = FIRST_RETRY_MS; ; waitMs = Math.min(waitMs * 2, LAST_RETRY_MS)) {
      try {
        await store.append(progress)
        break
      } catch (error) {
        if (error instanceof StaleWriteError || detach.aborted) throw error
        // A database that is locked or full is waited for: nothing is published that is not stored, and the worker's log keeps the rest.
        logger.error({ err: error, taskId: append.taskId }, 'Events could not be stored; trying again.')
        await delay(clock, waitMs, detach)
      }
    }
    feeds.committed(append.taskId, append.events)
    if (append.settle !== undefined || Object.keys(append.changes ?? {}).length > 0)
      taskChanged(append.taskId)
  }

  async #settle(end: AttemptEnd['end']): Promise<void> {
    const outcome = await this.#outcome(end)
    const at = Math.max(this.#at, this.#context.clock.now())
    this.#at = at
    this.#emit({ type: 'status', taskStatus: outcome.status, reason: outcome.reason })
    const { status, error, exitCode } = outcome
    const settle = { status, at, error, exitCode, output: this.#output.build() }
    const append = this.#takePending()
    // Where the first sign of life comes with the end, the status moves from STARTING to the end in one step.
    const changes = { ...append.changes }
    delete changes.status
    await this.#commit({ ...append, changes, settle })
  }

  async #outcome(end: AttemptEnd['end']): Promise<Outcome> {
    const stored = await this.#context.store.task(this.#task.id)
    return outcomeOf({
      end,
      finish: this.#finish,
      stopReason: stored?.stopReason ?? this.#stopReason,
      cancelReason: stored?.cancelReason ?? null,
      cancelRequested: stored?.cancelRequestedAt !== null,
      timeoutMs: this.#task.spec.timeouts.runMs,
      hungAfterFinish: this.#hungAfterFinish,
      outputLost: this.#outputLost,
      lastWords: this.#lastWords,
    })
  }

  // ------------------------------------------------------------------------------------------------------------------- stop

  #armTimeout(startedAt: number): void {
    const { clock } = this.#context
    const leftMs = startedAt + this.#task.spec.timeouts.runMs - clock.now()
    this.#timers.push(
      clock.after(Math.max(0, leftMs), () => {
        void this.#stopAfter('timeout')
      }),
    )
    if (this.#finish !== null) this.#armFinishGrace()
  }

  #armFinishGrace(): void {
    const { clock } = this.#context
    this.#timers.push(
      clock.after(this.#task.spec.timeouts.finishGraceMs, () => {
        this.#hungAfterFinish = true
        this.#stopWorker()
      }),
    )
  }

  async #stopAfter(reason: StopReason): Promise<void> {
    const { store } = this.#context
    const recorded = await this.#insist('record the stop of', this.#ended.signal, () =>
      store.recordStop(this.#task.id, this.#task.attempt, reason),
    )
    const stopReason = recorded?.value.stopReason ?? null
    if (stopReason !== null) this.stopFor(stopReason)
  }

  /** Before the worker has begun there is nothing to stop; it is stopped then. */
  #stopWorker(): void {
    if (!this.#begun || this.#ended.signal.aborted || this.#worker.status === 'STOPPING') return
    this.#changeWorker({ status: 'STOPPING' })
    const { runner } = this.#context
    const { stopGraceMs } = this.#task.spec.timeouts
    void this.#insist('stop', this.#ended.signal, () =>
      runner.stop(this.#worker.name, { graceMs: stopGraceMs }),
    )
  }

  #changeWorker(change: Partial<Worker>): void {
    this.#worker = { ...this.#worker, ...change }
    this.#context.workerChanged(this.#worker)
  }

  /** Does something that only a neighbour being away can hinder, again and again until it is done; `null` where `signal` ended that. */
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
        logger.warn({ err: error, workerId: this.#worker.id }, `Could not ${what} the worker; trying again.`)
        await delay(clock, waitMs, signal)
      }
    }
    return null
  }
}

/** Waits, or less where `signal` is aborted. */
export function delay(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    const done = (): void => {
      timer[Symbol.dispose]()
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = clock.after(ms, done)
    signal.addEventListener('abort', done, { once: true })
  })
}
