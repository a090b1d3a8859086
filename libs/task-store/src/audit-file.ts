import { type AuditEntry, type AuditHead, type AuditVerification, checkAudit } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { ANCHOR_SQL, type AuditRow, ENTRIES_SQL, toAuditEntry } from './audit-rows.ts'
import { StoreError, toStoreError } from './store-error.ts'

/** The audit log of a database that is only read: of a copy, or of a service that is stopped. */
export interface AuditFile extends Disposable {
  /** Looks through all of it. `kept`: a head that was kept elsewhere. Holds up the process until it is done. */
  verify(kept: AuditHead | null): AuditVerification
  /** All entries, oldest first. */
  entries(): Iterable<AuditEntry>
}

/** Throws `StoreError` DATABASE_UNAVAILABLE where there is no such database, or no audit log in it, or another one of its codes. */
export function openAuditFile(file: string): AuditFile {
  try {
    const database = new Database(file, { readonly: true, fileMustExist: true })
    try {
      return auditFile(database)
    } catch (error) {
      database.close()
      throw error
    }
  } catch (error) {
    if (error instanceof Error && error.message.startsWith('no such table'))
      throw new StoreError('DATABASE_UNAVAILABLE', `The database ${file} has no audit log.`, { cause: error })
    throw toStoreError(error, `opening ${file}`)
  }
}

function auditFile(database: Database.Database): AuditFile {
  const anchorOf = database.prepare<[], AuditHead>(ANCHOR_SQL)
  const all = database.prepare<[number], AuditRow>(`${ENTRIES_SQL} WHERE e."seq" > ? ORDER BY e."seq"`)

  function readAnchor(): AuditHead {
    const anchor = anchorOf.get()
    if (anchor !== undefined) return anchor
    throw new StoreError('DATABASE_CORRUPT', 'The database does not say which installation it is of.')
  }

  function* entries(): Generator<AuditEntry> {
    for (const row of all.iterate(readAnchor().seq)) yield toAuditEntry(row)
  }

  return {
    entries,
    // In a transaction: it looks at one moment, should somebody write meanwhile after all.
    verify: database.transaction((kept: AuditHead | null) => {
      const anchor = readAnchor()
      const check = checkAudit(anchor, true, kept)
      for (const entry of entries()) if (!check.next([entry])) break
      return check.end(anchor, true)
    }),
    [Symbol.dispose]() {
      database.close()
    },
  }
}
