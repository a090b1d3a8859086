#!/usr/bin/env node
// build.mjs [cpu|cuda]: makes dist/cpu or dist/cuda, from which Docker builds the image: the Dockerfile, and in app/ the worker's program with the
// engine as npm ships it for Linux on x64. Without Docker, `node dist/cpu/app/worker.js` is the worker. The engine is installed where it is missing or
// its lock file has changed.
import { spawnSync } from 'node:child_process'
import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { bundleWorker } from '../../../tools/bundle-worker.mjs'

const HERE = import.meta.dirname
/** Sources to compile the engine from, which nobody does here: 34 MB. */
const UNUSED = 'node_modules/node-llama-cpp/llama/gitRelease.bundle'

const [flavour = 'cpu'] = process.argv.slice(2)
if (flavour !== 'cpu' && flavour !== 'cuda') {
  console.error('usage: build.mjs [cpu|cuda]')
  process.exit(2)
}
const source = join(HERE, 'engine', flavour)
const dist = join(HERE, 'dist', flavour)
const app = join(dist, 'app')
await mkdir(app, { recursive: true })
await cp(join(HERE, flavour === 'cpu' ? 'Dockerfile' : `Dockerfile.${flavour}`), join(dist, 'Dockerfile'))
await installEngine()
await bundleWorker(HERE, join(app, 'worker.js'), ['node-llama-cpp'])

async function installEngine() {
  const lock = await readFile(join(source, 'package-lock.json'), 'utf8')
  // Written last: it says that all of the rest is there.
  const stamp = join(app, 'engine.lock')
  if ((await readFile(stamp, 'utf8').catch(() => null)) === lock) return
  await rm(stamp, { force: true })
  for (const name of ['package.json', 'package-lock.json']) await cp(join(source, name), join(app, name))
  // Optional packages are the engine for every other platform, 640 MB. No script is run: what there is to run is in the packages. `npm ci` would
  // refuse the lock file where it was made at a registry that has not all of these.
  const args = [
    'install',
    '--omit=optional',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
  ]
  const { status } = spawnSync('npm', args, { cwd: app, stdio: ['ignore', 2, 2] })
  if (status !== 0) {
    console.error('The engine could not be installed: npm install has failed, see above.')
    process.exit(1)
  }
  await rm(join(app, UNUSED), { force: true })
  await writeFile(stamp, lock)
}
