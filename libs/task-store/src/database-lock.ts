import { closeSync, openSync, readFileSync } from 'node:fs'
import Database from 'better-sqlite3'
import { StoreError, toStoreError } from './store-error.ts'

/** In the lock's own file, as `user_version`: the database was made. */
const MADE = 1
/** Where SQLite keeps `application_id` in a file's header, which holds the owner's process id: 4 bytes, the largest first. */
const OWNER_AT = 68

/** The database is this process's own until it is disposed of. */
export interface DatabaseLock extends Disposable {
  /** An earlier owner has made the database. */
  readonly isMarked: boolean
  /** Remembers that the database is made. */
  mark(): void
}

/**
 * Makes this process the only owner of the database until it disposes of the lock or dies, however it dies: an exclusive lock on a small
 * file beside the database, which the kernel releases. It goes through SQLite because Node.js has no file locks of its own. The file stays
 * where it is: removing it would let a third process lock another file of the same name.
 *
 * Throws `StoreError` DATABASE_IN_USE at once where another process is the owner.
 */
export function lockDatabase(file: string): DatabaseLock {
  const lockFile = `${file}.lock`
  let lock: Database.Database | null = null
  try {
    closeSync(openSync(lockFile, 'a', 0o600))
    lock = new Database(lockFile, { timeout: 0 })
    // Or there would be an empty journal file too, for as long as the lock is held.
    lock.pragma('journal_mode=MEMORY')
    // The lock is kept over commits.
    lock.pragma('locking_mode=EXCLUSIVE')
    lock.exec('BEGIN EXCLUSIVE; COMMIT')
    lock.pragma(`application_id=${process.pid}`)
  } catch (error) {
    lock?.close()
    const failure = toStoreError(error, `locking ${lockFile}`)
    if (failure.code !== 'DATABASE_BUSY')
      throw new StoreError('DATABASE_UNAVAILABLE', failure.message, { cause: error })
    const pid = ownerOf(lockFile)
    throw new StoreError(
      'DATABASE_IN_USE',
      `Another process${pid === null ? '' : ` (${pid})`} uses the database ${file}. Stop it first, or take another DATA_DIR.`,
      { cause: error },
    )
  }
  const held = lock
  return {
    get isMarked() {
      return held.pragma('user_version', { simple: true }) === MADE
    },
    mark() {
      if (!this.isMarked) held.pragma(`user_version=${MADE}`)
    },
    [Symbol.dispose]() {
      held.close()
    },
  }
}

/** Past the lock, which keeps SQLite itself from reading; `null`: it does not say. */
function ownerOf(lockFile: string): number | null {
  try {
    const pid = readFileSync(lockFile).readInt32BE(OWNER_AT)
    return pid > 0 ? pid : null
  } catch {
    return null
  }
}
