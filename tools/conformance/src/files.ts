import { createHash } from 'node:crypto'
import { chmod, copyFile, readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import type { InputFile } from '@gpu-service/tasks'

/** Files of this machine, as the service gives its own to a task. */
export function readFiles(paths: readonly string[]): Promise<InputFile[]> {
  return Promise.all(
    paths.map(async (path) => {
      const content = await readFile(path)
      return {
        name: basename(path),
        mediaType: 'application/octet-stream',
        bytes: content.length,
        sha256: createHash('sha256').update(content).digest('hex'),
        async placeAt(place) {
          await copyFile(path, place)
          await chmod(place, 0o444)
        },
      }
    }),
  )
}
