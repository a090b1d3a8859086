import type { Clock } from '../clock.ts'
import type { Logger } from '../logger.ts'
import type { WorkerId } from '../ids.ts'
import type { CommandChannel } from './command-channel.ts'

/** How long a session worker that was asked to shut down may take before it is told so by a signal. */
const SHUTDOWN_MS = 2_000

export interface StopLadderOptions {
  readonly workerId: WorkerId
  readonly channel: Pick<CommandChannel, 'shutdown'>
  readonly clock: Clock
  readonly logger: Logger
  /** Has the runner stop the worker, by SIGTERM and after so many milliseconds by SIGKILL. */
  readonly stop: (graceMs: number) => void
  readonly onChange: () => void
}

/**
 * The steps by which a worker is made to end: its own protocol's `shutdown`, then signals. What is asked before the worker is there is done as
 * soon as it is.
 */
export class StopLadder implements Disposable {
  readonly #options: StopLadderOptions
  readonly #unwanted = new AbortController()
  #step: 'none' | 'wanted' | 'asked' | 'signalled' = 'none'
  #isThere = false
  #graceMs = 0
  #timer: Disposable | null = null

  constructor(options: StopLadderOptions) {
    this.#options = options
  }

  /** It has been told to end, or will be as soon as it is there. */
  get isStopping(): boolean {
    return this.#step !== 'none'
  }

  /** The runner was told to stop it. */
  get isSignalled(): boolean {
    return this.#step === 'signalled'
  }

  /** Aborted when it is to end before it is there. */
  get unwanted(): AbortSignal {
    return this.#unwanted.signal
  }

  /** The worker has been started, or found. */
  there(): void {
    this.#isThere = true
    if (this.#step === 'wanted') this.signal(this.#graceMs)
  }

  /** Asks the worker on its stdin, and signals it where that does not help. */
  ask(graceMs: number): void {
    if (this.#step !== 'none') return
    if (!this.#isThere) {
      this.signal(graceMs)
      return
    }
    const { channel, clock, logger, workerId, onChange } = this.#options
    this.#step = 'asked'
    channel.shutdown().catch((error: unknown) => {
      logger.debug({ err: error, workerId }, 'A session worker could not be asked to shut down.')
    })
    this.#timer = clock.after(Math.min(SHUTDOWN_MS, graceMs), () => {
      this.signal(graceMs)
    })
    onChange()
  }

  /** Has the runner stop it. */
  signal(graceMs: number): void {
    const { stop, onChange } = this.#options
    if (this.#step === 'signalled') return
    if (this.#isThere) {
      this.#step = 'signalled'
      stop(graceMs)
    } else {
      this.#step = 'wanted'
      this.#graceMs = graceMs
      this.#unwanted.abort()
    }
    onChange()
  }

  /** The worker has ended. */
  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]()
  }
}
