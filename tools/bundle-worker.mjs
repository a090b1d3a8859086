// bundle-worker.mjs FOLDER: makes dist/worker.js of a worker package in TypeScript, one file with all that it needs.
import { join, resolve } from 'node:path'
import { build } from 'esbuild'

const folder = resolve(process.argv[2] ?? '.')
await build({
  entryPoints: [join(folder, 'src/worker.ts')],
  outfile: join(folder, 'dist/worker.js'),
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'esm',
  // The SDK's sources: it need not have been built.
  conditions: ['@gpu-service/source'],
  logLevel: 'warning',
})
