import { randomBytes } from 'node:crypto'
import type { KeyLimits, KeyStore, TextMap } from '@gpu-service/tasks'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toKey } from './rows.ts'
import { insert, jsonOrNull, plain } from './statements.ts'
import type { Writer } from './writer.ts'

/** The store's API keys, and the secret that browser tokens are signed with. */
export function createKeys(reader: PrismaClient, writer: Writer) {
  return {
    keys: async () => {
      const rows = await reader.apiKey.findMany({ orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] })
      return rows.map(toKey)
    },

    addKey: ({ presets, limits, name, owner, createdBy, ...key }, actor) =>
      writer.change(async (transaction) => {
        const { id, role } = key
        transaction.record({
          ...{ actor, action: 'key.create', target: { kind: 'key', id } },
          ...{ result: 'OK', status: null, reason: null, details: { name, owner, role } },
        })
        const columns = { name: plain(name), owner: plain(owner), createdBy: plain(createdBy) }
        await insert(transaction, 'ApiKey', [
          { ...key, ...columns, presets: jsonOrNull(presets), limits: JSON.stringify(limits) },
        ])
      }),

    revokeKey: (id, at, actor) =>
      writer.change(async (transaction) => {
        transaction.record({
          ...{ actor, action: 'key.revoke', target: { kind: 'key', id } },
          ...{ result: 'OK', status: null, reason: null, details: {} },
        })
        await transaction.execute(
          Prisma.sql`UPDATE "ApiKey" SET "revokedAt" = ${at} WHERE "id" = ${id} AND "revokedAt" IS NULL`,
        )
      }),

    setKeyLimits: (id, limits, actor) =>
      writer.change(async (transaction) => {
        const texts = Object.entries(limits).map(([name, amount]) => [name, String(amount ?? 'none')])
        transaction.record({
          ...{ actor, action: 'key.limit', target: { kind: 'key', id } },
          ...{ result: 'OK', status: null, reason: null, details: Object.fromEntries(texts) as TextMap },
        })
        const [row] = await transaction.query<{ readonly limits: string }>(
          Prisma.sql`SELECT "limits" FROM "ApiKey" WHERE "id" = ${id}`,
        )
        const before = JSON.parse(row?.limits ?? '{}') as Partial<KeyLimits>
        const now = JSON.stringify({ ...before, ...limits })
        await transaction.execute(Prisma.sql`UPDATE "ApiKey" SET "limits" = ${now} WHERE "id" = ${id}`)
      }),

    noteKeyUses: (uses) =>
      writer.change(async ({ execute }) => {
        for (const { id, lastUsedAt, lastUsedFrom } of uses)
          await execute(
            Prisma.sql`UPDATE "ApiKey" SET "lastUsedAt" = ${lastUsedAt}, "lastUsedFrom" = ${lastUsedFrom} WHERE "id" = ${id}`,
          )
      }),

    secret: () =>
      writer.change(async ({ execute, query }) => {
        const made = randomBytes(32).toString('hex')
        await execute(Prisma.sql`UPDATE "Installation" SET "secret" = ${made} WHERE "secret" IS NULL`)
        const [row] = await query<{ readonly secret: string }>(
          Prisma.sql`SELECT "secret" FROM "Installation"`,
        )
        return Buffer.from(row?.secret ?? '', 'hex')
      }),
  } satisfies KeyStore
}
