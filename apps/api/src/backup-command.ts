import { resolve } from 'node:path'
import { StoreError } from '@gpu-service/task-store'
import { BackupError, backUp } from './backup.ts'
import { describeProblems, readConfig } from './config.ts'

const USAGE = `Usage: npm run backup -- FOLDER

Writes a copy of the database and of all artifacts into a new folder, with the settings that the service has.
`

/** `npm run backup`: 0 where there is a backup, 1 where there is none, 2 where it was called wrongly, 78 where the settings are wrong. */
async function main([folder, ...others]: readonly string[]): Promise<number> {
  if (folder === undefined || folder.startsWith('-') || others.length > 0) {
    process.stderr.write(USAGE)
    return 2
  }
  const read = readConfig(process.env, { cwd: process.cwd() })
  if (read.status === 'invalid') {
    process.stderr.write(`${describeProblems(read.problems)}\n`)
    return 78
  }
  try {
    const { artifacts, missing, ...backup } = await backUp(read.config, resolve(folder))
    process.stdout.write(`${backup.folder}: the database, looked through, and ${artifacts} artifact(s)\n`)
    if (missing.length > 0)
      process.stderr.write(`${missing.length} artifact(s) had no file: ${missing.slice(0, 10).join(', ')}\n`)
    return 0
  } catch (error) {
    const isTold = error instanceof BackupError || error instanceof StoreError
    const text = isTold ? error.message : error instanceof Error ? error.stack : String(error)
    process.stderr.write(`There is no backup. ${text}\n`)
    return 1
  }
}

process.exitCode = await main(process.argv.slice(2))
