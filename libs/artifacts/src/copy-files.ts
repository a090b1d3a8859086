import { existsSync } from 'node:fs'
import { open, opendir } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf, linkOrCopy } from './link-or-copy.ts'
import { PARTIAL } from './partial.ts'

/**
 * Takes the artifacts of one folder over into another that do not have a file there yet, durably; both folders may be in use. On one disk
 * a file gets a second name: it never changes. What is removed meanwhile may be missing.
 */
export async function copyArtifactFiles(from: string, to: string): Promise<void> {
  for await (const { name } of await opendir(from)) {
    if (name.endsWith(PARTIAL) || existsSync(join(to, name))) continue
    try {
      await linkOrCopy(join(from, name), join(to, name))
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error
    }
  }
  await using folder = await open(to)
  await folder.sync()
}
