import { delay, type Clock } from '../clock.ts'
import type { Logger } from '../logger.ts'
import { RunnerError, type WorkerRunner } from '../runner.ts'

export const FIRST_PROBE_MS = 250
export const LAST_PROBE_MS = 5_000

export interface ReachabilityOptions {
  readonly runner: Pick<WorkerRunner, 'list'>
  readonly clock: Clock
  readonly logger: Logger
  /** Aborted when nobody wants to know any more. */
  readonly signal: AbortSignal
  readonly onChange: () => void
}

/** Whether workers can be started: learned from every call to the runner, and asked for again while its neighbour is away. */
export class Reachability {
  readonly #options: ReachabilityOptions
  #blocked: string | null = null

  constructor(options: ReachabilityOptions) {
    this.#options = options
  }

  /** Why no worker can be started at the moment; `null`: they can. */
  get blocked(): string | null {
    return this.#blocked
  }

  /** The neighbour has answered (`true`), or is away. */
  note(reachable: boolean, detail: string): void {
    const { logger, onChange } = this.#options
    if (reachable) {
      if (this.#blocked === null) return
      this.#blocked = null
      logger.info({}, 'Workers can be started again.')
      onChange()
    } else if (this.#blocked === null) {
      this.#blocked = `No worker can be started: ${detail}`
      logger.warn({ detail }, 'No worker can be started; tasks wait.')
      onChange()
      void this.#probe()
    }
  }

  async #probe(): Promise<void> {
    const { runner, clock, signal } = this.#options
    for (let waitMs = FIRST_PROBE_MS; this.#blocked !== null; waitMs = Math.min(waitMs * 2, LAST_PROBE_MS)) {
      await delay(clock, waitMs, signal)
      if (signal.aborted) return
      const answered = await runner.list().then(
        () => true,
        () => false,
      )
      if (answered) this.note(true, '')
    }
  }
}

/** The runner's neighbour did not answer. */
export function isAway(error: unknown): error is RunnerError {
  return error instanceof RunnerError && error.code === 'ENGINE_UNAVAILABLE'
}
