import { delay, type Clock } from './clock.ts'
import type { Artifact, TaskEvent, TaskEventBody } from './event.ts'
import type { Feeds } from './feed.ts'
import type { TaskId, WorkerId } from './ids.ts'
import type { Logger } from './logger.ts'
import type { OutputCursor } from './runner.ts'
import {
  StaleWriteError,
  type Settlement,
  type TaskAppend,
  type TaskStore,
  type WorkerProgress,
} from './store.ts'

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

/** Whose events are written. */
export interface Written {
  readonly taskId: TaskId
  readonly attempt: number
  readonly lastSeq: number
  readonly workerId: WorkerId
  readonly cursor: OutputCursor
}

type Changes = {
  -readonly [K in keyof NonNullable<TaskAppend['changes']>]: NonNullable<TaskAppend['changes']>[K]
}

/** A commit of so many events says that the worker prints faster than one commit per stretch of output can keep up with. */
const FLOOD_EVENTS = 256
const MAX_PENDING_EVENTS = 20_000
const MAX_PENDING_BYTES = 8 * 1024 * 1024
const FIRST_RETRY_MS = 150
const LAST_RETRY_MS = 5_000

/**
 * Numbers the events of one attempt and stores them, in stretches: what comes while a commit is under way gathers for the next one. Events
 * and the read cursor behind them go into one transaction, so a stretch of output is stored with both or not at all. After each commit the
 * feeds are told. It is the only writer of its task's events while the attempt lasts.
 */
export class EventWriter {
  readonly #context: EventWriterContext
  readonly #written: Written
  #cursor: OutputCursor
  #eventSeq: number | null = null
  #lastSeq: number
  /** When the stretch of output that is being read was written. */
  #at = 0
  #pending: TaskEvent[] = []
  #pendingBytes = 0
  #changes: Changes = {}
  #artifacts: Artifact[] = []
  /** The events so far are ahead of the cursor and must not be stored with it. */
  #inStretch = false
  #flushing: Promise<void> | null = null
  readonly #broken = new AbortController()

  constructor(context: EventWriterContext, written: Written) {
    this.#context = context
    this.#written = written
    this.#cursor = written.cursor
    this.#lastSeq = written.lastSeq
  }

  /** How far the output has been read, stretches that are not stored yet included. */
  get cursor(): OutputCursor {
    return this.#cursor
  }

  /** Aborted, with the error as its reason, where the store refuses what is written: somebody else holds the task. */
  get broken(): AbortSignal {
    return this.#broken.signal
  }

  /** The time of the events that are being written, in milliseconds since 1970. */
  get at(): number {
    return this.#at
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

  write(body: TaskEventBody): void {
    this.#pending.push({ seq: ++this.#lastSeq, at: this.#at, attempt: this.#written.attempt, body })
  }

  /** Columns of the task that change with the events that are being written. */
  change(changes: Changes): void {
    Object.assign(this.#changes, changes)
  }

  /** A row that goes with the events that are being written. */
  announce(artifact: Artifact): void {
    this.#artifacts.push(artifact)
  }

  /** Waits while more is pending than may be held. */
  async ready(): Promise<void> {
    while (
      (this.#pending.length > MAX_PENDING_EVENTS || this.#pendingBytes > MAX_PENDING_BYTES) &&
      this.#flushing !== null
    ) {
      await this.#flushing
    }
  }

  /** Waits until nothing is being stored. What is still pending then could not be. */
  async idle(): Promise<void> {
    while (this.#flushing !== null) await this.#flushing
  }

  /**
   * Stores the rest with the final status event, and the task's end with it.
   * @throws StaleWriteError where somebody else holds the task; any other error only after `detach`.
   */
  async settle(settlement: Settlement, reason: string | null): Promise<void> {
    this.#at = settlement.at
    this.write({ type: 'status', taskStatus: settlement.status, reason })
    const { bytes, append } = this.#takePending()
    // Where the first sign of life comes with the end, the status moves from STARTING to the end in one step.
    const changes = { ...append.changes }
    delete changes.status
    await this.#commit({ ...append, changes, settle: settlement }, bytes)
  }

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
      const { bytes, append } = this.#takePending()
      await this.#commit(append, bytes)
      // Under a flood each stretch of output would be a commit of its own: reading gets a turn, so that the next one holds more.
      if (append.events.length >= FLOOD_EVENTS) await new Promise(setImmediate)
    }
  }

  #takePending(): { readonly append: TaskAppend; readonly bytes: number } {
    const events = this.#pending
    const { taskId, attempt } = this.#written
    const append: TaskAppend = {
      taskId,
      attempt,
      after: this.#lastSeq - events.length,
      events,
      ...(Object.keys(this.#changes).length > 0 && { changes: this.#changes }),
      ...(this.#artifacts.length > 0 && { artifacts: this.#artifacts }),
    }
    const bytes = this.#pendingBytes
    this.#pending = []
    this.#pendingBytes = 0
    this.#changes = {}
    this.#artifacts = []
    return { append, bytes }
  }

  async #commit(append: TaskAppend, bytes: number): Promise<void> {
    const { store, feeds, taskChanged, clock, logger, detach } = this.#context
    const progress: WorkerProgress = {
      workerId: this.#written.workerId,
      cursor: this.#cursor,
      ...(this.#eventSeq !== null && { eventSeq: this.#eventSeq }),
      tasks: [append],
    }
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
    feeds.committed(append.taskId, append.events, bytes)
    if (append.settle !== undefined || Object.keys(append.changes ?? {}).length > 0)
      taskChanged(append.taskId)
  }
}
