/** Time, from outside: the domain has no clock of its own. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number
  /** Milliseconds since some moment. Unlike `now` it goes neither back nor ahead when somebody sets the machine's clock. */
  monotonic(): number
  /** Calls back once after `ms` milliseconds, unless disposed before. Does not keep the process alive. */
  after(ms: number, callback: () => void): Disposable
}

/** Waits, or less where `signal` is aborted. */
export function delay(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    const done = (): void => {
      timer[Symbol.dispose]()
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = clock.after(ms, done)
    signal.addEventListener('abort', done, { once: true })
  })
}
