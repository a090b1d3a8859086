// npm run new-worker -- CATEGORY/NAME [--language python|typescript]: the short form of `npx nx g @gpu-service/kit:worker`.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { prepare, ROOT, runTool } from './setup.mjs'

async function main() {
  await prepare()
  const nx = join(ROOT, 'node_modules/.bin/nx')
  const { status } = spawnSync(nx, ['g', '@gpu-service/kit:worker', ...process.argv.slice(2)], {
    cwd: ROOT,
    stdio: 'inherit',
    env: { NX_DAEMON: 'false', ...process.env },
  })
  process.exitCode = status ?? 1
}

runTool(main)
