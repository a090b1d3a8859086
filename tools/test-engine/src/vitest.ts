import { isEngineShared, openTestEngine } from './engine.ts'
import { BUSYBOX_IMAGE } from './images.ts'

/**
 * A global setup for Vitest: gives the run a Docker engine with the image `BUSYBOX_IMAGE`, unless an earlier setup did. Its end fails
 * where tests left anything on an engine that was started for them.
 */
export async function setup(): Promise<() => Promise<void>> {
  if (isEngineShared()) return () => Promise.resolve()
  const engine = await openTestEngine()
  await engine?.ensureImage(BUSYBOX_IMAGE)
  return async () => {
    await using open = engine
    // On an engine that others use too, what came meanwhile may be theirs.
    const leaks = open?.private === true ? await open.leaks() : []
    if (leaks.length === 0) return
    // Vitest prints an error of a teardown, but counts none.
    process.exitCode = 1
    throw new Error(`The tests left something on their engine:\n${leaks.join('\n')}`)
  }
}
