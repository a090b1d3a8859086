import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import {
  access,
  chmod,
  mkdir,
  open,
  opendir,
  realpath,
  rename,
  rm,
  stat,
  type FileHandle,
} from 'node:fs/promises'
import { basename, dirname, isAbsolute, join, relative, sep } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { ArtifactFiles, ArtifactId, ArtifactSource, Taken } from '@gpu-service/tasks'
import { linkOrCopy } from './link-or-copy.ts'
import { PARTIAL } from './partial.ts'

/** Files that are asked about at once. */
const STRAYS = 500

const READ_BY_ALL = 0o444

const BASE64 = /^[A-Za-z0-9+/_-]*={0,2}$/

/** The artifacts' files of one installation. */
export interface ArtifactFolder extends ArtifactFiles {
  /** The file of an artifact, or `null` where it is gone. */
  find(id: ArtifactId): Promise<{ readonly path: string; readonly bytes: number } | null>
  /**
   * Keeps what a client sends: streamed, whole or not at all, and durable when it resolves. Everybody who reaches the file may read it, for
   * workers get it under a second name. Rejects with what `chunks` throws.
   */
  receive(id: ArtifactId, chunks: AsyncIterable<Buffer>): Promise<Received>
}

export interface Received {
  readonly bytes: number
  /** Lower-case hex. */
  readonly sha256: string
}

export interface ArtifactFolderOptions {
  /** Made where it is missing; only the service's own user may read it. */
  readonly folder: string
  /** The largest artifact, in bytes. */
  readonly maxBytes: number
}

/** Keeps each artifact as one plain file, named by its id, in one folder. */
export async function openArtifactFiles({
  folder,
  maxBytes,
}: ArtifactFolderOptions): Promise<ArtifactFolder> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const pathOf = (id: ArtifactId): string => join(folder, id)
  /** By this process, until strays have been looked for. */
  let taken: Set<string> | null = new Set()

  return {
    async take(id, source) {
      taken?.add(id)
      if (source.kind === 'data') {
        if (!BASE64.test(source.data)) return { status: 'refused', message: 'The data is not base64.' }
        const bytes = Buffer.from(source.data, 'base64')
        return take(pathOf(id), [bytes], maxBytes)
      }
      const file = await openInside(source)
      if (typeof file === 'string') return { status: 'refused', message: file }
      try {
        // Looked at first: a sparse file of terabytes is quickly made and slowly copied.
        if ((await file.stat()).size > maxBytes) return tooLarge(maxBytes)
        return await take(pathOf(id), file.createReadStream({ autoClose: false }), maxBytes)
      } finally {
        await file.close()
      }
    },
    async receive(id, chunks) {
      taken?.add(id)
      const received = await store(pathOf(id), chunks, { mode: READ_BY_ALL, durable: true })
      await using handle = await open(folder)
      await handle.sync()
      return received
    },
    async remove(id) {
      await rm(pathOf(id), { force: true })
    },
    async place(id, path) {
      await linkOrCopy(pathOf(id), path)
      // An artifact was the service's alone so far. Where it is, nobody else can enter.
      await chmod(path, READ_BY_ALL)
    },
    missing: (ids) => artifactsWithoutFile(folder, ids),
    async removeStrays(known, signal) {
      // What it has taken since the first time is not known any more.
      if (taken === null) return 0
      let removed = 0
      const remove = async (names: readonly string[]): Promise<void> => {
        const kept: ReadonlySet<string> = await known(names.map(idOf))
        for (const name of names) {
          if (kept.has(name) || taken?.has(idOf(name)) === true) continue
          await rm(join(folder, name), { force: true })
          removed++
        }
      }
      let names: string[] = []
      for await (const entry of await opendir(folder)) {
        if (!entry.isFile()) continue
        names.push(entry.name)
        if (names.length < STRAYS) continue
        await remove(names)
        names = []
        if (signal.aborted) return removed
      }
      await remove(names)
      taken = null
      return removed
    },
    async find(id) {
      const path = pathOf(id)
      const info = await stat(path).catch(() => null)
      return info === null ? null : { path, bytes: info.size }
    },
  }
}

/** Those of the artifacts that have no file in the folder. */
export async function artifactsWithoutFile<Id extends string>(
  folder: string,
  ids: readonly Id[],
): Promise<readonly Id[]> {
  const missing: Id[] = []
  for (const id of ids) await access(join(folder, id)).catch(() => missing.push(id))
  return missing
}

async function take(
  path: string,
  chunks: AsyncIterable<Buffer> | Iterable<Buffer>,
  maxBytes: number,
): Promise<Taken> {
  async function* bounded(): AsyncGenerator<Buffer, void> {
    let bytes = 0
    for await (const chunk of chunks) {
      bytes += chunk.length
      if (bytes > maxBytes) throw new TooLarge()
      yield chunk
    }
  }
  try {
    return { status: 'taken', ...(await store(path, bounded(), { mode: 0o600, durable: false })) }
  } catch (error) {
    if (error instanceof TooLarge) return tooLarge(maxBytes)
    throw error
  }
}

class TooLarge extends Error {}

/** Copies the chunks to `path`, whole or not at all. */
async function store(
  path: string,
  chunks: AsyncIterable<Buffer>,
  { mode, durable }: { readonly mode: number; readonly durable: boolean },
): Promise<Received> {
  const partial = `${path}${PARTIAL}`
  const hash = createHash('sha256')
  let bytes = 0
  const out = await open(partial, 'w', mode)
  try {
    // The process's umask has taken from it.
    await out.chmod(mode)
    await pipeline(
      async function* () {
        for await (const chunk of chunks) {
          bytes += chunk.length
          hash.update(chunk)
          yield chunk
        }
      },
      out.createWriteStream({ flush: durable }),
    )
    await rename(partial, path)
    return { bytes, sha256: hash.digest('hex') }
  } finally {
    await out.close().catch(() => undefined)
    await rm(partial, { force: true })
  }
}

/** Of a file, whole or cut off. */
function idOf(name: string): ArtifactId {
  return (name.endsWith(PARTIAL) ? name.slice(0, -PARTIAL.length) : name) as ArtifactId
}

function tooLarge(maxBytes: number): Taken {
  return {
    status: 'refused',
    message: `The file is larger than the ${maxBytes} bytes that an artifact may have.`,
  }
}

/** Opens a file that a worker named, or says why not. The worker writes the folder, so nothing in it is believed: no links, no way out. */
async function openInside({
  folder,
  path,
}: Extract<ArtifactSource, { kind: 'file' }>): Promise<FileHandle | string> {
  const inside = isAbsolute(path) ? relative(folder.worker, path) : path
  const outside = `${shown(path)} lies outside of the output folder.`
  if (inside === '' || inside.includes('\0') || leaves(inside)) return outside
  const root = await realFolder(folder.host)
  const real = root === null ? null : await realpath(join(root, inside)).catch(() => null)
  if (root === null || real === null) return `There is no file ${shown(path)} in the output folder.`
  if (leaves(relative(root, real))) return outside
  // Opened without following a last link and without waiting on a named pipe, then looked at through the handle: what was checked is what
  // is read.
  const file = await open(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    () => null,
  )
  if (file === null) return `The file ${shown(path)} cannot be read by the service.`
  const info = await file.stat()
  const opened =
    process.platform === 'linux' ? await realpath(`/proc/self/fd/${file.fd}`).catch(() => null) : real
  if (info.isFile() && opened !== null && !leaves(relative(root, opened))) return file
  await file.close()
  return `${shown(path)} is not a plain file in the output folder.`
}

/**
 * Where the folder really is; `null` where there is a link in its place, for a worker that may write in the folder around it can put one
 * there.
 */
async function realFolder(path: string): Promise<string | null> {
  try {
    const expected = join(await realpath(dirname(path)), basename(path))
    return (await realpath(path)) === expected ? expected : null
  } catch {
    return null
  }
}

/** A path that a worker made up: quoted, cut, and without characters that would change what stands around it. */
function shown(path: string): string {
  return JSON.stringify(path.slice(0, 200)).replace(
    /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

function leaves(inside: string): boolean {
  return inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside)
}
