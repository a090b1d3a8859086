#!/usr/bin/env node
// npm run image [-- NAME:TAG …]: builds the service's image on the engine at DOCKER_HOST, else at Docker's default socket.
import { execFileSync } from 'node:child_process'
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { prepare, ROOT, SetupError } from './setup.mjs'

/** Its version is the one that the native database driver has been installed for. */
const NODE_IMAGE = process.env.NODE_IMAGE || `node:${process.versions.node.split('.')[0]}-trixie-slim`
const IMAGE = 'gpu-service'

async function main() {
  await prepare()
  const [{ connectEngine, EngineError, buildImage, imageBytes }, { ensureBaseImage }, { megabytes }] =
    await Promise.all([
      import('./base-images/engine.mjs'),
      import('./base-images/images.mjs'),
      import('./base-images/rootfs.mjs'),
    ])
  const { version } = JSON.parse(await readFile(join(ROOT, 'apps/api/package.json'), 'utf8'))
  const [image, ...others] =
    process.argv.length > 2 ? process.argv.slice(2) : [`${IMAGE}:${version}`, `${IMAGE}:latest`]
  const folder = await mkdtemp(join(tmpdir(), 'gpu-service-image-'))
  try {
    const docker = await connectEngine()
    await ensureBaseImage(docker, NODE_IMAGE, (line) => console.log(line))
    await layOut(folder)
    await buildImage(docker, {
      folder,
      files: ['app'],
      image,
      buildArgs: { NODE_IMAGE, VERSION: version, REVISION: revision() },
    })
    for (const other of others) {
      const [, repo, tag] = /^(.+?)(?::([^:/]+))?$/.exec(other)
      await docker.getImage(image).tag({ repo, tag: tag ?? 'latest' })
    }
    console.log(`${[image, ...others].join(', ')}: ${megabytes(await imageBytes(docker, image))}`)
  } catch (error) {
    if (!(error instanceof EngineError)) throw error
    throw new SetupError(`The image could not be built. ${error.message}`)
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** Puts what the image is built from into the folder: its Dockerfile, and `app`, which takes the place of the repository's root. */
async function layOut(folder) {
  const [{ buildStandalone, BESIDE_STANDALONE }, { stop }] = await Promise.all([
    import('./build-api.mjs'),
    import('esbuild'),
  ])
  const app = join(folder, 'app')
  await buildStandalone({ outdir: join(app, 'apps/api/dist') })
  await stop()
  for (const path of ['apps/api/package.json', 'apps/api/config']) {
    await cp(join(ROOT, path), join(app, path), { recursive: true })
  }
  for (const name of withDependencies(BESIDE_STANDALONE)) {
    await cp(join(ROOT, 'node_modules', name), join(app, 'node_modules', name), {
      recursive: true,
      dereference: true,
      filter: (path) => !NOT_IN_IMAGE.test(path),
    })
  }
  await cp(join(ROOT, 'apps/api/Dockerfile'), join(folder, 'Dockerfile'))
}

/** Sources and intermediate files of the native driver. */
const NOT_IN_IMAGE = /\/better-sqlite3\/(deps|src|build\/(?!Release$|Release\/better_sqlite3\.node$))/

/** What is needed only to install a package: it has been installed. */
const INSTALLERS = new Set(['prebuild-install'])

/** The packages, and those that they ask for. */
function withDependencies(names, found = new Set()) {
  const require = createRequire(join(ROOT, 'package.json'))
  for (const name of names) {
    if (found.has(name) || INSTALLERS.has(name)) continue
    found.add(name)
    const { dependencies = {} } = require(join(ROOT, 'node_modules', name, 'package.json'))
    withDependencies(Object.keys(dependencies), found)
  }
  return found
}

/** Of the sources; `unknown` outside of a git checkout. */
function revision() {
  try {
    const git = (...args) =>
      execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
    return git('rev-parse', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '-dirty')
  } catch {
    return 'unknown'
  }
}

main().catch((error) => {
  if (!(error instanceof SetupError)) throw error
  console.error(error.message)
  process.exitCode = 1
})
