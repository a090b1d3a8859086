import {
  StaleWriteError,
  TASK_MOVES,
  type Settlement,
  type TaskAppend,
  type TaskStatus,
  type WorkerId,
} from '@gpu-service/tasks'
import type { AppendGroup, TaskGroup } from './append-group.ts'
import { toChunks, toWorkerLog } from './chunk.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import {
  errorColumns,
  inBatches,
  insertChunks,
  plain,
  tuples,
  type ColumnType,
  type Value,
} from './statements.ts'
import { StoreError } from './store-error.ts'
import type { Execute } from './writer.ts'

interface MovedRow {
  readonly id: string
}

/** The moves that a task may make, by the status that it makes them from; final ones are not among them. */
const MOVES = Object.entries<readonly TaskStatus[]>(TASK_MOVES).filter(([, next]) => next.length > 0)

const NOT_FINAL = Prisma.raw(`t."status" IN (${quoted(MOVES.map(([from]) => from))})`)

/** The domain's table as a condition on a task and the status in column5. */
const MAY_MOVE = Prisma.raw(
  MOVES.map(([from, next]) => `t."status" = '${from}' AND v.column5 IN (${quoted(next)})`).join(' OR '),
)

function quoted(words: readonly string[]): string {
  return words.map((word) => `'${word}'`).join(', ')
}

/**
 * Writes the group, in the transaction under way: a few statements, whatever the number of calls and tasks. Throws `StaleWriteError`
 * for a task that is not as its writer believes; a group of several calls is then to be rolled back and written call by call.
 */
export async function writeProgress(
  execute: Execute,
  client: PrismaClient,
  group: AppendGroup,
): Promise<void> {
  const tasks = [...group.tasks.values()]
  await moveTasks(client, tasks)
  await insertChunks(
    execute,
    tasks.flatMap(({ taskId, parts }) =>
      toChunks(
        taskId,
        parts.flatMap(({ events }) => events),
      ),
    ),
  )
  await insertArtifacts(execute, tasks)
  await settleAttempts(execute, tasks)
  await moveWorkers(execute, group)
}

/** Moves each task's `lastSeq`, and with it the columns that change, from where its writer knows it. */
async function moveTasks(client: PrismaClient, tasks: readonly TaskGroup[]): Promise<void> {
  const unchanged = tasks.filter(({ parts }) => parts.every(({ changes, settle }) => !changes && !settle))
  const changed = tasks.filter((task) => !unchanged.includes(task))
  for (const batch of inBatches(unchanged)) {
    const rows = batch.map(({ taskId, attempt, after, lastSeq }) => [taskId, attempt, after, lastSeq])
    const moved = await client.$queryRaw<readonly MovedRow[]>(Prisma.sql`
      UPDATE "Task" AS t SET "lastSeq" = v.column4
      FROM (VALUES ${tuples(rows, ['TEXT', 'INTEGER', 'INTEGER', 'INTEGER'])}) AS v
      WHERE t."id" = v.column1 AND t."attempt" = v.column2 AND t."lastSeq" = v.column3 AND ${NOT_FINAL}
      RETURNING "id"`)
    if (moved.length !== batch.length) throw await staleWrite(client, batch, moved)
  }
  for (const batch of inBatches(changed)) {
    const moved = await client.$queryRaw<readonly MovedRow[]>(Prisma.sql`
      UPDATE "Task" AS t SET
        "lastSeq" = v.column4,
        "status" = COALESCE(v.column6, t."status"),
        "runningAt" = COALESCE(v.column7, t."runningAt"),
        "firstTextAt" = COALESCE(v.column8, t."firstTextAt"),
        "finish" = COALESCE(v.column9, t."finish"),
        "finishedAt" = v.column10,
        "errorCode" = v.column11,
        "errorMessage" = v.column12,
        "exitCode" = v.column13
      FROM (VALUES ${tuples(batch.map(changedRow), CHANGED_TYPES)}) AS v
      WHERE t."id" = v.column1 AND t."attempt" = v.column2 AND t."lastSeq" = v.column3
        AND CASE WHEN v.column5 IS NULL THEN ${NOT_FINAL} ELSE ${MAY_MOVE} END
      RETURNING "id"`)
    if (moved.length !== batch.length) throw await staleWrite(client, batch, moved)
  }
}

const CHANGED_TYPES: readonly ColumnType[] = [
  ...(['TEXT', 'INTEGER', 'INTEGER', 'INTEGER', 'TEXT', 'TEXT'] as const),
  ...(['BIGINT', 'BIGINT', 'TEXT', 'BIGINT', 'TEXT', 'TEXT', 'INTEGER'] as const),
]

function changedRow(task: TaskGroup): readonly Value[] {
  const { taskId, attempt, after, lastSeq, moves } = task
  let changes: NonNullable<TaskAppend['changes']> = {}
  for (const part of task.parts) changes = { ...changes, ...part.changes }
  const settle = settlementOf(task)
  return [
    ...[taskId, attempt, after, lastSeq, moves[0] ?? null, moves.at(-1) ?? null],
    changes.runningAt ?? null,
    changes.firstTextAt ?? null,
    changes.finish === undefined ? null : JSON.stringify(changes.finish),
    settle?.at ?? null,
    ...errorColumns(settle?.error ?? null),
    settle?.exitCode ?? null,
  ]
}

function settlementOf({ parts }: TaskGroup): Settlement | null {
  return parts.at(-1)?.settle ?? null
}

/** Tells which of the tasks has not been moved, and why. */
async function staleWrite(
  client: PrismaClient,
  tasks: readonly TaskGroup[],
  moved: readonly MovedRow[],
): Promise<StaleWriteError> {
  const stale = tasks.find(({ taskId }) => !moved.some(({ id }) => id === taskId))
  if (stale === undefined)
    throw new StoreError('DATABASE_FAILED', 'The database moved other tasks than it was asked to.')
  const { taskId, attempt, after, moves } = stale
  const row = await client.task.findUnique({
    where: { id: taskId },
    select: { attempt: true, lastSeq: true, status: true },
  })
  const wanted = `attempt ${attempt} at event ${after}${moves.map((status) => `, then ${status}`).join('')}`
  const is =
    row === null
      ? 'there is no such task'
      : `it is ${row.status} in attempt ${row.attempt} at event ${row.lastSeq}`
  return new StaleWriteError(taskId, `Task ${taskId} cannot go on from ${wanted}: ${is}.`)
}

async function insertArtifacts(execute: Execute, tasks: readonly TaskGroup[]): Promise<void> {
  const rows = tasks.flatMap(({ taskId, attempt, parts }) =>
    parts
      .flatMap(({ artifacts }) => artifacts ?? [])
      .map(({ id, name, mediaType, bytes, sha256 }) => [
        ...[id, taskId, attempt, plain(name), plain(mediaType), bytes, sha256],
      ]),
  )
  for (const batch of inBatches(rows)) {
    await execute(
      Prisma.sql`INSERT INTO "Artifact" ("id", "taskId", "attempt", "name", "mediaType", "bytes", "sha256") VALUES ${tuples(batch)}`,
    )
  }
}

async function settleAttempts(execute: Execute, tasks: readonly TaskGroup[]): Promise<void> {
  const settled = tasks.flatMap((task) => {
    const settle = settlementOf(task)
    return settle === null ? [] : [{ taskId: task.taskId, attempt: task.attempt, settle }]
  })
  for (const batch of inBatches(settled)) {
    const attempts = batch.map(({ taskId, attempt, settle }) => [
      ...[taskId, attempt, settle.at, settle.status, ...errorColumns(settle.error), settle.exitCode],
    ])
    await execute(Prisma.sql`
      UPDATE "Attempt" AS a SET
        "finishedAt" = v.column3, "status" = v.column4, "errorCode" = v.column5, "errorMessage" = v.column6,
        "exitCode" = v.column7
      FROM (VALUES ${tuples(attempts, ['TEXT', 'INTEGER', 'BIGINT', 'TEXT', 'TEXT', 'TEXT', 'INTEGER'])}) AS v
      WHERE a."taskId" = v.column1 AND a."attempt" = v.column2`)
    const outputs = batch.map(({ taskId, attempt, settle: { output } }) => [
      ...[taskId, attempt, plain(output.text)],
      output.result === null ? null : JSON.stringify(output.result),
      output.usage === null ? null : JSON.stringify(output.usage),
    ])
    await execute(
      Prisma.sql`INSERT INTO "Output" ("taskId", "attempt", "text", "result", "usage") VALUES ${tuples(outputs)}`,
    )
  }
}

interface WorkerMove {
  readonly stdout: string | null
  readonly stderr: string | null
  readonly eventSeq: number | null
  readonly served: number
}

/** Moves the workers' cursors, counts the attempts that they have ended, and keeps what they said outside of a task. */
async function moveWorkers(execute: Execute, { calls }: AppendGroup): Promise<void> {
  const workers = new Map<WorkerId, WorkerMove>()
  const logs: (readonly Value[])[] = []
  for (const { progress } of calls) {
    const { workerId, cursor, eventSeq, workerEvents = [], tasks } = progress
    // An attempt that never started was served by no worker.
    const served = tasks.filter(({ settle, attempt }) => settle !== undefined && attempt > 0).length
    if (workerEvents.length > 0) logs.push([workerId, workerEvents.length, toWorkerLog(workerEvents)])
    if (cursor === undefined && workerEvents.length === 0 && served === 0) continue
    const before = workers.get(workerId)
    workers.set(workerId, {
      stdout: cursor?.stdout ?? before?.stdout ?? null,
      stderr: cursor?.stderr ?? before?.stderr ?? null,
      eventSeq: eventSeq ?? before?.eventSeq ?? null,
      served: served + (before?.served ?? 0),
    })
  }
  for (const batch of inBatches([...workers])) {
    const rows = batch.map(([id, { stdout, stderr, served, eventSeq }]) => [
      id,
      stdout,
      stderr,
      served,
      eventSeq,
    ])
    const moved = await execute(Prisma.sql`
      UPDATE "Worker" AS w SET
        "stdoutCursor" = COALESCE(v.column2, w."stdoutCursor"),
        "stderrCursor" = COALESCE(v.column3, w."stderrCursor"),
        "tasksServed" = w."tasksServed" + v.column4,
        "eventSeq" = COALESCE(v.column5, w."eventSeq")
      FROM (VALUES ${tuples(rows, ['TEXT', 'TEXT', 'TEXT', 'INTEGER', 'INTEGER'])}) AS v
      WHERE w."id" = v.column1`)
    if (moved !== batch.length) throw new StoreError('NOT_FOUND', 'There is no such worker.')
  }
  // One by one: what follows for a worker counts on from what is before.
  for (const [workerId, count, data] of logs) {
    await execute(Prisma.sql`
      INSERT INTO "WorkerLogChunk" ("workerId", "fromSeq", "toSeq", "data")
      SELECT v.column1, s."last" + 1, s."last" + v.column2, v.column3
      FROM (VALUES ${tuples([[workerId ?? null, count ?? null, data ?? null]], ['TEXT', 'INTEGER', 'TEXT'])}) AS v,
        (SELECT COALESCE(MAX("toSeq"), 0) AS "last" FROM "WorkerLogChunk" WHERE "workerId" = ${workerId}) AS s`)
  }
}
