import { constants } from 'node:fs'
import { open, realpath } from 'node:fs/promises'
import { Secret } from '@gpu-service/tasks'
import type { SecretReading, SecretReference, SecretSources } from '@gpu-service/tasks'
import { causeOf } from './bounded-file.ts'
import { isWithin, realFolders } from './host-folders.ts'

/** What the operator lets presets name as sources of secrets. */
export interface SecretPolicy {
  /** Folders of the host in which the files must lie; none: no files. */
  readonly secretRoots: readonly string[]
  /** What the names of the service's own variables must begin with. */
  readonly secretEnvPrefix: string
}

export interface SecretSourcesOptions extends SecretPolicy {
  /** The service's own environment. */
  readonly env: Readonly<Record<string, string | undefined>>
}

const MAX_SECRET_BYTES = 64 * 1024
const READABLE_BY_ALL = 0o004

/** The secret as a worker gets it, and whether every user of the host can read its source. */
export type CheckedReading =
  | (Extract<SecretReading, { status: 'read' }> & { readonly isOpenToAll: boolean })
  | Extract<SecretReading, { status: 'refused' }>

/** Reads secrets where the policy allows it, at the moment when a worker needs them: a source that is renewed serves the next worker. */
export function createSecretSources(options: SecretSourcesOptions): SecretSources {
  return { read: (reference) => readSecret(reference, options) }
}

export async function readSecret(
  reference: SecretReference,
  { secretRoots, secretEnvPrefix, env }: SecretSourcesOptions,
): Promise<CheckedReading> {
  const { name, from, source } = reference
  // Asked again: the settings may have changed since the preset was read.
  if (from === 'file') return readFileSecret(name, source, secretRoots)
  if (!source.startsWith(secretEnvPrefix)) return refused(variableRefusal(secretEnvPrefix))
  const value = env[source]
  if (value === undefined || value === '') return refused('the variable is not set.')
  return checked(name, Buffer.from(value), false)
}

/** Why a variable may not be named. */
export function variableRefusal(prefix: string): string {
  return `only variables of the service whose names begin with ${prefix} may be given to workers (SECRET_ENV_PREFIX).`
}

/** Why a file may not be named. */
export function fileRefusal(roots: readonly string[]): string {
  return roots.length === 0
    ? 'the service allows no folder of the host for secrets (SECRET_ROOTS is empty).'
    : `it is outside of the folders that may hold secrets (${roots.join(', ')}).`
}

async function readFileSecret(name: string, path: string, roots: readonly string[]): Promise<CheckedReading> {
  try {
    const real = await realpath(path)
    const allowed = await realFolders(roots)
    if (!allowed.some((root) => isWithin(real, root))) return refused(fileRefusal(roots))
    // Opened without following a last link and without waiting on a named pipe, then looked at through the handle: what was checked is
    // what is read.
    await using file = await open(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    const opened = process.platform === 'linux' ? await realpath(`/proc/self/fd/${file.fd}`) : real
    if (!allowed.some((root) => isWithin(opened, root))) return refused(fileRefusal(roots))
    const stats = await file.stat()
    if (!stats.isFile()) return refused('it is not a regular file.')
    const buffer = Buffer.alloc(MAX_SECRET_BYTES + 1)
    let length = 0
    while (length < buffer.length) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return checked(name, buffer.subarray(0, length), (stats.mode & READABLE_BY_ALL) !== 0)
  } catch (error) {
    return refused(`${causeOf(error)}.`)
  }
}

function checked(name: string, bytes: Uint8Array, isOpenToAll: boolean): CheckedReading {
  if (bytes.length === 0) return refused('it is empty.')
  if (bytes.length > MAX_SECRET_BYTES) return refused(`it is larger than ${MAX_SECRET_BYTES} bytes.`)
  return { status: 'read', secret: new Secret(name, bytes), isOpenToAll }
}

function refused(message: string): CheckedReading {
  return { status: 'refused', message }
}
