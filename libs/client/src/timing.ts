/** How long things may take, in milliseconds unless it says otherwise. */
export interface Timing {
  /** About the longest wait before the first further try; it doubles with each failure … */
  readonly retryBaseMs: number
  /** … up to this. */
  readonly retryMaxMs: number
  /** From the start of a connection until the service has agreed to it. */
  readonly connectMs: number
  /** A connection on which nothing was heard for so long is pinged; one that has said nothing for so long after that is given up. */
  readonly livenessMs: number
  /** How long a connection is kept that nobody uses. */
  readonly idleMs: number
  /** Of one try of a query or mutation, to the end of its answer. */
  readonly requestMs: number
  /** How many times a query, or a mutation that may be repeated, is tried in all. */
  readonly requestTries: number
}

export const DEFAULT_TIMING: Timing = {
  retryBaseMs: 400,
  retryMaxMs: 10_000,
  connectMs: 10_000,
  // As often as the service asks its clients.
  livenessMs: 12_000,
  idleMs: 500,
  requestMs: 30_000,
  requestTries: 6,
}

/** Resolves after `ms`, unless the signal is aborted before: then it throws the signal's reason at once. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  await new Promise<void>((resolve) => {
    const wake = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', wake)
      resolve()
    }
    const timer = setTimeout(wake, ms)
    signal.addEventListener('abort', wake, { once: true })
  })
  signal.throwIfAborted()
}
