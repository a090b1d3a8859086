import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  AUDIT_REMOVED,
  SERVICE,
  type ArtifactId,
  type EndedTask,
  type ForgettingStore,
  type TaskId,
  type TaskRemoval,
} from '@gpu-service/tasks'
import { countArtifactBytes } from './artifact-bytes.ts'
import type { Transaction } from './connection.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { inBatches } from './statements.ts'
import { releaseUploads } from './uploads.ts'
import type { Change, Writer } from './writer.ts'

/** A stretch of a removal ends after so long, since nothing else runs in the process meanwhile, and after so many steps. */
const STRETCH_MS = 4
const STRETCH_STEPS = 16
/** So many times as long as it took is rested after it: there is no hurry. */
const RESTS = 3
/** Chunks of events are up to 256 KiB each; freeing one touches its pages. */
const CHUNKS_AT_ONCE = 4
const WORKERS_AT_ONCE = 20
const ENTRIES_AT_ONCE = 1_000
/** So many free pages of 4 KiB are left for what comes next, and as many as a quarter of the database. */
const SPARE_PAGES = 4_096
/** Each one given back may move another one. */
const PAGES_AT_ONCE = 128

/**
 * The store's ways to forget. What takes long is done in stretches: each is a short transaction with a rest after it, so that
 * whatever else wants to write has its turn.
 */
export function createRemoval(
  file: string,
  reader: PrismaClient,
  writer: Writer,
): Omit<ForgettingStore, 'uploadIds' | 'expiredUploads' | 'removeUploads' | 'unscrubbed' | 'scrub'> {
  async function stretch<T>(change: (transaction: Change, isOver: () => boolean) => Promise<T>): Promise<T> {
    let tookMs = 0
    const result = await writer.change(async (transaction) => {
      const start = performance.now()
      let steps = 0
      const isOver = (): boolean => ++steps >= STRETCH_STEPS || performance.now() - start > STRETCH_MS
      const value = await change(transaction, isOver)
      tookMs = performance.now() - start
      return value
    })
    await sleep(RESTS * tookMs)
    return result
  }

  async function ended(sql: Prisma.Sql): Promise<readonly EndedTask[]> {
    const rows = await reader.$queryRaw<readonly { readonly id: string; readonly finishedAt: unknown }[]>(sql)
    const tasks = new Map(rows.map(({ id, finishedAt }) => [id, Number(finishedAt)]))
    return [...tasks].map(([id, finishedAt]) => ({ id: id as TaskId, finishedAt }))
  }

  return {
    endedTasks: ({ before, limit, withArtifacts }) =>
      ended(withArtifacts ? endedWithArtifactsSql(before, limit) : endedSql(before, limit)),

    lastEnded: ({ before, limit }) => ended(lastEndedSql(before, limit)),

    beginRemoval: (ids, by = SERVICE, reason = null) =>
      writer.change(async (transaction) => {
        const { query, record, index } = transaction
        if (ids.length === 0) return []
        const rows = await query<{ readonly id: string }>(markSql(ids))
        if (rows.length === 0) return []
        for (const { id } of rows) {
          index(id as TaskId)
          record({
            ...{ actor: by, action: 'task.remove', target: { kind: 'task', id } },
            ...{ result: 'OK', status: 'REMOVED', reason, details: {} },
          })
        }
        const artifacts = await query<{ readonly id: string; readonly taskId: string }>(Prisma.sql`
          SELECT "id", "taskId" FROM "Artifact" WHERE "taskId" IN (${Prisma.join(rows.map(({ id }) => id))})`)
        const uploads = await releaseUploads(
          transaction,
          rows.map(({ id }) => id),
        )
        return rows.map(({ id }) =>
          toRemoval(
            id,
            [...artifacts, ...uploads].filter(({ taskId }) => taskId === id),
          ),
        )
      }),

    async removals(limit) {
      const tasks = await reader.task.findMany({
        where: { status: 'REMOVED' },
        select: { id: true, artifacts: { select: { id: true } } },
        take: limit,
      })
      return tasks.map(({ id, artifacts }) => toRemoval(id, artifacts))
    },

    continueRemoval: (ids) =>
      stretch(async (transaction, isOver) => {
        let gone = 0
        for (const id of ids) {
          if (!(await removeTask(transaction, id, isOver))) break
          gone++
          if (isOver()) break
        }
        return gone
      }),

    removeWorkers: (before) =>
      stretch(async (transaction, isOver) => {
        const rows = await transaction.query<{ readonly id: string }>(exitedSql(before, WORKERS_AT_ONCE))
        for (const { id } of rows)
          if (isOver() || !(await removeWorker(transaction, id, isOver))) return false
        return rows.length < WORKERS_AT_ONCE
      }),

    removeAudit: (before) => stretch((transaction) => removeAudit(transaction, before)),

    async knownArtifacts(ids) {
      const known = new Set<ArtifactId>()
      for (const batch of inBatches(ids)) {
        const rows = await reader.artifact.findMany({
          where: { id: { in: [...batch] } },
          select: { id: true },
        })
        const uploads = await reader.upload.findMany({
          where: { id: { in: [...batch] } },
          select: { id: true },
        })
        for (const { id } of [...rows, ...uploads]) known.add(id as ArtifactId)
      }
      return known
    },

    async usage() {
      const { pages, free, pageBytes } = await pagesOf(reader)
      const row = await reader.installation.findFirst({ select: { artifactBytes: true } })
      return {
        databaseBytes: (pages - free) * pageBytes,
        fileBytes: pages * pageBytes,
        logBytes: statSync(`${file}-wal`, { throwIfNoEntry: false })?.size ?? 0,
        artifactBytes: Number(row?.artifactBytes ?? 0),
      }
    },

    async giveSpaceBack() {
      const before = await pagesOf(reader)
      if (before.free <= Math.max(SPARE_PAGES, before.pages / 4)) return false
      await stretch(({ script }) => script(`PRAGMA incremental_vacuum(${PAGES_AT_ONCE})`))
      // A database that was made before they could be given back keeps them for what comes next.
      return (await pagesOf(reader)).pages < before.pages
    },
  }
}

/** By the ids: for many of them SQLite would rather walk through all tasks of these statuses, hence the plus. */
export function markSql(ids: readonly string[]): Prisma.Sql {
  return Prisma.sql`
    UPDATE "Task" SET "status" = 'REMOVED', "finishedAt" = NULL, "idempotencyKey" = NULL
    WHERE "id" IN (${Prisma.join([...ids])}) AND +"status" IN ('COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT')
    RETURNING "id"`
}

/** Tasks that ended before then, those first that ended first. */
export function endedSql(before: number, limit: number): Prisma.Sql {
  return Prisma.sql`
    SELECT "id", "finishedAt" FROM "Task" WHERE "finishedAt" < ${before} ORDER BY "finishedAt", "id" LIMIT ${limit}`
}

/** The same from the other end. */
export function lastEndedSql(before: number, limit: number): Prisma.Sql {
  return Prisma.sql`
    SELECT "id", "finishedAt" FROM "Task" WHERE "finishedAt" < ${before} ORDER BY "finishedAt" DESC, "id" DESC LIMIT ${limit}`
}

/**
 * The first ones of those that have artifacts or uploads, by the age of these: an id is greater for a later one. One that has several comes
 * several times.
 */
export function endedWithArtifactsSql(before: number, limit: number): Prisma.Sql {
  return Prisma.sql`
    SELECT t."id", t."finishedAt", a."id" AS "fileId" FROM "Artifact" AS a CROSS JOIN "Task" AS t ON t."id" = a."taskId"
    WHERE t."finishedAt" < ${before}
    UNION ALL
    SELECT t."id", t."finishedAt", u."uploadId" FROM "TaskUpload" AS u CROSS JOIN "Task" AS t ON t."id" = u."taskId"
    WHERE t."finishedAt" < ${before}
    ORDER BY "fileId" LIMIT ${limit}`
}

/** Workers that exited before then. */
export function exitedSql(before: number, limit: number): Prisma.Sql {
  return Prisma.sql`
    SELECT "id" FROM "Worker" WHERE "exitedAt" < ${before} ORDER BY "exitedAt", "id" LIMIT ${limit}`
}

/**
 * Removes all of a task whose removal has begun, or, where the time is over before, the end of its events: what is left of them is a log
 * without a hole until its row goes. Tells whether it is gone.
 */
async function removeTask(transaction: Transaction, id: TaskId, isOver: () => boolean): Promise<boolean> {
  const { execute, query } = transaction
  while ((await execute(lastChunks('EventChunk', 'taskId', id))) === CHUNKS_AT_ONCE)
    if (isOver()) return false
  const [artifacts] = await query<{ readonly bytes: number | bigint | null }>(
    Prisma.sql`SELECT SUM("bytes") AS "bytes" FROM "Artifact" WHERE "taskId" = ${id}`,
  )
  // The other tables' rows go with it.
  const removed = await execute(Prisma.sql`DELETE FROM "Task" WHERE "id" = ${id} AND "status" = 'REMOVED'`)
  if (removed > 0) await countArtifactBytes(transaction, -Number(artifacts?.bytes ?? 0))
  return true
}

async function removeWorker({ execute }: Transaction, id: string, isOver: () => boolean): Promise<boolean> {
  while ((await execute(lastChunks('WorkerLogChunk', 'workerId', id))) === CHUNKS_AT_ONCE)
    if (isOver()) return false
  await execute(Prisma.sql`DELETE FROM "Worker" WHERE "id" = ${id}`)
  return true
}

function lastChunks(
  table: 'EventChunk' | 'WorkerLogChunk',
  owner: 'taskId' | 'workerId',
  id: string,
): Prisma.Sql {
  const [chunks, column] = [Prisma.raw(`"${table}"`), Prisma.raw(`"${owner}"`)]
  return Prisma.sql`
    DELETE FROM ${chunks} WHERE ${column} = ${id} AND "toSeq" IN (
      SELECT "toSeq" FROM ${chunks} WHERE ${column} = ${id} ORDER BY "toSeq" DESC LIMIT ${CHUNKS_AT_ONCE})`
}

async function removeAudit({ execute, query, record }: Change, before: number): Promise<boolean> {
  const rows = await query<{ readonly seq: number; readonly at: number | bigint; readonly hash: string }>(
    Prisma.sql`SELECT "seq", "at", "hash" FROM "AuditEntry" ORDER BY "seq" LIMIT ${ENTRIES_AT_ONCE}`,
  )
  // The log goes on without a hole, so one that was written later keeps those behind it too: a clock may have been set back.
  const kept = rows.findIndex(({ at }) => Number(at) >= before)
  const last = (kept === -1 ? rows : rows.slice(0, kept)).at(-1)
  if (last === undefined) return true
  const { seq, hash } = last
  await execute(Prisma.sql`DELETE FROM "AuditEntry" WHERE "seq" <= ${seq}`)
  await execute(Prisma.sql`UPDATE "Installation" SET "auditAnchorSeq" = ${seq}, "auditAnchorHash" = ${hash}`)
  record({
    ...{ actor: SERVICE, action: AUDIT_REMOVED, target: { kind: 'audit', id: null } },
    ...{ result: 'OK', status: null, reason: null, details: { seq: String(seq), hash } },
  })
  return kept !== -1 || rows.length < ENTRIES_AT_ONCE
}

function toRemoval(id: string, artifacts: readonly { readonly id: string }[]): TaskRemoval {
  return { id: id as TaskId, artifacts: artifacts.map((artifact) => artifact.id as ArtifactId) }
}

interface Pages {
  readonly pages: number
  readonly free: number
  readonly pageBytes: number
}

async function pagesOf(reader: PrismaClient): Promise<Pages> {
  const [row] = await reader.$queryRaw<readonly { readonly [K in keyof Pages]: unknown }[]>(Prisma.sql`
    SELECT p."page_count" AS "pages", f."freelist_count" AS "free", s."page_size" AS "pageBytes"
    FROM pragma_page_count AS p, pragma_freelist_count AS f, pragma_page_size AS s`)
  return { pages: Number(row?.pages), free: Number(row?.free), pageBytes: Number(row?.pageBytes) }
}
