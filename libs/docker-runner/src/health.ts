import type { RunnerHealth } from '@gpu-service/tasks'
import type { DiskSpace, EngineDisk } from './disk.ts'
import { type Engine, EngineError } from './engine.ts'

/** How long the engine may take to say that it is there. */
const PING_MS = 2_000
/** A call that was not answered counts for so long. */
const HANG_COUNTS_MS = 10_000
const MB = 1_000_000

/** How the engine is: whether it answers, whether it has left a call without an answer lately, whether its disk has room. */
export async function engineHealth(engine: Engine, disk: EngineDisk): Promise<RunnerHealth> {
  try {
    await engine.call('GET', '/_ping', { timeoutMs: PING_MS, isProbe: true })
    const { lastHang } = engine
    if (lastHang !== null && Date.now() - lastHang.at < HANG_COUNTS_MS)
      return { ok: false, detail: lastHang.message }
    const space = await disk.space()
    return space === null ? { ok: true, detail: 'docker' } : healthOf(space)
  } catch (error) {
    if (!(error instanceof EngineError)) throw error
    return { ok: false, detail: error.message }
  }
}

function healthOf({ path, freeBytes, totalBytes }: DiskSpace): RunnerHealth {
  const free = `${Math.floor(freeBytes / MB)} of ${Math.floor(totalBytes / MB)} MB are free`
  if (freeBytes < 64 * MB || freeBytes < totalBytes * 0.01)
    return {
      ok: false,
      detail: `docker: the disk of ${path} is full (${free}): what workers say may be lost`,
    }
  const isLow = freeBytes < 1_000 * MB || freeBytes < totalBytes * 0.05
  return { ok: true, detail: isLow ? `docker: the disk of ${path} is nearly full (${free})` : 'docker' }
}
