// bundle-worker.mjs FOLDER: makes dist/worker.js of a worker package in TypeScript, one file with all that it needs.
import { realpathSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** Bundles the worker of a package; `external`: packages that are to be found beside it. */
export async function bundleWorker(folder, outfile = join(folder, 'dist/worker.js'), external = []) {
  await build({
    entryPoints: [join(folder, 'src/worker.ts')],
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    // The SDK's sources: it need not have been built.
    conditions: ['@gpu-service/source'],
    external,
    logLevel: 'warning',
  })
}

// A link to it is it, too.
if (realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  await bundleWorker(resolve(process.argv[2] ?? '.'))
