import { auditDetails, type Actor, type AuditEntry, type AuditTarget, type TextMap } from '@gpu-service/tasks'
import { recordOf, text } from './shape.ts'

/** A row of AuditEntry, as plain SQL gives it, with the hash of the one before it. */
export interface AuditRow {
  readonly seq: number | bigint
  readonly at: number | bigint
  readonly actorKind: string
  readonly actorId: string | null
  readonly actorName: string
  readonly actorAddress: string | null
  readonly action: string
  readonly targetKind: string
  readonly targetId: string | null
  readonly result: string
  readonly status: string | null
  readonly reason: string | null
  readonly details: string
  readonly hash: string
  readonly previousHash: string
}

/**
 * The entry that the row tells. Nothing is expected of it: whoever has changed it is found by its hash, which fits nothing but what was
 * written.
 */
export function toAuditEntry(row: AuditRow): AuditEntry {
  const { action, result, status, reason, hash, previousHash } = row
  return {
    ...{ seq: Number(row.seq), at: Number(row.at), action, result, status, reason, hash, previousHash },
    actor: {
      ...{ kind: row.actorKind as Actor['kind'], id: row.actorId },
      ...{ name: row.actorName, address: row.actorAddress },
    },
    target: { kind: row.targetKind as AuditTarget['kind'], id: row.targetId },
    details: toTexts(row.details),
  }
}

const texts = recordOf(text)

function toTexts(column: string): TextMap {
  try {
    const value: unknown = JSON.parse(column)
    // What is written otherwise than by this program is no entry of it, though it may read as one.
    if (texts(value) && auditDetails(value) === column) return value
  } catch {
    // As below.
  }
  return { unreadable: column }
}

/** The last entry that was removed at the front. */
export const ANCHOR_SQL = 'SELECT "auditAnchorSeq" AS "seq", "auditAnchorHash" AS "hash" FROM "Installation"'

/** The columns of an AuditRow: of e, with what comes before it. To be followed by conditions on e. */
export const ENTRIES_SQL = `
  SELECT e.*, COALESCE(p."hash", i."auditAnchorHash") AS "previousHash"
  FROM "AuditEntry" AS e LEFT JOIN "AuditEntry" AS p ON p."seq" = e."seq" - 1 CROSS JOIN "Installation" AS i`
