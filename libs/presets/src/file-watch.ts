import { watch } from 'node:fs'
import type { FSWatcher } from 'node:fs'
import { dirname, resolve } from 'node:path'

/** Quiet time after an event, because editors write a file in several steps. */
const SETTLE_MS = 100
/** Where events come without a pause, the file is looked at after this time all the same. */
const MAX_SETTLE_MS = 1_000
/** Finds what no event tells: network file systems, the target of a symbolic link, a folder that was replaced. */
const POLL_MS = 2_000

/**
 * Calls `look` when the file at a path may have become another one: soon after something happens in its folder, and every few seconds in
 * any case. Does not keep the process alive.
 */
export function startFileWatch(file: string, look: () => void): Disposable {
  // The folder, not the file: where an editor saves by renaming, a watcher of the file stays with the old one.
  const folder = dirname(resolve(file))
  let watcher: FSWatcher | null = null
  let settling: NodeJS.Timeout | null = null
  let settlingSince = 0

  function openWatcher(): void {
    try {
      watcher = watch(folder, { persistent: false }, settle)
      watcher.on('error', closeWatcher)
    } catch {
      // The folder is not there, or the system has no watches left: the poll does the work, and tries again.
    }
  }

  function closeWatcher(): void {
    watcher?.close()
    watcher = null
  }

  function settle(): void {
    const now = performance.now()
    if (settling === null) settlingSince = now
    else clearTimeout(settling)
    const waitMs = Math.max(0, Math.min(SETTLE_MS, settlingSince + MAX_SETTLE_MS - now))
    settling = setTimeout(() => {
      settling = null
      look()
    }, waitMs).unref()
  }

  openWatcher()
  const poll = setInterval(() => {
    // The watcher of a folder that was removed and made again hears nothing of the new one, and is not told.
    closeWatcher()
    openWatcher()
    look()
  }, POLL_MS).unref()

  return {
    [Symbol.dispose]() {
      clearInterval(poll)
      if (settling) clearTimeout(settling)
      closeWatcher()
    },
  }
}
