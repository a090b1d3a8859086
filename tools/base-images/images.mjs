import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buildImage, hasImage, imageBytes, importImage, pullImage } from './engine.mjs'
import { BASE_IMAGES } from './recipes.mjs'
import { makeRootfs, megabytes } from './rootfs.mjs'

/** @typedef {(line: string) => void} Log */

/** Of a worker package's folder, what no image needs. */
const NOT_IN_IMAGES = new Set(['Dockerfile', 'node_modules', 'out-tsc', 'test'])

/**
 * Makes a base image from Debian packages. One that is there is left alone, unless `replace` is set.
 * @param {import('dockerode')} docker
 * @param {string} image A name of `BASE_IMAGES`.
 * @param {{ replace: boolean, log: Log }} options
 */
export async function makeBaseImage(docker, image, { replace, log }) {
  const present = await imageBytes(docker, image)
  if (present !== null && !replace) {
    log(`${image}: is there already (${megabytes(present)}), left as it is`)
    return
  }
  const { rootfs, changes } = BASE_IMAGES[image]
  const tarball = await makeRootfs(rootfs, { fresh: replace, log: (line) => log(`${image}: ${line}`) })
  const started = performance.now()
  const message = `Made from Debian ${rootfs.release} packages by npm run base-images`
  await importImage(docker, { image, tarball, changes, message })
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  log(`${image}: imported in ${seconds} s, ${megabytes(await imageBytes(docker, image))}`)
}

/**
 * Builds a worker package's image where the engine does not have it. Its base image is pulled where it is missing, or made from Debian
 * packages where it cannot be pulled.
 * @param {import('dockerode')} docker
 * @param {{ folder: string, image: string, log: Log }} worker
 */
export async function ensureWorkerImage(docker, { folder, image, log }) {
  if (await hasImage(docker, image)) return
  await ensureBaseImagesOf(docker, folder, log)
  const files = (await readdir(folder)).filter((name) => !name.startsWith('.') && !NOT_IN_IMAGES.has(name))
  const started = performance.now()
  await buildImage(docker, { folder, files, image })
  log(`${image}: built in ${((performance.now() - started) / 1000).toFixed(1)} s`)
}

/**
 * Pulls or makes what a worker package's image is built from.
 * @param {import('dockerode')} docker
 * @param {string} folder
 * @param {Log} log
 */
export async function ensureBaseImagesOf(docker, folder, log) {
  for (const base of await baseImagesOf(folder)) await ensureBaseImage(docker, base, log)
}

/**
 * Pulls a base image where it is missing, or makes it from Debian packages where it cannot be pulled.
 * @param {import('dockerode')} docker
 * @param {string} base
 * @param {Log} log
 */
export async function ensureBaseImage(docker, base, log) {
  if (await hasImage(docker, base)) return
  try {
    log(`${base}: pulling`)
    await pullImage(docker, base)
  } catch (error) {
    log(`${base}: cannot be pulled (${error.message})`)
    if (!Object.hasOwn(BASE_IMAGES, base)) throw error
    await makeBaseImage(docker, base, { replace: false, log })
  }
}

async function baseImagesOf(folder) {
  const dockerfile = await readFile(join(folder, 'Dockerfile'), 'utf8')
  return [...dockerfile.matchAll(/^FROM\s+(?:--\S+\s+)*(\S+)/gim)].map((match) => match[1])
}
