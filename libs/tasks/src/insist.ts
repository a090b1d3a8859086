import { delay, type Clock } from './clock.ts'
import type { Logger } from './logger.ts'
import { RunnerError } from './runner.ts'

const FIRST_RETRY_MS = 150
const LAST_RETRY_MS = 5_000

export interface InsistContext {
  readonly clock: Clock
  readonly logger: Logger
  /** The runner's neighbour is away (`false`) or has answered again (`true`). */
  readonly reachable: (reachable: boolean, detail: string) => void
}

/**
 * Does something that only a neighbour in trouble can hinder, again and again until it is done; `null` where `signal` ended that. `fields`
 * go into the log beside each failure.
 */
export async function insist<T>(
  { clock, logger, reachable }: InsistContext,
  what: string,
  fields: Readonly<Record<string, string>>,
  signal: AbortSignal,
  action: () => Promise<T>,
): Promise<{ readonly value: T } | null> {
  for (let waitMs = FIRST_RETRY_MS; !signal.aborted; waitMs = Math.min(waitMs * 2, LAST_RETRY_MS)) {
    try {
      return { value: await action() }
    } catch (error) {
      if (error instanceof RunnerError && error.code === 'ENGINE_UNAVAILABLE') reachable(false, error.message)
      logger.warn({ err: error, ...fields }, `Could not ${what}; trying again.`)
      await delay(clock, waitMs, signal)
    }
  }
  return null
}
