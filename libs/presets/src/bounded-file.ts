import { constants } from 'node:fs'
import type { BigIntStats } from 'node:fs'
import { open, stat } from 'node:fs/promises'

/** A file's content at one moment, with what tells that moment from others. */
export interface FileSnapshot {
  /** Differs from another one where the file does; `null` where it was written so recently that a clock may not tell. */
  readonly signature: string | null
  readonly content:
    | { readonly status: 'read'; readonly bytes: Uint8Array }
    | { readonly status: 'unreadable'; readonly message: string }
}

/** Writes this close to each other may bear the same time stamp. */
const CLOCK_GRAIN_MS = 50

/** Reads a regular file, at most one byte more than `maxBytes` of it. */
export async function readBoundedFile(path: string, maxBytes: number): Promise<FileSnapshot> {
  try {
    // Without O_NONBLOCK, opening a named pipe waits for its writer.
    await using handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const stats = await handle.stat({ bigint: true })
    const signature = signatureOf(stats)
    if (!stats.isFile())
      return { signature, content: { status: 'unreadable', message: 'it is not a regular file' } }
    const bytes = new Uint8Array(maxBytes + 1)
    let length = 0
    while (length < bytes.length) {
      const { bytesRead } = await handle.read(bytes, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return { signature, content: { status: 'read', bytes: bytes.subarray(0, length) } }
  } catch (error) {
    return { signature: codeOf(error), content: { status: 'unreadable', message: causeOf(error) } }
  }
}

/** The signature that a snapshot taken now would have. */
export async function fileSignature(path: string): Promise<string | null> {
  try {
    return signatureOf(await stat(path, { bigint: true }))
  } catch (error) {
    return codeOf(error)
  }
}

function signatureOf({ dev, ino, size, mtimeNs, ctimeNs, ctimeMs }: BigIntStats): string | null {
  if (Date.now() - Number(ctimeMs) < CLOCK_GRAIN_MS) return null
  return [dev, ino, size, mtimeNs, ctimeNs].join(':')
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
}

/** A failure of the file system in words. */
export function causeOf(error: unknown): string {
  switch (codeOf(error)) {
    case 'ENOENT':
    case 'ENOTDIR':
      return 'there is no file of that name'
    case 'EACCES':
    case 'EPERM':
      return 'it may not be read'
    case 'EISDIR':
      return 'it is a folder'
    case 'ELOOP':
      return 'its symbolic links go in a circle'
    default:
      return error instanceof Error ? error.message : String(error)
  }
}
