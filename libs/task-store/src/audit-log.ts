import { setImmediate as nextTurn } from 'node:timers/promises'
import {
  AUDIT_START,
  checkAudit,
  type AuditEntry,
  type AuditFilter,
  type AuditHead,
  type AuditLog,
  type AuditStretch,
  type AuditVerification,
} from '@gpu-service/tasks'
import { ANCHOR_SQL, type AuditRow, ENTRIES_SQL, toAuditEntry } from './audit-rows.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import type { Writer } from './writer.ts'

/** So many entries are tried on a filter at once. */
const SEARCH_STRETCH = 4_096
/** So many are verified at once: nothing else runs in the process meanwhile. */
const VERIFY_STRETCH = 256

/** The store's audit log, without its removal. */
export function createAuditLog(reader: PrismaClient, writer: Writer): Omit<AuditLog, 'removeAudit'> {
  async function entries(rest: Prisma.Sql): Promise<readonly AuditEntry[]> {
    const rows = await reader.$queryRaw<readonly AuditRow[]>(Prisma.sql`${Prisma.raw(ENTRIES_SQL)} ${rest}`)
    return rows.map(toAuditEntry)
  }

  async function readAnchor(): Promise<AuditHead> {
    const [row] = await reader.$queryRaw<readonly AuditHead[]>(Prisma.raw(ANCHOR_SQL))
    return row === undefined ? AUDIT_START : row
  }

  async function lastSeq(): Promise<number> {
    const [row] = await reader.$queryRaw<readonly { readonly seq: unknown }[]>(
      Prisma.sql`SELECT MAX("seq") AS "seq" FROM "AuditEntry"`,
    )
    return Number(row?.seq ?? 0)
  }

  /** The place of an entry; `null`: it is not there. */
  async function placeOf(seq: number): Promise<AuditHead | null> {
    const [entry] = await entries(Prisma.sql`WHERE e."seq" = ${seq}`)
    return entry === undefined ? null : { seq, hash: entry.hash }
  }

  /** `null`: entries that were still to come were removed at the front meanwhile. */
  async function verify(
    { after, first, kept }: AuditStretch,
    signal: AbortSignal | undefined,
  ): Promise<AuditVerification | null> {
    let anchor = await readAnchor()
    const isFront = after <= anchor.seq
    const from = isFront ? anchor : await placeOf(after)
    if (from === null) {
      const fault = { seq: after, message: `There is no entry ${after} to begin after.` }
      return { entries: 0, head: AUDIT_START, anchor, fault }
    }
    const check = checkAudit(from, isFront, kept)
    for (let left = first ?? Infinity; left > 0 && signal?.aborted !== true;) {
      await nextTurn()
      // Before the entries: the one that tells of the removal which has left it is then among them.
      anchor = await readAnchor()
      const more = await entries(Prisma.sql`
        WHERE e."seq" > ${check.head.seq} ORDER BY e."seq" LIMIT ${Math.min(VERIFY_STRETCH, left)}`)
      if ((await readAnchor()).seq > check.head.seq) return null
      if (more.length === 0) return check.end(anchor, true)
      if (!check.next(more)) break
      left -= more.length
    }
    return check.end(anchor, false)
  }

  return {
    recordAudit: (given) =>
      writer.change(({ record }) => {
        for (const entry of given) record(entry)
        return Promise.resolve()
      }),

    async auditLog({ filter, first, before }) {
      const conditions = conditionsOf(filter)
      const found: AuditEntry[] = []
      let end = before ?? (await lastSeq()) + 1
      const { seq: front } = await readAnchor()
      while (found.length <= first && end > front + 1) {
        const start = Math.max(front + 1, end - SEARCH_STRETCH)
        const where = [Prisma.sql`e."seq" < ${end}`, Prisma.sql`e."seq" >= ${start}`, ...conditions]
        const more = await entries(Prisma.sql`
          WHERE ${Prisma.join(where, ' AND ')} ORDER BY e."seq" DESC LIMIT ${first + 1 - found.length}`)
        found.push(...more)
        end = start
        await nextTurn()
      }
      return { entries: found.slice(0, first), hasNextPage: found.length > first }
    },

    async verifyAudit(stretch, signal) {
      for (;;) {
        const found = await verify(stretch, signal)
        if (found !== null) return found
      }
    },
  }
}

function conditionsOf(filter: AuditFilter): readonly Prisma.Sql[] {
  const { after, before, ...equal } = filter
  const conditions: Prisma.Sql[] = []
  if (after !== undefined) conditions.push(Prisma.sql`e."at" > ${after}`)
  if (before !== undefined) conditions.push(Prisma.sql`e."at" < ${before}`)
  for (const [column, value] of Object.entries(equal))
    conditions.push(Prisma.sql`e.${Prisma.raw(`"${column}"`)} = ${value}`)
  return conditions
}
