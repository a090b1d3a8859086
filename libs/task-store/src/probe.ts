import { setTimeout as sleep } from 'node:timers/promises'
import type { StoreHealth } from '@gpu-service/tasks'
import { Prisma } from './generated/client.ts'
import { toStoreError } from './store-error.ts'
import type { Writer } from './writer.ts'

/** How long a write may take before the database counts as one that takes none. */
const PATIENCE_MS = 1_000
/** So long an answer is good for. */
const FRESH_MS = 500

/**
 * Tells whether the database takes writes, by writing: a disk that is full, a lock that somebody holds, a file that was made read-only all
 * show in nothing else.
 */
export function createProbe(writer: Writer): () => Promise<StoreHealth> {
  let last: { readonly health: StoreHealth; readonly at: number } | null = null
  let pending: { readonly result: Promise<StoreHealth>; readonly since: number } | null = null

  async function write(): Promise<StoreHealth> {
    try {
      await writer.change(({ execute }) => execute(Prisma.sql`UPDATE "Installation" SET "name" = "name"`))
      return { ok: true, detail: 'takes writes' }
    } catch (error) {
      return { ok: false, detail: toStoreError(error, 'a trial').message }
    }
  }

  return async () => {
    if (last !== null && performance.now() - last.at < FRESH_MS) return last.health
    if (pending === null) {
      const since = performance.now()
      const result = write().then((health) => {
        pending = null
        last = { health, at: performance.now() }
        return health
      })
      pending = { result, since }
    }
    const { result, since } = pending
    const slow = sleep(Math.max(0, since + PATIENCE_MS - performance.now()), null, { ref: false })
    const health = await Promise.race([result, slow])
    const waited = Math.round((performance.now() - since) / 1_000)
    return health ?? { ok: false, detail: `The database has taken no write for ${waited} s.` }
  }
}
