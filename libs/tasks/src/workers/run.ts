import { leftOf, type Clock } from '../clock.ts'
import type { FailureEvidence, GpuReading } from '../evidence.ts'
import { runIdOf } from '../ids.ts'
import type { StopReason, Task } from '../task.ts'
import type { Worker } from '../worker.ts'
import { diagnose } from './diagnosis.ts'
import type { EventWriter, TaskWriter } from './event-writer.ts'
import { outcomeOf, type AttemptEnd, type Outcome } from './outcome.ts'
import { OutputMeter } from './output-meter.ts'
import { signalOf } from './signals.ts'
import { Transcript } from './transcript.ts'

/** How long the output that has gathered may take to be read before a deadline that has passed unseen counts. */
export const CATCH_UP_MS = 2_000
/**
 * So long a session worker may be silent about a task of whose output something is lost. It says the finish only once: where that is what was
 * lost, nothing more will ever be heard.
 */
export const LOST_END_MS = 60_000
/** The same where that is not certain: then it can still become COMPLETED. */
export const DOUBTFUL_END_MS = 600_000
/** The longest wait between two attempts. */
export const MAX_BACKOFF_MS = 600_000

/** What becomes of an attempt whose deadline has passed. */
export interface RunEvents {
  /** Its worker is to be made to stop working on it. */
  onOverdue(run: Run, reason: StopReason): void
  /** It was handed to a session worker, which has not said a word of it. */
  onUnacknowledged(run: Run): void
  /** It shows its first sign of life; its status has become RUNNING. */
  onAlive(run: Run, at: number): void
  /** The finish was said; of a one-off worker, which is to exit now. */
  onFinish(run: Run): void
}

/** One attempt of a task, as the worker that serves it has it: its events, its deadlines, and what its end comes to. */
export class Run {
  readonly task: Task
  readonly id: string
  readonly writer: TaskWriter
  readonly transcript: Transcript
  /** When the worker got it; `null`: it waits for its worker to come up. */
  handedAt: number | null
  /** It ended; what its worker says of it counts no more. */
  isOver = false
  readonly #clock: Clock
  readonly #events: RunEvents
  #stopReason: StopReason | null
  #cancelReason: string | null
  readonly #timers = new Map<string, Disposable>()
  readonly #unwanted = new AbortController()
  #heardAt = 0
  readonly #output: OutputMeter
  #excess: string | null = null
  /** After so much silence its end is taken for lost; `null`: nothing speaks for that. */
  #lostEndMs: number | null = null

  constructor(clock: Clock, events: RunEvents, task: Task, worker: EventWriter, handedAt: number | null) {
    const { id, attempt, lastSeq } = task
    this.task = task
    this.id = runIdOf(id, attempt)
    this.handedAt = handedAt
    this.#clock = clock
    this.#events = events
    this.#stopReason = task.stopReason
    this.#cancelReason = task.cancelReason
    this.#output = new OutputMeter(task.spec.output)
    const writer = worker.openTask({ taskId: id, attempt, lastSeq })
    this.writer = writer
    this.transcript = new Transcript(
      {
        write: (body) => {
          writer.write(body)
          this.#heardAt = clock.monotonic()
          this.#limit(this.#output.said(body))
        },
        onSignOfLife: () => {
          this.#disarm('ack')
          writer.change({ status: 'RUNNING', runningAt: worker.at })
          writer.write({ type: 'status', taskStatus: 'RUNNING', reason: null })
          this.#disarm('start')
          this.armSilence()
          events.onAlive(this, worker.at)
        },
        onFirstText: () => {
          writer.change({ firstTextAt: worker.at })
        },
        onFinish: (finish) => {
          writer.change({ finish })
          events.onFinish(this)
        },
        onArtifact: (artifact) => {
          writer.announce(artifact)
          this.#limit(this.#output.left(artifact))
        },
        onLoss: (certain) => {
          this.#doubtEnd(certain ? LOST_END_MS : DOUBTFUL_END_MS)
        },
      },
      { signOfLife: task.runningAt !== null, text: task.firstTextAt !== null, finish: task.finish },
    )
    if (task.runningAt !== null) {
      this.armSilence()
      // What an earlier process knew of its output is looked up only when that matters.
      this.#doubtEnd(LOST_END_MS)
    }
  }

  /** `excess`: what it does that it may not; `null`: nothing. */
  #limit(excess: string | null): void {
    if (excess === null || this.#excess !== null) return
    this.#excess = excess
    this.transcript.cutOff(`[cut: it ${excess}; the rest is not kept]`)
    this.#events.onOverdue(this, 'output-limit')
  }

  get stopReason(): StopReason | null {
    return this.#stopReason
  }

  /** When its worker last said something of it, by the monotonic clock. */
  get heardAt(): number {
    return this.#heardAt
  }

  /** Aborted when it is to be stopped or has ended: nothing more is waited for on its behalf. */
  get unwanted(): AbortSignal {
    return this.#unwanted.signal
  }

  /** Takes over a stop reason that has been recorded in the task's row; the first one stays. */
  stopFor(reason: StopReason, cancelReason: string | null): void {
    this.#unwanted.abort()
    this.#stopReason ??= reason
    this.#cancelReason ??= cancelReason
  }

  /** The worker was started, or got the task, at `from`: the clock of its run timeout runs. */
  armRunTimeout(from: number): void {
    this.#arm('run', from, this.task.spec.timeouts.runMs, 'timeout')
  }

  /** The worker was started at `from` and must show a sign of life. */
  armStartTimeout(from: number): void {
    if (!this.transcript.isAlive) this.#arm('start', from, this.task.spec.timeouts.startMs, 'start-timeout')
  }

  /** It has been handed to a session worker just now (or it is not known when, by an earlier process). */
  armAcknowledgement(): void {
    if (this.transcript.isAlive) return
    this.#set('ack', this.task.spec.timeouts.ackMs, () => {
      this.#events.onUnacknowledged(this)
    })
  }

  /** It has not left for the worker after all. */
  takeBack(): void {
    this.handedAt = null
    this.#disarm('ack')
    this.#disarm('run')
  }

  /** The worker was asked to stop it; `callback` where it has not ended in time. */
  armCancelGrace(ms: number, callback: () => void): void {
    this.#set('cancel', ms, callback)
  }

  /** The worker was not asked after all. */
  dropCancelGrace(): void {
    this.#disarm('cancel')
  }

  /** After it nothing of the run happens by itself. */
  over(): void {
    this.isOver = true
    this.#unwanted.abort()
    for (const timer of this.#timers.values()) timer[Symbol.dispose]()
    this.#timers.clear()
  }

  /** What the attempt comes to, `stored` being the task's row where it has been read since; and, where it failed, what is kept of that. */
  outcome(
    end: AttemptEnd['end'],
    more: {
      readonly stored: Task | null
      readonly hungAfterFinish: boolean
      readonly workerWords: readonly string[]
      readonly worker: Pick<Worker, 'imageDigest' | 'spec'>
      readonly gpuReadings: () => readonly GpuReading[]
    },
  ): { readonly outcome: Outcome; readonly evidence: FailureEvidence | null } {
    const { transcript, task } = this
    const { stored, worker, gpuReadings } = more
    const stopReason = stored?.stopReason ?? this.#stopReason
    const attempt: AttemptEnd = {
      end,
      finish: transcript.finish,
      stopReason,
      cancelReason: stored?.cancelReason ?? this.#cancelReason,
      cancelRequested: stopReason === 'cancel' || (stored !== null && stored.cancelRequestedAt !== null),
      timeouts: task.spec.timeouts,
      hungAfterFinish: more.hungAfterFinish,
      outputLost: transcript.outputLost,
      isInDoubt: transcript.isInDoubt,
      excess: this.#excess,
      lastWords: transcript.lastWords.length > 0 ? transcript.lastWords : more.workerWords,
    }
    const outcome = outcomeOf(attempt)
    if (outcome.status !== 'FAILED' && outcome.status !== 'TIMED_OUT') return { outcome, evidence: null }
    // A session worker's own settings are the preset's; the deadlines are the task's.
    const spec = { ...worker.spec, timeouts: task.spec.timeouts }
    const { cause, text } = diagnose(attempt, spec)
    const exit = end.kind === 'exited' || end.kind === 'worker-ended' ? end.exit : null
    return {
      outcome,
      evidence: {
        cause,
        diagnosis: text,
        signal: signalOf(outcome.exitCode),
        oomKilled: exit?.oomKilled ?? false,
        stderr: attempt.lastWords,
        stdout: transcript.lastSaid,
        imageDigest: worker.imageDigest,
        spec,
        gpuReadings: gpuReadings(),
      },
    }
  }

  /** When to try again what has come to this; `null`: it is not tried again. */
  retryAt({ status, failureClass }: Outcome, at: number): number | null {
    const { attempt, spec } = this.task
    const { maxAttempts, backoffMs, on } = spec.retry
    if (status !== 'FAILED' || failureClass === null) return null
    // Its worker went before it had got the task: that is nobody's failure, and not to be counted against the task.
    if (failureClass === 'unacknowledged' && this.handedAt === null) return at
    if (!on.includes(failureClass) || attempt >= maxAttempts) return null
    // Nothing has failed yet where no worker has taken it: another one can at once.
    if (failureClass === 'unacknowledged') return at
    return at + Math.min(backoffMs * 2 ** (attempt - 1), MAX_BACKOFF_MS)
  }

  /** From now on it may be silent for so long again: nobody has listened. */
  armSilence(): void {
    const { silenceMs } = this.task.spec.timeouts
    this.#heardAt = this.#clock.monotonic()
    if (silenceMs !== null) this.#armSilence('silence', silenceMs)
    if (this.#lostEndMs !== null) this.#armSilence('output-lost', this.#lostEndMs)
  }

  #armSilence(reason: 'silence' | 'output-lost', ms: number): void {
    const look = (): void => {
      const leftMs = this.#heardAt + ms - this.#clock.monotonic()
      if (leftMs > 0) this.#set(reason, leftMs, look)
      else if (-leftMs > CATCH_UP_MS && !hasCaughtUp) {
        // A process that was suspended has not listened either.
        hasCaughtUp = true
        this.#set(reason, CATCH_UP_MS, look)
      } else this.#events.onOverdue(this, reason)
    }
    let hasCaughtUp = false
    this.#set(reason, ms, look)
  }

  #doubtEnd(afterMs: number): void {
    // A one-off worker's end is seen by its exit.
    if (this.task.spec.mode === 'ONE_OFF') return
    this.#lostEndMs = Math.min(afterMs, this.#lostEndMs ?? Infinity)
    // Before that it has another deadline: to be acknowledged.
    if (this.transcript.isAlive) this.#armSilence('output-lost', this.#lostEndMs)
  }

  /** Nothing of it is missing after all. */
  trustEnd(): void {
    this.#lostEndMs = null
    this.#disarm('output-lost')
  }

  #arm(name: string, from: number, ms: number, reason: StopReason): void {
    const overdue = (): void => {
      this.#events.onOverdue(this, reason)
    }
    const leftMs = leftOf(this.#clock, from, ms)
    const dueAt = this.#clock.monotonic() + leftMs
    this.#set(name, leftMs, () => {
      // A process that was suspended, or was not there, first reads what the worker has said meanwhile: it may have finished in time.
      if (this.#clock.monotonic() - dueAt > CATCH_UP_MS) this.#set(name, CATCH_UP_MS, overdue)
      else overdue()
    })
  }

  #set(name: string, ms: number, callback: () => void): void {
    this.#disarm(name)
    if (!this.isOver) this.#timers.set(name, this.#clock.after(Math.max(0, ms), callback))
  }

  #disarm(name: string): void {
    this.#timers.get(name)?.[Symbol.dispose]()
    this.#timers.delete(name)
  }
}
