import type { GpuClientError } from './error.ts'
import { sleep, type Timing } from './timing.ts'

/** A service that asks to come back later is not asked as soon as one whose connection merely broke. */
const LATER = 2

/**
 * When something that failed is tried again: after a wait that doubles with each failure in a row, up to a bound. A part of it is random, so
 * that many clients that were cut off at once do not come back at once.
 */
export class Backoff {
  readonly #timing: Timing
  #failures = 0
  #until = 0

  constructor(timing: Timing) {
    this.#timing = timing
  }

  /** Failures while a wait is on are part of the one that it follows. */
  failed({ code, retryAfterMs }: GpuClientError): void {
    const now = performance.now()
    if (now < this.#until) return
    const steps = Math.max(this.#failures, code === 'UNAVAILABLE' ? LATER : 0)
    this.#failures++
    const { retryBaseMs, retryMaxMs } = this.#timing
    const own = Math.min(retryBaseMs * 2 ** steps, retryMaxMs) * (0.25 + 0.75 * Math.random())
    // Behind what the service has asked for: those whom it asked at once do not come back at once either.
    this.#until = now + retryAfterMs + own
  }

  /** What follows is not a further failure in a row. */
  worked(): void {
    this.#failures = 0
  }

  /** Resolves when it is time to try; throws the signal's reason where that comes first. */
  async wait(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted()
      const left = this.#until - performance.now()
      if (left <= 0) return
      await sleep(left, signal)
    }
  }
}
