import { closeSync, existsSync, fsyncSync, openSync, rmSync } from 'node:fs'
import Database from 'better-sqlite3'
import { StoreError, toStoreError } from './store-error.ts'

/** How long the copy waits for another program to let go of the database. */
const BUSY_TIMEOUT_MS = 10_000

/** A copy of a database that has been looked through. */
export interface DatabaseCopy {
  /** Of the artifacts and uploads that it knows. */
  readonly artifactIds: readonly string[]
}

/**
 * Writes the database as it is at one moment to `target`, durably, and looks it through. The service that owns it goes on meanwhile; its
 * write-ahead log is not emptied before the copy is made. Holds up the calling process for as long as it takes.
 *
 * Throws `StoreError` DATABASE_MISSING, INVALID_WRITE where `target` is there already, DATABASE_CORRUPT where the copy is not sound, or another
 * one of its codes; there is no copy then.
 */
export function copyDatabase(file: string, target: string): DatabaseCopy {
  if (!existsSync(file)) throw new StoreError('DATABASE_MISSING', `There is no database ${file}.`)
  if (existsSync(target)) throw new StoreError('INVALID_WRITE', `${target} is there already.`)
  try {
    // SQLite writes into an empty file too, and this one only its owner may read.
    closeSync(openSync(target, 'wx', 0o600))
    using source = opened(file)
    source.database.prepare('VACUUM INTO ?').run(target)
    const copy = inspect(target)
    makeDurable(target)
    return copy
  } catch (error) {
    rmSync(target, { force: true })
    throw toStoreError(error, `copying ${file}`)
  }
}

function inspect(file: string): DatabaseCopy {
  using copy = opened(file)
  const [first] = copy.database.pragma('integrity_check(1)') as [{ integrity_check: string }]
  if (first.integrity_check !== 'ok')
    throw new StoreError('DATABASE_CORRUPT', `The copy ${file} is damaged: ${first.integrity_check}`)
  return {
    artifactIds: copy.database
      .prepare<[], string>('SELECT id FROM Artifact UNION ALL SELECT id FROM Upload')
      .pluck()
      .all(),
  }
}

/** Not read-only: such a connection would leave the files of a write-ahead log behind, where the database has no other user. */
function opened(file: string): Disposable & { readonly database: Database.Database } {
  const database = new Database(file, { fileMustExist: true, timeout: BUSY_TIMEOUT_MS })
  return {
    database,
    [Symbol.dispose]() {
      database.close()
    },
  }
}

function makeDurable(file: string): void {
  const descriptor = openSync(file, 'r+')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}
