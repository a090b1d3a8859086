import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  canonicalJson,
  type ContentHashes,
  SCRUBBED_TEXT,
  scrubbedBody,
  SERVICE,
  type ArtifactId,
  type FailureEvidence,
  type JsonValue,
  type PrivacyClass,
  type TaskFinish,
  type TaskId,
  type TaskStore,
} from '@gpu-service/tasks'
import { countArtifactBytes } from './artifact-bytes.ts'
import { truncateLog } from './checkpoints.ts'
import { type Chunk, fromChunk, insertEvents } from './chunk.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { assignments } from './statements.ts'
import { releaseUploads } from './uploads.ts'
import type { Change, Writer } from './writer.ts'

/** Each is up to 256 KiB, and is read and written in one transaction. */
const CHUNKS_AT_ONCE = 4
/** Readers let go of the log within this, unless they are many and never pause: then it is done with the next task. */
const TRUNCATE_TRIES = 50
const TRUNCATE_WAIT_MS = 20

type Scrubbing = Exclude<PrivacyClass, 'full'>

/** The store's ways to remove the contents of tasks and keep the tasks. */
export function createScrub(
  file: string,
  reader: PrismaClient,
  writer: Writer,
): Pick<TaskStore, 'unscrubbed' | 'scrub'> {
  return {
    async unscrubbed({ before, limit }) {
      const rows = await reader.$queryRaw<readonly { readonly id: TaskId }[]>(Prisma.sql`
        SELECT t."id" FROM "Unscrubbed" AS u CROSS JOIN "Task" AS t ON t."id" = u."taskId"
        WHERE t."finishedAt" < ${before} ORDER BY u."taskId" LIMIT ${limit}`)
      const artifacts = await reader.artifact.findMany({
        where: { taskId: { in: rows.map(({ id }) => id) } },
        select: { id: true, taskId: true },
      })
      return rows.map(({ id }) => ({
        id,
        artifacts: artifacts.filter(({ taskId }) => taskId === id).map((row) => row.id as ArtifactId),
      }))
    },

    async scrub(id, at) {
      const begun = await writer.change((transaction) => scrubRows(transaction, id))
      if (begun === null) return []
      let after: number | null = 0
      while (after !== null) {
        const behind: number = after
        after = await writer.change((transaction) => scrubChunks(transaction, id, behind, begun.privacy))
      }
      await writer.change(async ({ execute, record, index }) => {
        await execute(Prisma.sql`UPDATE "Task" SET "scrubbedAt" = ${at} WHERE "id" = ${id}`)
        await execute(Prisma.sql`DELETE FROM "Unscrubbed" WHERE "taskId" = ${id}`)
        index(id)
        record({
          ...{ actor: SERVICE, action: 'task.scrub', target: { kind: 'task', id } },
          ...{ result: 'OK', status: null, reason: null, details: { privacy: begun.privacy } },
        })
      })
      for (let tries = 0; tries < TRUNCATE_TRIES && !truncateLog(file); tries++) await sleep(TRUNCATE_WAIT_MS)
      return begun.uploads
    },
  }
}

interface Row {
  readonly privacy: Scrubbing
  readonly input: string
  readonly finish: string | null
  readonly errorCode: string | null
  readonly contentHashes: string | null
  readonly idempotencyKey: string | null
  readonly files: string | null
}

/** All rows but the events. `null`: there is no such task any more. */
async function scrubRows(
  transaction: Change,
  id: TaskId,
): Promise<{ readonly privacy: Scrubbing; readonly uploads: readonly ArtifactId[] } | null> {
  const { query, execute } = transaction
  const [row] = await query<Row>(Prisma.sql`
    SELECT "privacy", "input", "finish", "errorCode", "contentHashes", "idempotencyKey", "files" FROM "Task"
    WHERE "id" = ${id} AND "status" <> 'REMOVED'`)
  if (row === undefined) return null
  const { privacy } = row
  const isHashed = privacy === 'hashed'
  const [output] = await query<{ readonly text: string | null; readonly result: string | null }>(Prisma.sql`
    SELECT "text", "result" FROM "Output" WHERE "taskId" = ${id} ORDER BY "attempt" DESC LIMIT 1`)
  const columns = {
    contentHashes: isHashed ? (row.contentHashes ?? JSON.stringify(hashesOf(row.input, output))) : null,
    ...{ input: 'null', cancelReason: null, affinity: null, files: scrubbedFiles(row.files, privacy) },
    finish: row.finish === null ? null : scrubbedFinish(row.finish),
    errorMessage: row.errorCode === null ? null : SCRUBBED_TEXT,
    // A hash of the whole request; with an idempotency key it is what a repeated submission is known by.
    ...(!isHashed && row.idempotencyKey === null && { requestHash: '' }),
  }
  await execute(Prisma.sql`UPDATE "Task" SET ${assignments(columns)} WHERE "id" = ${id}`)
  const ofTask = Prisma.sql`"taskId" = ${id}`
  await execute(Prisma.sql`UPDATE "Output" SET "text" = NULL, "result" = NULL WHERE ${ofTask}`)
  await execute(Prisma.sql`
    UPDATE "Attempt" SET "errorMessage" = ${SCRUBBED_TEXT} WHERE ${ofTask} AND "errorCode" IS NOT NULL`)
  const attempts = await query<{ readonly attempt: number; readonly evidence: string }>(
    Prisma.sql`SELECT "attempt", "evidence" FROM "Attempt" WHERE ${ofTask} AND "evidence" IS NOT NULL`,
  )
  for (const { attempt, evidence } of attempts)
    await execute(Prisma.sql`
      UPDATE "Attempt" SET "evidence" = ${scrubbedEvidence(evidence)} WHERE ${ofTask} AND "attempt" = ${attempt}`)
  const [artifacts] = await query<{ readonly bytes: number | bigint | null }>(
    Prisma.sql`SELECT SUM("bytes") AS "bytes" FROM "Artifact" WHERE ${ofTask}`,
  )
  // The files are gone: their rows would promise what is not there. Their hashes are in the events.
  await execute(Prisma.sql`DELETE FROM "Artifact" WHERE ${ofTask}`)
  await countArtifactBytes(transaction, -Number(artifacts?.bytes ?? 0))
  const uploads = await releaseUploads(transaction, [id])
  return { privacy, uploads: uploads.map((upload) => upload.id) }
}

/** The next chunks behind `after`; gives the last one's last seq, or `null` where there was none. */
async function scrubChunks(
  transaction: Change,
  id: TaskId,
  after: number,
  privacy: Scrubbing,
): Promise<number | null> {
  const rows = await transaction.query<Chunk>(Prisma.sql`
    SELECT * FROM "EventChunk" WHERE "taskId" = ${id} AND "toSeq" > ${after} ORDER BY "toSeq" LIMIT ${CHUNKS_AT_ONCE}`)
  const last = rows.at(-1)
  if (last === undefined) return null
  await transaction.execute(Prisma.sql`
    DELETE FROM "EventChunk" WHERE "taskId" = ${id} AND "toSeq" > ${after} AND "toSeq" <= ${last.toSeq}`)
  const events = rows
    .flatMap((chunk) => fromChunk(chunk))
    .map((event) => ({ ...event, body: scrubbedBody(event.body, privacy) }))
  await insertEvents(transaction, [{ taskId: id, events }])
  return last.toSeq
}

function hashesOf(
  input: string,
  output: { readonly text: string | null; readonly result: string | null } | undefined,
): ContentHashes {
  const ofJson = (text: string): string => hashOf(canonicalJson(JSON.parse(text) as JsonValue))
  const { text = null, result = null } = output ?? {}
  return {
    input: ofJson(input),
    text: text === null ? null : hashOf(text),
    result: result === null ? null : ofJson(result),
  }
}

function hashOf(text: string): string {
  return `sha256:${createHash('sha256').update(text).digest('hex')}`
}

function scrubbedFinish(text: string): string {
  const finish = JSON.parse(text) as TaskFinish
  const error = finish.error && { code: finish.error.code, message: SCRUBBED_TEXT }
  return JSON.stringify({ ...finish, error })
}

function scrubbedEvidence(text: string): string {
  const evidence = JSON.parse(text) as FailureEvidence
  return JSON.stringify({ ...evidence, diagnosis: SCRUBBED_TEXT, stderr: [], stdout: [] })
}

/** With the hashes of what the files held, where these are kept. */
function scrubbedFiles(text: string | null, privacy: Scrubbing): string | null {
  if (text === null || privacy === 'ephemeral') return null
  const files = JSON.parse(text) as readonly object[]
  return JSON.stringify(files.map((file) => ({ ...file, name: '' })))
}
