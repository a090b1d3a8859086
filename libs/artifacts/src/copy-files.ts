import { constants, existsSync } from 'node:fs'
import { copyFile, link, open, opendir, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { PARTIAL } from './artifact-files.ts'

/**
 * Takes the artifacts of one folder over into another that do not have a file there yet, durably; both folders may be in use. On one disk
 * a file gets a second name: it never changes. What is removed meanwhile may be missing.
 */
export async function copyArtifactFiles(from: string, to: string): Promise<void> {
  for await (const { name } of await opendir(from)) {
    if (name.endsWith(PARTIAL) || existsSync(join(to, name))) continue
    try {
      await copyOne(join(from, name), join(to, name))
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error
    }
  }
  await using folder = await open(to)
  await folder.sync()
}

/** Those of the artifacts that have no file in the folder. */
export function artifactsWithoutFile(folder: string, ids: readonly string[]): readonly string[] {
  return ids.filter((id) => !existsSync(join(folder, id)))
}

/** Other disks, file systems without links, and files of another user. */
const NO_LINKS = ['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP']

async function copyOne(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
    return
  } catch (error) {
    if (!NO_LINKS.includes(codeOf(error) ?? '')) throw error
  }
  const partial = `${to}${PARTIAL}`
  await copyFile(from, partial, constants.COPYFILE_FICLONE)
  {
    await using copy = await open(partial, 'r+')
    await copy.sync()
  }
  await rename(partial, to)
}

function codeOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null
}
