import { delay, type Clock } from '../clock.ts'
import type { Artifact, TaskEvent, TaskEventBody } from '../event.ts'
import type { Feeds } from '../feed.ts'
import type { TaskId, WorkerId } from '../ids.ts'
import type { Logger } from '../logger.ts'
import type { OutputCursor } from '../runner.ts'
import {
  StaleWriteError,
  type AttemptResult,
  type TaskAppend,
  type TaskStore,
  type WorkerLogEvent,
  type WorkerPatch,
  type WorkerProgress,
} from '../store.ts'

export interface EventWriterContext {
  readonly store: Pick<TaskStore, 'append'>
  readonly feeds: Feeds
  readonly clock: Clock
  readonly logger: Logger
  /** Aborted when the service lets go of its workers: what cannot be stored by then is read again by the next start. */
  readonly detach: AbortSignal
  /** The task's row has changed in a way that a watcher of tasks wants to see. */
  readonly taskChanged: (id: TaskId) => void
}

/** One attempt's place in its task's events. */
export interface Written {
  readonly taskId: TaskId
  readonly attempt: number
  readonly lastSeq: number
}

type Changes = {
  -readonly [K in keyof NonNullable<TaskAppend['changes']>]: NonNullable<TaskAppend['changes']>[K]
}

/** What an attempt ended with: for good, or to be tried again from `retryAt` on. */
export type Ending = AttemptResult & { readonly retryAt?: number }

/** A commit of so many events says that the worker prints faster than one commit per stretch of output can keep up with. */
const FLOOD_EVENTS = 256
const MAX_PENDING_EVENTS = 20_000
const MAX_PENDING_BYTES = 8 * 1024 * 1024
const FIRST_RETRY_MS = 150
const LAST_RETRY_MS = 5_000

/**
 * Stores what one worker says, for all of its tasks and for itself, in stretches: what comes while a commit is under way gathers for the
 * next one. Events and the read cursor behind them go into one transaction, so a stretch of output is stored with both or not at all. After
 * each commit the feeds are told.
 */
export class EventWriter {
  readonly #context: EventWriterContext
  readonly #workerId: WorkerId
  #cursor: OutputCursor
  #eventSeq: number | null = null
  /** When the stretch of output that is being read was written. */
  #at = 0
  readonly #tasks = new Set<TaskWriter>()
  #pendingEvents = 0
  #pendingBytes = 0
  #workerEvents: WorkerLogEvent[] = []
  #workerPatch: WorkerPatch | null = null
  #whenWorkerStored: (() => void)[] = []
  /** The events so far are ahead of the cursor and must not be stored with it. */
  #inStretch = false
  #flushing: Promise<void> | null = null
  readonly #broken = new AbortController()

  constructor(context: EventWriterContext, workerId: WorkerId, cursor: OutputCursor) {
    this.#context = context
    this.#workerId = workerId
    this.#cursor = cursor
  }

  /** How far the output has been read, stretches that are not stored yet included. */
  get cursor(): OutputCursor {
    return this.#cursor
  }

  /** Aborted, with the error as its reason, where the store refuses what is written: somebody else holds a task of the worker. */
  get broken(): AbortSignal {
    return this.#broken.signal
  }

  /** The time of the events that are being written, in milliseconds since 1970. */
  get at(): number {
    return this.#at
  }

  /** The writer of one attempt's events; the only one of its task while the attempt lasts. */
  openTask(written: Written): TaskWriter {
    const task = new TaskWriter(written, this)
    this.#tasks.add(task)
    return task
  }

  /** Opens a stretch of output that was written at `at`; what is written from now on is stored only after `endStretch`. */
  beginStretch(at: number): void {
    this.#at = at
    this.#inStretch = true
  }

  /** Closes it: it has brought the cursor here, `bytes` is its size, and `eventSeq` the worker's own count by now. */
  endStretch(cursor: OutputCursor, bytes: number, eventSeq: number | null): void {
    this.#cursor = cursor
    this.#eventSeq = eventSeq
    this.#pendingBytes += bytes
    this.#inStretch = false
    this.#flush()
  }

  /** Runs `write` as a stretch of its own that moves no cursor: what the service itself has to say at the moment. */
  aside(at: number, write: () => void): void {
    // Inside a stretch the cursor is not where the events are; they are stored with its end.
    if (this.#inStretch) {
      write()
      return
    }
    this.beginStretch(at)
    write()
    this.endStretch(this.#cursor, 0, this.#eventSeq)
  }

  /** Something that belongs to no task. */
  writeWorker(body: TaskEventBody): void {
    this.#workerEvents.push({ at: this.#at, body })
    this.#pendingEvents++
  }

  /** What changes of the worker's row with the events that are being written. `whenStored` is called once that is committed. */
  changeWorker(patch: WorkerPatch, whenStored: () => void): void {
    this.#workerPatch = { ...this.#workerPatch, ...patch }
    this.#whenWorkerStored.push(whenStored)
  }

  /** For `TaskWriter`: another event is pending. */
  counted(): void {
    this.#pendingEvents++
  }

  /** Waits while more is pending than may be held. */
  async ready(): Promise<void> {
    while (
      (this.#pendingEvents > MAX_PENDING_EVENTS || this.#pendingBytes > MAX_PENDING_BYTES) &&
      this.#flushing !== null
    ) {
      await this.#flushing
    }
  }

  /** Waits until nothing is being stored. What is still pending then could not be. */
  async idle(): Promise<void> {
    while (this.#flushing !== null) await this.#flushing
  }

  get #hasPending(): boolean {
    return this.#pendingEvents > 0 || this.#workerPatch !== null
  }

  #flush(): void {
    if (this.#flushing !== null || !this.#hasPending || this.#broken.signal.aborted) return
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
    while (this.#hasPending && !this.#inStretch) {
      const events = this.#pendingEvents
      await this.#commit()
      // Under a flood each stretch of output would be a commit of its own: reading gets a turn, so that the next one holds more.
      if (events >= FLOOD_EVENTS) await new Promise(setImmediate)
    }
  }

  async #commit(): Promise<void> {
    const bytes = this.#pendingBytes
    const count = Math.max(1, this.#pendingEvents)
    const taken = [...this.#tasks].flatMap((task) => {
      const append = task.take()
      return append === null ? [] : [{ task, append }]
    })
    const progress: WorkerProgress = {
      workerId: this.#workerId,
      cursor: this.#cursor,
      ...(this.#eventSeq !== null && { eventSeq: this.#eventSeq }),
      ...(this.#workerEvents.length > 0 && { workerEvents: this.#workerEvents }),
      ...(this.#workerPatch !== null && { worker: this.#workerPatch }),
      tasks: taken.map(({ append }) => append),
    }
    this.#pendingBytes = 0
    this.#pendingEvents = 0
    this.#workerEvents = []
    this.#workerPatch = null
    const whenWorkerStored = this.#whenWorkerStored
    this.#whenWorkerStored = []
    await this.#append(progress)
    for (const tell of whenWorkerStored) tell()
    const { feeds, taskChanged } = this.#context
    for (const { task, append } of taken) {
      const { taskId, events, changes, settle, requeue } = append
      feeds.committed(taskId, events, Math.ceil((bytes * events.length) / count))
      const isOver = settle !== undefined || requeue !== undefined
      if (isOver) this.#tasks.delete(task)
      if (isOver || Object.keys(changes ?? {}).length > 0) taskChanged(taskId)
      if (isOver) task.ended()
    }
  }

  async #append(progress: WorkerProgress): Promise<void> {
    const { store, clock, logger, detach } = this.#context
    for (let waitMs = FIRST_RETRY_MS; ; waitMs = Math.min(waitMs * 2, LAST_RETRY_MS)) {
      try {
        await store.append(progress)
        return
      } catch (error) {
        if (error instanceof StaleWriteError || detach.aborted) throw error
        // A database that is locked or full is waited for: nothing is published that is not stored, and the worker's log keeps the rest.
        logger.error({ err: error, workerId: this.#workerId }, 'Events could not be stored; trying again.')
        await delay(clock, waitMs, detach)
      }
    }
  }
}

/** Numbers the events of one attempt and holds them until its worker's next commit. */
export class TaskWriter {
  readonly #written: Written
  readonly #writer: EventWriter
  #lastSeq: number
  #pending: TaskEvent[] = []
  #changes: Changes = {}
  #artifacts: Artifact[] = []
  #ending: Ending | null = null
  readonly #whenEnded: (() => void)[] = []
  #commits = 0

  /** Made by `EventWriter.openTask`. */
  constructor(written: Written, writer: EventWriter) {
    this.#written = written
    this.#writer = writer
    this.#lastSeq = written.lastSeq
  }

  /** How many commits the attempt's events have taken so far. */
  get commits(): number {
    return this.#commits
  }

  write(body: TaskEventBody): void {
    // Nothing follows the final status; a worker that talks on is told so in its own log.
    if (this.#ending !== null) return
    const { at } = this.#writer
    this.#pending.push({ seq: ++this.#lastSeq, at, attempt: this.#written.attempt, body })
    this.#writer.counted()
  }

  /** Columns of the task that change with the events that are being written. */
  change(changes: Changes): void {
    Object.assign(this.#changes, changes)
  }

  /** A row that goes with the events that are being written. */
  announce(artifact: Artifact): void {
    this.#artifacts.push(artifact)
  }

  /** Ends the attempt with its last event. `whenStored` is called once that is committed; never, where it cannot be. */
  end(ending: Ending, reason: string | null, whenStored: () => void): void {
    const taskStatus = ending.retryAt === undefined ? ending.status : 'QUEUED'
    this.write({ type: 'status', taskStatus, reason })
    this.#ending = ending
    this.#whenEnded.push(whenStored)
  }

  /** For `EventWriter`: what is pending, as the store takes it; `null`: nothing. */
  take(): TaskAppend | null {
    const events = this.#pending
    if (events.length === 0) return null
    const { taskId, attempt } = this.#written
    const changes = { ...this.#changes }
    // Where the first sign of life comes with the end, the status moves from STARTING to the end in one step.
    if (this.#ending !== null) delete changes.status
    const append: TaskAppend = {
      taskId,
      attempt,
      after: this.#lastSeq - events.length,
      events,
      ...(Object.keys(changes).length > 0 && { changes }),
      ...(this.#artifacts.length > 0 && { artifacts: this.#artifacts }),
      ...endingOf(this.#ending),
    }
    this.#pending = []
    this.#changes = {}
    this.#artifacts = []
    this.#commits++
    return append
  }

  /** For `EventWriter`: the end is stored. */
  ended(): void {
    for (const tell of this.#whenEnded) tell()
  }
}

function endingOf(ending: Ending | null): Pick<TaskAppend, 'settle' | 'requeue'> {
  if (ending === null) return {}
  const { retryAt, ...result } = ending
  return retryAt === undefined ? { settle: result } : { requeue: { ...result, retryAt } }
}
