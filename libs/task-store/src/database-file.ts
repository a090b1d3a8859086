import { statSync } from 'node:fs'
import { StoreError } from './store-error.ts'

/** How often the file is looked for. */
const LOOK_MS = 1_000

/**
 * Watches that the open database is still the file of its name: what is written into one that was removed is lost when the process ends.
 * What it gives throws `StoreError` DATABASE_UNAVAILABLE as long as the file is not there.
 */
export function watchFile(file: string): () => void {
  const { ino, dev } = statSync(file)
  let lookedAt = performance.now()
  let isGone = false

  return () => {
    const now = performance.now()
    if (isGone || now - lookedAt > LOOK_MS) {
      lookedAt = now
      const found = statSync(file, { throwIfNoEntry: false })
      isGone = found?.ino !== ino || found.dev !== dev
    }
    if (!isGone) return
    throw new StoreError(
      'DATABASE_UNAVAILABLE',
      `The database ${file} was removed or replaced while it was in use. Put it back, or stop the service and start it with what is there now.`,
    )
  }
}
