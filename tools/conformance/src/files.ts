import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { chmod, copyFile } from 'node:fs/promises'
import { basename } from 'node:path'
import type { InputFile } from '@gpu-service/tasks'
import { CannotStart } from './cannot-start.ts'

/** Files of this machine, as the service gives its own to a task. Throws a `CannotStart` where one cannot be read. */
export function readFiles(paths: readonly string[]): Promise<InputFile[]> {
  return Promise.all(
    paths.map(async (path) => ({
      name: basename(path),
      mediaType: 'application/octet-stream',
      ...(await measure(path)),
      async placeAt(place: string) {
        await copyFile(path, place)
        await chmod(place, 0o444)
      },
    })),
  )
}

async function measure(path: string): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash('sha256')
  let bytes = 0
  try {
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      hash.update(chunk)
      bytes += chunk.length
    }
  } catch (error) {
    throw new CannotStart(`A file that it is to be given cannot be read: ${String(error)}`, { cause: error })
  }
  return { bytes, sha256: hash.digest('hex') }
}
