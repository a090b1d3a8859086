import { statfs } from 'node:fs/promises'
import type { DiskRoom } from '@gpu-service/tasks'
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

/** Looks at the room in the folder again and again. A disk that was full has room again with twice as much free, so that it does not flutter. */
export async function watchRoom(folder: string, intervalMs: number): Promise<DiskRoom & AsyncDisposable> {
  let full: string | null = null
  const listeners = new Set<() => void>()
  async function look(): Promise<void> {
    // A folder that cannot be looked at is told by the check of the disk, and by whoever writes to it.
    const found = await statfs(folder).catch(() => null)
    if (found === null) return
    const free = found.bavail * found.bsize
    const isFull = free < (full === null ? FULL_BYTES : 2 * FULL_BYTES)
    const text = `The disk of the service's data is full: ${Math.floor(free / MB)} MB are free. Nothing new is begun until there is room.`
    const before = full
    full = isFull ? (before ?? text) : null
    if (full !== before) for (const listener of listeners) listener()
  }
  await look()
  const timer = setInterval(() => void look(), intervalMs)
  timer.unref()
  return {
    get full() {
      return full
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    [Symbol.asyncDispose]() {
      clearInterval(timer)
      return Promise.resolve()
    },
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
