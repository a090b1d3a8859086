// npm run bench: measures the service end to end and its parts, prints a table, and writes bench-results/bench.json.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { buildApi } from './build-api.mjs'
import { prepare, ROOT } from './setup.mjs'

await prepare()
await buildApi()
const bench = join(ROOT, 'apps/api/bench/main.ts')
const { status } = spawnSync(process.execPath, ['--import', 'tsx', bench, ...process.argv.slice(2)], {
  cwd: ROOT,
  stdio: 'inherit',
})
process.exitCode = status ?? 1
