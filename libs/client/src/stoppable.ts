/**
 * Iterates what `run` generates, until one of the signals is aborted: then the iteration throws that signal's reason. Its `return()` works
 * also while it waits, because it aborts the signal that `run` is given.
 */
export function stoppable<T>(
  signals: readonly (AbortSignal | undefined)[],
  run: (stop: AbortSignal) => AsyncGenerator<T, undefined>,
): AsyncIterableIterator<T, undefined> {
  const returned = new AbortController()
  const given = signals.filter((signal) => signal !== undefined)
  const items = run(AbortSignal.any([returned.signal, ...given]))
  return {
    [Symbol.asyncIterator]() {
      return this
    },
    async next() {
      try {
        return await items.next()
      } catch (error) {
        // Whoever has left is not told that the wait was broken off for it.
        if (returned.signal.aborted) return DONE
        throw error
      }
    },
    async return() {
      returned.abort()
      // What it was waiting for ends with an error that nobody wants.
      await items.return(undefined).catch(() => undefined)
      return DONE
    },
  }
}

const DONE = { done: true, value: undefined } as const
