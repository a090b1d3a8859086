// npm run keys: makes, lists and ends API keys of the service in DATA_DIR, whether it runs or not.
import { pathToFileURL } from 'node:url'
import { prepare, runTool } from './setup.mjs'

async function main() {
  await prepare()
  const [{ buildApi }, { stop }] = await Promise.all([import('./build-api.mjs'), import('esbuild')])
  const bundle = await buildApi()
  await stop()
  process.argv.splice(2, 0, 'keys')
  await import(pathToFileURL(bundle).href)
}

runTool(main)
