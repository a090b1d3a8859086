import { type ArtifactId, type NewTask, SERVICE, type TaskStore, type Upload } from '@gpu-service/tasks'
import { countArtifactBytes } from './artifact-bytes.ts'
import type { Transaction } from './connection.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toUpload } from './rows.ts'
import { inBatches, insert, plain } from './statements.ts'
import type { Change, Writer } from './writer.ts'

/** The store's uploads. Whether a task has one is a row of TaskUpload: it is what they are counted by. */
export function createUploads(
  reader: PrismaClient,
  writer: Writer,
): Pick<
  TaskStore,
  'addUpload' | 'uploads' | 'unusedUploadBytes' | 'uploadIds' | 'expiredUploads' | 'removeUploads'
> {
  return {
    addUpload: ({ id, owner, name, mediaType, bytes, sha256, createdAt, expiresAt }, actor) =>
      writer.change(async (transaction) => {
        transaction.record({
          ...{ actor, action: 'upload.create', target: { kind: 'upload', id } },
          ...{ result: 'OK', status: null, reason: null },
          // Not its name: the log outlives the file, and a name can say what is in it.
          details: { mediaType, bytes: String(bytes), sha256, owner },
        })
        const texts = { owner: plain(owner), name: plain(name), mediaType: plain(mediaType) }
        await insert(transaction, 'Upload', [{ id, ...texts, bytes, sha256, createdAt, expiresAt, used: 0 }])
        await countArtifactBytes(transaction, bytes)
      }),

    async uploads(ids) {
      const found: Upload[] = []
      for (const batch of inBatches(ids))
        found.push(...(await reader.upload.findMany({ where: { id: { in: [...batch] } } })).map(toUpload))
      return found
    },

    async unusedUploadBytes(owner) {
      const [row] = await reader.$queryRaw<readonly { readonly bytes: number | bigint | null }[]>(
        Prisma.sql`SELECT SUM("bytes") AS "bytes" FROM "Upload" WHERE "owner" = ${plain(owner)} AND "used" = 0`,
      )
      return Number(row?.bytes ?? 0)
    },

    async uploadIds(after, limit) {
      const rows = await reader.upload.findMany({
        ...(after !== null && { where: { id: { gt: after } } }),
        select: { id: true },
        orderBy: { id: 'asc' },
        take: limit,
      })
      return rows.map(({ id }) => id as ArtifactId)
    },

    async expiredUploads(before, limit) {
      const rows = await reader.$queryRaw<readonly { readonly id: ArtifactId }[]>(Prisma.sql`
        SELECT "id" FROM "Upload" WHERE "used" = 0 AND "expiresAt" < ${before}
        ORDER BY "expiresAt", "id" LIMIT ${limit}`)
      return rows.map(({ id }) => id)
    },

    removeUploads: (ids, reason) =>
      writer.change(async (transaction) => {
        const removed = await removeUnused(transaction, ids)
        for (const id of removed)
          transaction.record({
            ...{ actor: SERVICE, action: 'upload.remove', target: { kind: 'upload', id } },
            ...{ result: 'OK', status: 'REMOVED', reason, details: {} },
          })
        return removed
      }),
  }
}

/** Lets go of the uploads of tasks whose removal begins; gives those that no task has any more, whose rows are gone with it. */
export async function releaseUploads(
  transaction: Change,
  taskIds: readonly string[],
): Promise<readonly { readonly id: ArtifactId; readonly taskId: string }[]> {
  const { query, execute } = transaction
  const ofTasks = Prisma.sql`"taskId" IN (${Prisma.join([...taskIds])})`
  const used = await query<{ readonly id: ArtifactId; readonly taskId: string }>(
    Prisma.sql`SELECT "uploadId" AS "id", "taskId" FROM "TaskUpload" WHERE ${ofTasks}`,
  )
  if (used.length === 0) return []
  await execute(Prisma.sql`DELETE FROM "TaskUpload" WHERE ${ofTasks}`)
  const lastTaskOf = new Map(used.map(({ id, taskId }) => [id, taskId]))
  const removed = await removeUnused(transaction, [...lastTaskOf.keys()])
  return removed.map((id) => ({ id, taskId: lastTaskOf.get(id) ?? '' }))
}

/** Notes that new tasks have the uploads. */
export async function useUploads(transaction: Transaction, tasks: readonly NewTask[]): Promise<void> {
  const rows = tasks.flatMap(({ id, files }) =>
    [...new Set(files.map((file) => file.id))].map((uploadId) => ({ taskId: id, uploadId })),
  )
  await insert(transaction, 'TaskUpload', rows)
  for (const batch of inBatches(rows))
    await transaction.execute(Prisma.sql`
      UPDATE "Upload" SET "used" = 1 WHERE "used" = 0 AND "id" IN (${Prisma.join(batch.map(({ uploadId }) => uploadId))})`)
}

/** Which of the uploads are not there. */
export async function uploadsGone(
  { query }: Transaction,
  ids: readonly ArtifactId[],
): Promise<ReadonlySet<ArtifactId>> {
  const gone = new Set(ids)
  for (const batch of inBatches([...gone])) {
    const rows = await query<{ readonly id: ArtifactId }>(
      Prisma.sql`SELECT "id" FROM "Upload" WHERE "id" IN (${Prisma.join([...batch])})`,
    )
    for (const { id } of rows) gone.delete(id)
  }
  return gone
}

async function removeUnused(
  transaction: Transaction,
  ids: readonly ArtifactId[],
): Promise<readonly ArtifactId[]> {
  const removed: ArtifactId[] = []
  for (const batch of inBatches(ids)) {
    const rows = await transaction.query<{ readonly id: ArtifactId; readonly bytes: number | bigint }>(
      Prisma.sql`
        DELETE FROM "Upload" WHERE "id" IN (${Prisma.join([...batch])}) 
          AND NOT EXISTS (SELECT 1 FROM "TaskUpload" WHERE "uploadId" = "Upload"."id") RETURNING "id", "bytes"`,
    )
    await countArtifactBytes(transaction, -rows.reduce((sum, { bytes }) => sum + Number(bytes), 0))
    removed.push(...rows.map(({ id }) => id))
  }
  return removed
}
