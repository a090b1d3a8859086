import type { Clock } from '@gpu-service/tasks'

interface Timer {
  /** By the monotonic reading. */
  readonly dueAt: number
  readonly callback: () => void
}

/**
 * A clock that stands still until the test moves it. It begins a day ago and so stays behind the machine's own time, by which the simulated
 * GPUs are sampled.
 */
export class ScriptedClock implements Clock {
  #setBy = Date.now() - 86_400_000
  #passed = 0
  readonly #timers = new Set<Timer>()

  now(): number {
    return this.#setBy + this.#passed
  }

  monotonic(): number {
    return this.#passed
  }

  /** As somebody who sets the clock: by so much it is later, or earlier, and no time has passed. */
  jump(ms: number): void {
    this.#setBy += ms
  }

  after(ms: number, callback: () => void): Disposable {
    const timer = { dueAt: this.#passed + ms, callback }
    this.#timers.add(timer)
    return {
      [Symbol.dispose]: () => {
        this.#timers.delete(timer)
      },
    }
  }

  /** Timers that were neither called back nor disposed. */
  get pending(): number {
    return this.#timers.size
  }

  /** Lets the time pass, and calls back in their order those that are due by then, those included that come up on the way. */
  advance(ms: number): void {
    const until = this.#passed + ms
    for (;;) {
      const [next] = [...this.#timers].filter(({ dueAt }) => dueAt <= until).sort((a, b) => a.dueAt - b.dueAt)
      if (next === undefined) break
      this.#timers.delete(next)
      this.#passed = Math.max(this.#passed, next.dueAt)
      next.callback()
    }
    this.#passed = until
  }
}
