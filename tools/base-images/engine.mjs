import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import Docker from 'dockerode'

/** @typedef {import('dockerode')} DockerEngine */

/** How the engine that the tools talk to is called in messages. */
export function engineName() {
  return process.env.DOCKER_HOST || 'the default Docker socket'
}

/**
 * The engine at DOCKER_HOST, else at Docker's default socket. Throws an `EngineError` where none answers within `timeoutMs`.
 * @param {{ timeoutMs?: number }} [options]
 * @returns {Promise<DockerEngine>}
 */
export async function connectEngine({ timeoutMs = 3_000 } = {}) {
  try {
    const docker = new Docker()
    await docker.ping({ abortSignal: AbortSignal.timeout(timeoutMs) })
    return docker
  } catch (cause) {
    throw new EngineError('UNREACHABLE', `No Docker engine answers at ${engineName()}: ${cause.message}`, {
      cause,
    })
  }
}

export class EngineError extends Error {
  name = 'EngineError'
  /** @param {'UNREACHABLE' | 'REFUSED'} code */
  constructor(code, message, options) {
    super(message, options)
    this.code = code
  }
}

/** @param {DockerEngine} docker */
export async function hasImage(docker, image) {
  return (await imageBytes(docker, image)) !== null
}

/**
 * An image's size; `null` where the engine does not have it.
 * @param {DockerEngine} docker
 */
export async function imageBytes(docker, image) {
  try {
    return (await docker.getImage(image).inspect()).Size
  } catch (error) {
    if (error.statusCode === 404) return null
    throw error
  }
}

/**
 * Makes an image of one layer from a tarball of a root filesystem; an image of that name loses the name.
 * @param {DockerEngine} docker
 * @param {{ image: string, tarball: string, changes: readonly string[], message: string }} source `changes`: lines of a Dockerfile.
 */
export async function importImage(docker, { image, tarball, changes, message }) {
  const { repo, tag } = parseReference(image)
  const response = await docker.importImage(createReadStream(tarball), { repo, tag, changes, message })
  await readProgress(response)
}

/**
 * Pulls an image. Throws an `EngineError` where it cannot be had, and where the engine reports nothing for `quietMs`.
 * @param {DockerEngine} docker
 */
export async function pullImage(docker, image, { quietMs = 20_000 } = {}) {
  const quiet = new AbortController()
  const giveUp = () => quiet.abort(new EngineError('REFUSED', `Nothing came for ${quietMs / 1000} s`))
  let timer = setTimeout(giveUp, quietMs)
  try {
    const response = await docker.pull(image, { abortSignal: quiet.signal })
    await readProgress(response, () => {
      clearTimeout(timer)
      timer = setTimeout(giveUp, quietMs)
    })
  } catch (error) {
    throw quiet.signal.aborted ? quiet.signal.reason : error
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Builds an image from a folder that holds a Dockerfile, as `docker build --network none` does.
 * @param {DockerEngine} docker
 * @param {{ folder: string, files: readonly string[], image: string, buildArgs?: Readonly<Record<string, string>> }} source
 */
export async function buildImage(docker, { folder, files, image, buildArgs = {} }) {
  const response = await docker.buildImage(
    { context: folder, src: ['Dockerfile', ...files] },
    { t: image, networkmode: 'none', forcerm: true, buildargs: buildArgs },
  )
  await readProgress(response)
}

/** The engine answers a long call with 200 at once and tells of a failure only in the stream that follows. */
async function readProgress(response, onMessage = () => undefined) {
  for await (const line of createInterface({ input: response, crlfDelay: Infinity })) {
    if (line.trim() === '') continue
    const message = JSON.parse(line)
    if (message.error !== undefined) throw new EngineError('REFUSED', message.error)
    onMessage()
  }
}

function parseReference(image) {
  const colon = image.lastIndexOf(':')
  return colon > image.lastIndexOf('/')
    ? { repo: image.slice(0, colon), tag: image.slice(colon + 1) }
    : { repo: image, tag: 'latest' }
}
