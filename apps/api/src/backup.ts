import { constants } from 'node:fs'
import { access, copyFile, link, mkdir, open, opendir, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { copyDatabase } from '@gpu-service/task-store'
import { databaseFileOf, artifactsFolderOf, type Config } from './config.ts'

/** What a backup holds. */
export interface Backup {
  readonly folder: string
  readonly artifacts: number
  /** Artifacts without a file: they had lost it before. */
  readonly missing: readonly string[]
}

/** Why there is no backup, for a person. */
export class BackupError extends Error {
  override readonly name = 'BackupError'
}

/**
 * Writes database and artifacts as they are at one moment into a new folder, which is laid out as a data folder is. The service may run
 * meanwhile. A folder of that name is there whole and looked through, or not at all.
 *
 * Throws `BackupError` where the folder is there already, and what the database and the file system throw.
 */
export async function backUp(
  config: Pick<Config, 'dataDir' | 'databaseFile'>,
  folder: string,
): Promise<Backup> {
  if (await exists(folder))
    throw new BackupError(`${folder} is there already: a backup needs a folder of its own.`)
  const draft = `${folder}${PARTIAL}`
  await mkdir(dirname(folder), { recursive: true })
  try {
    await mkdir(draft, { mode: 0o700 })
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw error
    throw new BackupError(
      `${draft} is there: another backup is under way, or was broken off. Remove it then.`,
    )
  }
  try {
    const source = artifactsFolderOf(config)
    const target = artifactsFolderOf({ dataDir: draft })
    await mkdir(target, { mode: 0o700 })
    // Before the database, so that none that it knows can have been removed meanwhile, and after it, for those that have come.
    await takeFiles(source, target)
    const { artifactIds } = copyDatabase(
      databaseFileOf(config),
      databaseFileOf({ dataDir: draft, databaseFile: null }),
    )
    await takeFiles(source, target)
    const missing: string[] = []
    for (const id of artifactIds) if (!(await exists(join(target, id)))) missing.push(id)
    await syncFolder(target)
    await syncFolder(draft)
    await rename(draft, folder)
    await syncFolder(dirname(folder))
    return { folder, artifacts: artifactIds.length - missing.length, missing }
  } catch (error) {
    await rm(draft, { recursive: true, force: true })
    throw error
  }
}

/** Of a file or folder that is not complete yet. */
const PARTIAL = '.partial'

/** Takes those files over that are not there yet. They never change: a second name is as good as a copy where both lie on one disk. */
async function takeFiles(source: string, target: string): Promise<void> {
  if (!(await exists(source))) return
  for await (const { name } of await opendir(source)) {
    if (name.endsWith(PARTIAL) || (await exists(join(target, name)))) continue
    try {
      await takeFile(join(source, name), join(target, name))
    } catch (error) {
      // Removed since it was listed.
      if (codeOf(error) !== 'ENOENT') throw error
    }
  }
}

async function takeFile(source: string, target: string): Promise<void> {
  try {
    await link(source, target)
  } catch (error) {
    if (!NO_LINKS.has(codeOf(error) ?? '')) throw error
    await copyFile(source, target, constants.COPYFILE_FICLONE)
    await using copy = await open(target, 'r+')
    await copy.sync()
  }
}

/** Another disk, a file system without links, or files of another user. */
const NO_LINKS = new Set(['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP'])

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path)
  await folder.sync()
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

function codeOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null
}
