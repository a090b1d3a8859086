import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

export const FOLDER = join(import.meta.dirname, '..')
const run = promisify(execFile)

/** A global setup for Vitest: the worker's bundle, and the engine from the registry where an earlier run has not left it. */
export async function setup(): Promise<void> {
  const engine = join(FOLDER, 'engine/cpu')
  if (!existsSync(join(engine, 'node_modules/.package-lock.json')))
    await run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: engine })
  await run(process.execPath, [join(FOLDER, '../../../tools/bundle-worker.mjs'), FOLDER])
}
