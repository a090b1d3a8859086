/**
 * A subscription's source: first what `initial` gives, then, for each set of changed keys, what `read` gives for them, item by item. Its
 * `return()` works while it waits, because it ends the wait.
 */
export function flatten<K, T>(
  changes: AsyncIterableIterator<readonly K[]>,
  initial: () => Promise<Iterable<T>> | Iterable<T>,
  read: (keys: readonly K[]) => Promise<Iterable<T>> | Iterable<T>,
): AsyncIterableIterator<T> {
  const items = (async function* (): AsyncGenerator<T, undefined> {
    yield* await initial()
    for await (const keys of changes) yield* await read(keys)
  })()
  return {
    [Symbol.asyncIterator]() {
      return this
    },
    next: () => items.next(),
    async return() {
      await changes.return?.()
      return items.return(undefined)
    },
  }
}
