// npm run backup -- FOLDER: a copy of the database and of the artifacts, while the service runs or not.
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { prepare, ROOT, runTool } from './setup.mjs'

async function main() {
  await prepare()
  const [{ buildApi }, { stop }] = await Promise.all([import('./build-api.mjs'), import('esbuild')])
  const bundle = await buildApi({
    entry: join(ROOT, 'apps/api/src/backup-command.ts'),
    outfile: join(ROOT, 'apps/api/dist/backup-command.js'),
  })
  await stop()
  await import(pathToFileURL(bundle).href)
}

runTool(main)
