import type { Clock } from '../clock.ts'
import type { Logger } from '../logger.ts'

/** By so much the clock may be set while it is believed: more is a jump. */
const MAX_STEP_MS = 5 * 60_000
/** So long it must have gone on evenly after a jump. */
export const STEADY_MS = 3_600_000
/** What was stored last, but for the last hour, may lie so far back when a process begins. */
const MAX_PAUSE_MS = 86_400_000

/**
 * Whether what is old by the machine's clock is old. A clock that was set a year ahead by mistake makes everything old at once: after a jump
 * it is not believed until it has gone on evenly for an hour, in which it can be set right.
 */
export class ClockTrust {
  readonly #clock: Clock
  readonly #logger: Logger
  #wall: number
  #passed: number
  /** By the monotonic clock. */
  #from: number

  /**
   * @param latest The last moment more than an hour ago of which something is stored; `null`: there is none. One that is far back is a sign
   * of a jump, or of a long pause.
   */
  constructor(clock: Clock, logger: Logger, latest: number | null) {
    this.#clock = clock
    this.#logger = logger
    this.#wall = clock.now()
    this.#passed = clock.monotonic()
    this.#from = this.#passed
    if (latest !== null && this.#wall - latest > MAX_PAUSE_MS) this.#doubt(this.#wall - latest)
  }

  /** To be asked every few minutes or more often: a jump is seen from one time to the next. */
  isBelieved(): boolean {
    const wall = this.#clock.now()
    const passed = this.#clock.monotonic()
    const stepMs = wall - this.#wall - (passed - this.#passed)
    this.#wall = wall
    this.#passed = passed
    if (Math.abs(stepMs) > MAX_STEP_MS) this.#doubt(stepMs)
    return passed >= this.#from
  }

  #doubt(jumpMs: number): void {
    this.#from = this.#passed + STEADY_MS
    this.#logger.warn(
      { jumpSeconds: Math.round(jumpMs / 1_000) },
      'The clock has jumped, or nothing ran for long; for an hour nothing is removed for its age.',
    )
  }
}
