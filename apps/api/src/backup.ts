import { existsSync } from 'node:fs'
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { artifactsWithoutFile, copyArtifactFiles } from '@gpu-service/artifacts'
import { copyDatabase } from '@gpu-service/task-store'
import { artifactsFolderOf, databaseFileOf, type Config } from './config.ts'

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
 * Throws `BackupError` where the folder is there already or there is nothing to back up, and what the database and the file system throw.
 */
export async function backUp(
  config: Pick<Config, 'dataDir' | 'databaseFile'>,
  folder: string,
): Promise<Backup> {
  if (existsSync(folder))
    throw new BackupError(`${folder} is there already: a backup needs a folder of its own.`)
  const source = artifactsFolderOf(config)
  if (!existsSync(source))
    throw new BackupError(`${config.dataDir} is no data folder of a service: there is no ${source}.`)
  const draft = `${folder}${PARTIAL}`
  await mkdir(dirname(folder), { recursive: true })
  const made = await mkdir(draft, { recursive: true, mode: 0o700 })
  if (made === undefined)
    throw new BackupError(
      `${draft} is there: another backup is under way, or was broken off. Remove it then.`,
    )
  try {
    const target = artifactsFolderOf({ dataDir: draft })
    await mkdir(target, { mode: 0o700 })
    // Before the database, so that none that it knows can have been removed meanwhile, and after it, for those that have come.
    await copyArtifactFiles(source, target)
    const { artifactIds } = copyDatabase(
      databaseFileOf(config),
      databaseFileOf({ dataDir: draft, databaseFile: null }),
    )
    await copyArtifactFiles(source, target)
    const missing = await artifactsWithoutFile(target, artifactIds)
    await syncFolder(draft)
    await rename(draft, folder)
    await syncFolder(dirname(folder))
    return { folder, artifacts: artifactIds.length - missing.length, missing }
  } catch (error) {
    await rm(draft, { recursive: true, force: true })
    throw error
  }
}

/** Of a folder that is not complete yet. */
const PARTIAL = '.partial'

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path)
  await folder.sync()
}
