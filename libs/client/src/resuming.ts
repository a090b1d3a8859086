import { Backoff } from './backoff.ts'
import { GpuClientError } from './error.ts'
import { stoppable } from './stoppable.ts'
import type { Timing } from './timing.ts'
import type { Wire } from './wire.ts'

export interface ResumeOptions {
  /** Ends the iteration: it throws the signal's reason. */
  readonly signal?: AbortSignal | undefined
  /** Is told of each trouble that the iteration gets over by itself, when it is about to wait and then to try again. */
  readonly onRetry?: ((error: GpuClientError) => void) | undefined
}

/** What everything that resumes needs of the client. */
export interface Resumer {
  readonly wire: Wire
  readonly timing: Timing
  /** Aborted with the client. */
  readonly closed: AbortSignal
}

/**
 * Iterates one leg after the other until one of them says that it is over. A leg that breaks for a passing reason is followed by another one
 * after a wait; `worked()` says that it has brought something, so that the next wait is a short one again.
 */
export function resuming<T>(
  { timing, closed }: Resumer,
  { signal, onRetry }: ResumeOptions,
  leg: (stop: AbortSignal, worked: () => void) => AsyncGenerator<T, 'over' | 'again'>,
): AsyncIterableIterator<T, undefined> {
  return stoppable([signal, closed], async function* (stop) {
    const backoff = new Backoff(timing)
    const worked = (): void => {
      backoff.worked()
    }
    for (;;) {
      try {
        await backoff.wait(stop)
        if ((yield* leg(stop, worked)) === 'over') return undefined
      } catch (error) {
        if (!(error instanceof GpuClientError) || !error.isPassing) throw error
        backoff.failed(error)
        onRetry?.(error)
      }
    }
  })
}
