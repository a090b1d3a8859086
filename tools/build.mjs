// npm run build: apps/api/dist/main.js, the service as a machine runs it that starts it by itself.
import { prepare, runTool } from './setup.mjs'

async function main() {
  await prepare()
  const [{ buildApi }, { stop }] = await Promise.all([import('./build-api.mjs'), import('esbuild')])
  console.log(`Built ${await buildApi()}`)
  await stop()
}

runTool(main)
