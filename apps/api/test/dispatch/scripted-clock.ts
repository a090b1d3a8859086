import type { Clock } from '@gpu-service/tasks'

interface Timer {
  readonly dueAt: number
  readonly callback: () => void
}

/**
 * A clock that stands still until the test moves it. It begins a day ago and so stays behind the machine's own time, by which the simulated
 * GPUs are sampled.
 */
export class ScriptedClock implements Clock {
  #now = Date.now() - 86_400_000
  readonly #timers = new Set<Timer>()

  now(): number {
    return this.#now
  }

  after(ms: number, callback: () => void): Disposable {
    const timer = { dueAt: this.#now + ms, callback }
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
    const until = this.#now + ms
    for (;;) {
      const [next] = [...this.#timers].filter(({ dueAt }) => dueAt <= until).sort((a, b) => a.dueAt - b.dueAt)
      if (next === undefined) break
      this.#timers.delete(next)
      this.#now = Math.max(this.#now, next.dueAt)
      next.callback()
    }
    this.#now = until
  }
}
