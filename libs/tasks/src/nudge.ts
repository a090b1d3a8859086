/**
 * "Look again": level-triggered and without data. Take `version`, look, then wait past it; a nudge between the two is not lost, and a
 * lost or doubled one does no harm.
 */
export class Nudge {
  #version = 0
  #waiters = new Set<() => void>()

  get version(): number {
    return this.#version
  }

  nudge(): void {
    this.#version++
    const waiters = this.#waiters
    this.#waiters = new Set()
    for (const wake of waiters) wake()
  }

  /** Resolves once `version` has been passed, or at once when `signal` is aborted. Never rejects. */
  waitPast(version: number, signal: AbortSignal): Promise<void> {
    if (this.#version > version || signal.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake)
        this.#waiters.delete(wake)
        resolve()
      }
      this.#waiters.add(wake)
      signal.addEventListener('abort', wake, { once: true })
    })
  }
}

/** A nudge per key, kept only while somebody waits on it. */
export class NudgeMap<K> {
  readonly #entries = new Map<K, { readonly nudge: Nudge; holders: number }>()

  /** How many keys are watched. */
  get size(): number {
    return this.#entries.size
  }

  nudge(key: K): void {
    this.#entries.get(key)?.nudge.nudge()
  }

  /** The key's nudge; to be let go of once. */
  hold(key: K): { readonly nudge: Nudge; release(): void } {
    const entry = this.#entries.get(key) ?? { nudge: new Nudge(), holders: 0 }
    this.#entries.set(key, entry)
    entry.holders++
    return {
      nudge: entry.nudge,
      release: () => {
        if (--entry.holders === 0) this.#entries.delete(key)
      },
    }
  }
}
