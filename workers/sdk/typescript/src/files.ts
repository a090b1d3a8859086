import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isObject } from './json.ts'

/** A file that a task was given. It is the service's own, and other tasks may have it too: read it, and copy what is to be changed. */
export interface TaskFile {
  /** As its task calls it: free text, and one file name. */
  readonly name: string
  readonly mediaType: string
  readonly bytes: number
  /** In lower-case hex. */
  readonly sha256: string
  /** Where it is. */
  readonly path: string
}

/** The files in a folder, as the protocol tells of them; what it does not tell of is not there. */
export function filesIn(folder: unknown, told: unknown): TaskFile[] {
  if (typeof folder !== 'string' || !Array.isArray(told)) return []
  return told
    .filter(isObject)
    .flatMap(({ name, media_type: mediaType, bytes, sha256 }) =>
      typeof name === 'string' &&
      typeof mediaType === 'string' &&
      typeof bytes === 'number' &&
      typeof sha256 === 'string'
        ? [{ name, mediaType, bytes, sha256, path: join(folder, name) }]
        : [],
    )
}

/** The files of a one-off worker. One that was started by hand with a folder alone finds what is in there. */
export async function readFiles(folder: string | undefined, told: string | undefined): Promise<TaskFile[]> {
  if (!folder) return []
  if (told) return filesIn(folder, JSON.parse(told))
  const entries = await readdir(folder, { withFileTypes: true })
  const names = entries.filter((entry) => entry.isFile()).map(({ name }) => name)
  return Promise.all(names.sort().map((name) => describe(name, join(folder, name))))
}

async function describe(name: string, path: string): Promise<TaskFile> {
  const hash = createHash('sha256')
  for await (const bytes of createReadStream(path)) hash.update(bytes as Buffer)
  const { size } = await stat(path)
  return { name, mediaType: 'application/octet-stream', bytes: size, sha256: hash.digest('hex'), path }
}
