import { statfs } from 'node:fs/promises'
import type { HealthCheck } from './http/health.ts'

const MB = 1_000_000
/** With less than this nothing can be relied on any more: a task's first events may not find room. */
const FULL_BYTES = 64 * MB
/** With less than this, or this share, somebody should make room. */
const LOW_BYTES = 1_000 * MB
const LOW_SHARE = 0.05

/** How much room there is in the service's data folder. */
export async function diskCheck(folder: string): Promise<HealthCheck> {
  try {
    const { bavail, blocks, bsize } = await statfs(folder)
    return spaceCheck(bavail * bsize, blocks * bsize)
  } catch (error) {
    return { ok: false, detail: `The data folder cannot be looked at: ${String(error)}` }
  }
}

/** How much may still be taken in before somebody should make room, in bytes; below 0: nothing. */
export async function roomIn(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize - LOW_BYTES
}

/** What so much free space comes to, in bytes. */
export function spaceCheck(freeBytes: number, totalBytes: number): HealthCheck {
  const detail = `${Math.floor(freeBytes / MB)} of ${Math.floor(totalBytes / MB)} MB are free`
  if (freeBytes < FULL_BYTES) return { ok: false, detail: `full: ${detail}` }
  const isLow = freeBytes < LOW_BYTES || freeBytes < totalBytes * LOW_SHARE
  return { ok: true, detail: isLow ? `nearly full: ${detail}` : detail }
}
