import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** A global setup for Vitest: workers in JavaScript use the package as it is installed, built. */
export async function setup(): Promise<void> {
  const root = join(import.meta.dirname, '../../../..')
  await promisify(execFile)(join(root, 'node_modules/.bin/tsc'), [
    '-p',
    join(root, 'workers/sdk/typescript/tsconfig.build.json'),
  ])
}
