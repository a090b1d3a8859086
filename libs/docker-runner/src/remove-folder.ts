import { randomUUID } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open, readdir, rename, rm, rmdir, unlink } from 'node:fs/promises'

const AS_FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW
/** Folders that are held open at a time; what lies deeper is moved up first. */
const MAX_DEPTH = 32
/** How often a folder is emptied in which somebody still writes. */
const MAX_ROUNDS = 100
const TOO_FAST = 'files of a worker come into being faster than they can be removed'
/** Why a folder is not removed: it is gone, something has come into being in it, or in its place. The next round meets that. */
const MET_AGAIN = ['ENOENT', 'ENOTEMPTY', 'ENOTDIR']

/**
 * Removes a folder with all that is in it, though a worker may still be writing there: nothing outside is touched, whatever is put in the
 * place of what, and a tree may be deeper than a path can be long. Names may be any bytes. Harmless where there is none.
 */
export async function removeFolder(path: string): Promise<void> {
  // Only Linux opens what lies in a folder by the folder's handle.
  if (process.platform !== 'linux') {
    await rm(path, { recursive: true, force: true })
    return
  }
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const folder = await openFolder(Buffer.from(path))
    if (folder === null) return
    try {
      await empty(folder, folder, 0)
    } finally {
      await folder.close()
    }
    await leaving(MET_AGAIN, rmdir(path))
  }
  throw new Error(TOO_FAST)
}

/** A handle, by which the folder is the same whatever its name comes to mean; `null`: there is none, and what was in its place is removed. */
async function openFolder(path: Buffer): Promise<FileHandle | null> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    try {
      return await open(path, AS_FOLDER)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return null
      if (!hasCode(error, 'ENOTDIR') && !hasCode(error, 'ELOOP')) throw error
      await leaving(['ENOENT', 'EISDIR'], unlink(path))
    }
  }
  throw new Error(TOO_FAST)
}

async function empty(folder: FileHandle, top: FileHandle, depth: number): Promise<void> {
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const entries = await readdir(Buffer.from(`/proc/self/fd/${folder.fd}`), {
      withFileTypes: true,
      encoding: 'buffer',
    })
    if (entries.length === 0) return
    for (const entry of entries) {
      const path = within(folder, entry.name)
      if (!entry.isDirectory()) await leaving(['ENOENT', 'EISDIR'], unlink(path))
      else if (depth < MAX_DEPTH) await removeInner(path, top, depth + 1)
      else await leaving(['ENOENT'], rename(path, within(top, Buffer.from(`.moved-${randomUUID()}`))))
    }
  }
  throw new Error(TOO_FAST)
}

async function removeInner(path: Buffer, top: FileHandle, depth: number): Promise<void> {
  const folder = await openFolder(path)
  if (folder === null) return
  try {
    await empty(folder, top, depth)
  } finally {
    await folder.close()
  }
  await leaving(MET_AGAIN, rmdir(path))
}

function within(folder: FileHandle, name: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${folder.fd}/`), name])
}

/** Does it, unless it fails for one of these reasons. */
async function leaving(codes: readonly string[], action: Promise<void>): Promise<void> {
  try {
    await action
  } catch (error) {
    if (!codes.some((code) => hasCode(error, code))) throw error
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}
