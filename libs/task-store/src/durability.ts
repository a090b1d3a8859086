import { open, type FileHandle } from 'node:fs/promises'

/** Sees to it that what was committed outlives a loss of power. */
export interface Durability extends AsyncDisposable {
  /** Resolves when all that was committed before the call is on the disk. Those that are asked for meanwhile share one flush. */
  sync(): Promise<void>
}

/**
 * Flushes the write-ahead log from a thread of Node.js. SQLite would do it within the commit (`synchronous=FULL`), for every commit, and
 * hold up the whole process for it; here only those wait who must not be told before. The log is one file from the first write to the
 * last connection's end, and flushing it by another handle flushes the same pages.
 */
export function createDurability(file: string): Durability {
  let log: FileHandle | null = null
  let running: Promise<void> | null = null
  let next: Promise<void> | null = null

  async function flush(): Promise<void> {
    log ??= await open(`${file}-wal`, 'r')
    await log.datasync()
  }

  function begin(): Promise<void> {
    const flushing = flush().finally(() => {
      if (running === flushing) running = null
    })
    running = flushing
    return flushing
  }

  return {
    sync() {
      if (running === null) return begin()
      // The one that runs may have begun before the caller's commit.
      next ??= running
        .catch(() => undefined)
        .then(() => {
          next = null
          return begin()
        })
      return next
    },
    async [Symbol.asyncDispose]() {
      await Promise.allSettled([running, next])
      await log?.close()
    },
  }
}
