import { constants } from 'node:fs'
import { copyFile, link, open, rename, rm } from 'node:fs/promises'
import { PARTIAL } from './partial.ts'

/** Other disks, file systems without links, files of another user, and files that have as many names as can be. */
const NO_LINKS = ['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP']

/** Gives a file that never changes a second name or, where that cannot be had, a durable copy. Harmless where there is one of the name. */
export async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to)
    return
  } catch (error) {
    const code = codeOf(error) ?? ''
    if (code === 'EEXIST') return
    if (!NO_LINKS.includes(code)) throw error
  }
  const partial = `${to}${PARTIAL}`
  // One that was cut off may be read-only.
  await rm(partial, { force: true })
  await copyFile(from, partial, constants.COPYFILE_FICLONE)
  {
    await using copy = await open(partial)
    await copy.sync()
  }
  await rename(partial, to)
}

/** The system's code of an error; `null`: it has none. */
export function codeOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null
}
