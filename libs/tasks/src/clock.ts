/** Time, from outside: the domain has no clock of its own. */
export interface Clock {
  /** Milliseconds since 1970: for moments that are kept or told. It can be set, and then jumps. */
  now(): number
  /** Milliseconds since some moment. Unlike `now` it goes neither back nor ahead when somebody sets the machine's clock. */
  monotonic(): number
  /** Calls back once after `ms` milliseconds, unless disposed before. Does not keep the process alive. */
  after(ms: number, callback: () => void): Disposable
}

/** Less is a clock that is kept right. */
const JUMP_MS = 1_000

/**
 * The clock, but `onJump` is told by how many milliseconds it was set forward (back: below 0) before anybody reads what it says then. So
 * whoever holds moments in memory can take them along: nothing is older or younger by it.
 */
export function watchJumps(clock: Clock, onJump: (ms: number) => void): Clock {
  let offset = clock.now() - clock.monotonic()
  return {
    monotonic: () => clock.monotonic(),
    after: (ms, callback) => clock.after(ms, callback),
    now() {
      const now = clock.now()
      const jumpMs = Math.round(now - clock.monotonic() - offset)
      if (Math.abs(jumpMs) >= JUMP_MS) {
        offset += jumpMs
        onJump(jumpMs)
      }
      return now
    },
  }
}

/** What is left of `ms` milliseconds that began at `from`; below 0 where they are over. A clock that was set back gives nobody more time. */
export function leftOf(clock: Clock, from: number, ms: number): number {
  return Math.min(ms, from + ms - clock.now())
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
