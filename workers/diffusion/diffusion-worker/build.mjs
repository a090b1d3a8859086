#!/usr/bin/env node
// build.mjs [cpu|vulkan]: makes dist/cpu or dist/vulkan, from which Docker builds the image: the Dockerfile, and in app/ the worker's program with the
// engine as npm ships it, for Linux on x64 alone. Without Docker, `node dist/cpu/app/worker.js` is the worker. The engine is installed where it is
// missing or its lock file has changed.
import { spawnSync } from 'node:child_process'
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { build } from 'esbuild'
import { bundleWorker } from '../../../tools/bundle-worker.mjs'

const HERE = import.meta.dirname
const ENGINE = join(HERE, 'engine')
const PLATFORM = 'linux-x64'
const DOCKERFILES = { cpu: 'Dockerfile', vulkan: 'Dockerfile.vulkan' }

const [flavour = 'cpu'] = process.argv.slice(2)
if (!Object.hasOwn(DOCKERFILES, flavour)) {
  console.error('usage: build.mjs [cpu|vulkan]')
  process.exit(2)
}
const dist = join(HERE, 'dist', flavour)
const app = join(dist, 'app')
await mkdir(app, { recursive: true })
await cp(join(HERE, DOCKERFILES[flavour]), join(dist, 'Dockerfile'))
await installEngine()
await bundleWorker(HERE, join(app, 'worker.js'))
await build({
  entryPoints: [join(HERE, 'src/painter.ts')],
  outfile: join(app, 'painter.cjs'),
  bundle: true,
  // Of the runtime Bare, which is neither Node.js nor a browser.
  platform: 'neutral',
  format: 'cjs',
  external: ['@qvac/*', 'bare-*'],
  logLevel: 'warning',
})

async function installEngine() {
  const lock = await readFile(join(ENGINE, 'package-lock.json'), 'utf8')
  for (const name of ['package.json', 'package-lock.json']) await cp(join(ENGINE, name), join(app, name))
  // Written last: it says that all of the rest is there.
  const stamp = join(app, 'engine.lock')
  if ((await readFile(stamp, 'utf8').catch(() => null)) === lock) return
  await rm(stamp, { force: true })
  // No script is run: what there is to run is in the packages.
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  const { status } = spawnSync('npm', args, { cwd: app, stdio: ['ignore', 2, 2] })
  if (status !== 0) {
    console.error('The engine could not be installed: npm ci has failed, see above.')
    process.exit(1)
  }
  await removeOtherPlatforms()
  await writeFile(stamp, lock)
}

/** The packages hold the engine for nine platforms, of which one is needed: 630 MB become 180, and 130 without Vulkan. */
async function removeOtherPlatforms() {
  const entries = await readdir(join(app, 'node_modules'), { recursive: true, withFileTypes: true })
  for (const { parentPath, name } of entries) {
    const isOfPlatform = parentPath.endsWith(`${sep}prebuilds`)
    if (isOfPlatform && name !== PLATFORM) await rm(join(parentPath, name), { recursive: true })
    if (flavour === 'cpu' && name.endsWith('-vulkan.so')) await rm(join(parentPath, name), { force: true })
  }
}
