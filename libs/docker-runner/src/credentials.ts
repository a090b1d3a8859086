import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import type { Logger } from '@gpu-service/tasks'
import { isRecord } from './container-info.ts'

const MAX_FILE_BYTES = 1024 * 1024
/** Docker Hub as it is named in Docker's own file. */
const DOCKER_HUB = 'https://index.docker.io/v1/'

/** What a registry is shown, in the words of the engine's API. */
export interface RegistryCredentials {
  readonly username?: string
  readonly password?: string
  readonly identitytoken?: string
  readonly registrytoken?: string
  readonly serveraddress: string
}

export interface Credentials {
  /** What is known for the registry of an image, looked up anew each time. Never throws. */
  of(image: string): Promise<RegistryCredentials | null>
}

/** Docker's own configuration of the user that the service runs as. */
export function defaultCredentialsFile(): string {
  const { DOCKER_CONFIG } = process.env
  return join(
    DOCKER_CONFIG === undefined || DOCKER_CONFIG === '' ? join(homedir(), '.docker') : DOCKER_CONFIG,
    'config.json',
  )
}

/** Reads `auths` of a file in the form of Docker's own. What cannot be read is logged without its content, and ignored. */
export function createCredentials(path: string | null, logger: Logger): Credentials {
  let storesAreNamed = false

  /** Once: programs that hand out credentials are not run. */
  function nameStores(file: Readonly<Record<string, unknown>>): void {
    const stores = ['credsStore', 'credHelpers'].filter((key) => file[key] !== undefined)
    if (storesAreNamed || stores.length === 0) return
    storesAreNamed = true
    logger.warn(
      { path, ignored: stores },
      'credential stores and helpers are ignored; registries are shown only what stands under `auths`',
    )
  }

  return {
    async of(image) {
      if (path === null) return null
      let problem: string
      try {
        const text = await readBounded(path)
        if (text === null) return null
        const file = parsed(text)
        nameStores(file)
        return credentialsIn(file['auths'], registryOf(image))
      } catch (error) {
        // The message of a parser may quote what it has read: only our own words are told, and codes of the system.
        problem = error instanceof FileProblem ? error.message : codeOf(error)
      }
      logger.warn({ path, problem }, 'the registry credentials cannot be read; the image is pulled without')
      return null
    },
  }
}

/** Its message holds nothing of the file. */
class FileProblem extends Error {
  override readonly name = 'FileProblem'
}

/** `null`: there is no such file. */
async function readBounded(path: string): Promise<string | null> {
  try {
    // Without O_NONBLOCK a pipe in its place would be waited for.
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    if (!(await file.stat()).isFile()) throw new FileProblem('it is not a file')
    const buffer = Buffer.alloc(MAX_FILE_BYTES + 1)
    let length = 0
    for (let read = 1; read > 0 && length < buffer.length; length += read)
      read = (await file.read(buffer, length, buffer.length - length)).bytesRead
    if (length > MAX_FILE_BYTES) throw new FileProblem(`it is over ${MAX_FILE_BYTES} bytes`)
    return buffer.toString('utf8', 0, length)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw error
  }
}

function parsed(text: string): Readonly<Record<string, unknown>> {
  let file: unknown
  try {
    file = JSON.parse(text)
  } catch {
    throw new FileProblem('it is not JSON')
  }
  if (!isRecord(file)) throw new FileProblem('it is not a JSON object')
  return file
}

/** The registry's key: the host that an image's name begins with, else Docker Hub. */
function registryOf(image: string): string {
  const [first = '', ...rest] = image.split('/')
  const isHost = rest.length > 0 && (/[.:]/.test(first) || first === 'localhost')
  return !isHost || first === 'docker.io' || first === 'index.docker.io' ? DOCKER_HUB : first
}

function credentialsIn(auths: unknown, registry: string): RegistryCredentials | null {
  if (auths === undefined) return null
  if (!isRecord(auths)) throw new FileProblem('its `auths` is not an object')
  const entries = Object.entries(auths)
  const [, entry] =
    entries.find(([key]) => key === registry) ??
    entries.find(([key]) => hostOf(key) === hostOf(registry)) ??
    []
  if (entry === undefined) return null
  if (!isRecord(entry)) throw new FileProblem(`its entry for ${registry} is not an object`)
  const text = (key: string): string => {
    const value = entry[key] ?? ''
    if (typeof value !== 'string')
      throw new FileProblem(`\`${key}\` of its entry for ${registry} is not text`)
    return value
  }
  const auth = text('auth')
  const [username, password] = auth === '' ? [text('username'), text('password')] : userIn(auth, registry)
  const [identitytoken, registrytoken] = [text('identitytoken'), text('registrytoken')]
  // Docker leaves an empty entry where the credentials are in a store.
  if ([username, identitytoken, registrytoken].every((value) => value === '')) return null
  return {
    ...(username !== '' && { username }),
    ...(password !== '' && { password }),
    ...(identitytoken !== '' && { identitytoken }),
    ...(registrytoken !== '' && { registrytoken }),
    serveraddress: registry,
  }
}

/** Keys may be URLs, as older versions of Docker wrote them. */
function hostOf(key: string): string {
  return key.replace(/^https?:\/\//, '').replace(/\/.*$/s, '')
}

function userIn(auth: string, registry: string): [string, string] {
  const isBase64 = /^[A-Za-z0-9+/]+={0,2}$/.test(auth) && auth.length % 4 === 0
  const text = isBase64 ? Buffer.from(auth, 'base64').toString('utf8') : ''
  const colonAt = text.indexOf(':')
  if (colonAt < 1)
    throw new FileProblem(`\`auth\` of its entry for ${registry} is not user:password in base64`)
  let end = text.length
  // Docker does so too: some tools have filled up the password.
  while (text[end - 1] === '\0') end--
  return [text.slice(0, colonAt), text.slice(colonAt + 1, end)]
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown'
}
