import { StaleWriteError } from '@gpu-service/tasks'

export type StoreErrorCode =
  /** The URL names a database that this program cannot use. */
  | 'DATABASE_URL_INVALID'
  /** Another process owns the database. */
  | 'DATABASE_IN_USE'
  /** The database was migrated by a newer version of this program. */
  | 'DATABASE_NEWER'
  /** A migration failed or was edited after it had been applied, or the file is a database of something else. */
  | 'MIGRATION_FAILED'
  /** The file cannot be opened, or was removed while it was open. */
  | 'DATABASE_UNAVAILABLE'
  /** There was a database, and there is none any more. */
  | 'DATABASE_MISSING'
  /** Another program has held the database's lock for too long. Trying again later may help. */
  | 'DATABASE_BUSY'
  /** No room on the disk, or in the quota. Trying again later may help. */
  | 'DATABASE_FULL'
  | 'DATABASE_READ_ONLY'
  /** The operating system failed to read or write. */
  | 'DATABASE_IO'
  /** What is stored is damaged, or was not written by this program. */
  | 'DATABASE_CORRUPT'
  /** Any other failure of a statement. */
  | 'DATABASE_FAILED'
  | 'NOT_FOUND'
  /** The caller asked for a write that contradicts itself. */
  | 'INVALID_WRITE'
  /** A search with more words, or longer ones, than are allowed. */
  | 'INVALID_FILTER'
  | 'CLOSED'

/** An operation of the store that did not succeed; nothing of it was written. */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly code: StoreErrorCode
  constructor(code: StoreErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

// SQLite's primary result codes; an extended one (SQLITE_IOERR_WRITE) begins with its primary one.
const CODES: readonly (readonly [prefix: string, code: StoreErrorCode, what: string])[] = [
  ['SQLITE_FULL', 'DATABASE_FULL', 'The disk of the database is full'],
  ['SQLITE_BUSY', 'DATABASE_BUSY', 'The database is locked by another program'],
  ['SQLITE_LOCKED', 'DATABASE_BUSY', 'The database is locked by another program'],
  ['SQLITE_READONLY', 'DATABASE_READ_ONLY', 'The database cannot be written'],
  ['SQLITE_PERM', 'DATABASE_READ_ONLY', 'The database cannot be written'],
  ['SQLITE_IOERR', 'DATABASE_IO', 'The disk of the database failed'],
  ['SQLITE_CANTOPEN', 'DATABASE_UNAVAILABLE', 'The database cannot be opened'],
  ['SQLITE_CORRUPT', 'DATABASE_CORRUPT', 'The database is damaged'],
  ['SQLITE_NOTADB', 'DATABASE_CORRUPT', 'The file is not a database'],
]

/** The failure as the store tells it: its own errors as they are, the database's by their code. */
export function toStoreError(error: unknown, doing: string): StoreError | StaleWriteError {
  if (error instanceof StoreError || error instanceof StaleWriteError) return error
  const driver = driverCode(error)
  const [, code, what] = CODES.find(([prefix]) => driver?.startsWith(prefix) === true) ?? [
    '',
    'DATABASE_FAILED' as const,
    'The database refused it',
  ]
  return new StoreError(code, `${what} (${doing}${driver === null ? '' : `, ${driver}`}).`, { cause: error })
}

export function isBusy(error: unknown): boolean {
  return toStoreError(error, '').code === 'DATABASE_BUSY'
}

/** Failures of the database itself, which every other write would meet too. */
export function isOutage(error: unknown): boolean {
  const { code } = toStoreError(error, '')
  return (
    code === 'DATABASE_FULL' ||
    code === 'DATABASE_BUSY' ||
    code === 'DATABASE_READ_ONLY' ||
    code === 'DATABASE_IO' ||
    code === 'DATABASE_CORRUPT' ||
    code === 'DATABASE_UNAVAILABLE' ||
    code === 'CLOSED'
  )
}

/** The driver's own code, wherever Prisma has wrapped it: in the client's errors, in the driver adapter's, or bare. */
function driverCode(error: unknown): string | null {
  for (let at = error, depth = 0; isRecord(at) && depth < 6; depth++) {
    const { originalCode, code, meta, driverAdapterError, cause } = at
    if (typeof originalCode === 'string') return originalCode
    if (typeof code === 'string' && code.startsWith('SQLITE_')) return code
    at = meta ?? driverAdapterError ?? cause
  }
  return null
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
