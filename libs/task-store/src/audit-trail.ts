import {
  auditDetails,
  auditHash,
  type AuditEntry,
  type AuditHead,
  type NewAuditEntry,
} from '@gpu-service/tasks'
import { ANCHOR_SQL } from './audit-rows.ts'
import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'
import { insert, plain } from './statements.ts'

/** Of each text of an entry. */
const MAX_TEXT = 1_000

/**
 * Writes the audit log's entries in the order of the writer, all those of a transaction together. It alone does, so it knows the
 * log's end; where a transaction has failed it reads it anew.
 */
export interface AuditTrail {
  /** To be called as the last of a transaction. */
  write(transaction: Transaction, entries: readonly NewAuditEntry[]): Promise<void>
  /** Whether what was written last is committed. */
  settled(isCommitted: boolean): void
}

export function createAuditTrail(): AuditTrail {
  /** Of what is committed; `null`: not known. */
  let head: AuditHead | null = null
  let written: AuditHead | null = null

  return {
    async write(transaction, entries) {
      written = head
      if (entries.length === 0) return
      const at = Date.now()
      let last = head ?? (await readHead(transaction))
      const rows = entries.map((entry) => {
        const { seq, hash } = last
        const next = { ...trimmed(entry), seq: seq + 1, at, previousHash: hash }
        const row = { ...next, hash: auditHash(next) }
        last = row
        return columnsOf(row)
      })
      await insert(transaction, 'AuditEntry', rows)
      written = { seq: last.seq, hash: last.hash }
    },
    settled(isCommitted) {
      head = isCommitted ? written : null
    },
  }
}

async function readHead(transaction: Transaction): Promise<AuditHead> {
  const [row] = await transaction.query<AuditHead>(
    Prisma.sql`SELECT "seq", "hash" FROM "AuditEntry" ORDER BY "seq" DESC LIMIT 1`,
  )
  if (row !== undefined) return row
  const [anchor] = await transaction.query<AuditHead>(Prisma.raw(ANCHOR_SQL))
  if (anchor === undefined) throw new TypeError('An installation without a row has no audit log.')
  return anchor
}

/** With texts as the columns can hold them, since it is these that are read and hashed later. */
function trimmed(entry: NewAuditEntry): NewAuditEntry {
  const { actor, target, reason, details } = entry
  return {
    ...entry,
    actor: { ...actor, id: held(actor.id), name: held(actor.name), address: held(actor.address) },
    target: { ...target, id: held(target.id) },
    result: held(entry.result),
    reason: held(reason),
    details: Object.fromEntries(Object.entries(details).map(([name, text]) => [name, held(text)])),
  }
}

/** Most texts are. */
const PLAIN = /^[ -~]*$/

function held(text: string): string
function held(text: string | null): string | null
function held(text: string | null): string | null {
  if (text === null || (text.length <= MAX_TEXT && PLAIN.test(text))) return text
  return plain(text.slice(0, MAX_TEXT))
}

function columnsOf({ seq, at, actor, action, target, result, status, reason, details, hash }: AuditEntry) {
  return {
    ...{
      seq,
      at,
      actorKind: actor.kind,
      actorId: actor.id,
      actorName: actor.name,
      actorAddress: actor.address,
    },
    ...{ action, targetKind: target.kind, targetId: target.id, result, status, reason },
    ...{ details: auditDetails(details), hash },
  }
}
