import {
  WORKER_MOVES,
  type Claim,
  type CreateResult,
  type NewTask,
  type StopReason,
  type Task,
  type TaskEventBody,
  type TaskId,
  type TaskStore,
  type WorkerId,
  type WorkerPatch,
  type WorkerStatus,
} from '@gpu-service/tasks'
import { toChunks } from './chunk.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toTask } from './rows.ts'
import { insertChunks, plain, tuples } from './statements.ts'
import { StoreError } from './store-error.ts'
import type { Execute, Writer } from './writer.ts'

type Moves = Pick<TaskStore, 'create' | 'claim' | 'requestCancel' | 'recordStop' | 'updateWorker'>

/** The store's single moves of tasks and workers. Each is one transaction around one guarded statement. */
export function createMoves(writer: Writer): Moves {
  return {
    create: (task) => writer.transaction((execute, client) => create(execute, client, task)),
    claim: (claim) => writer.transaction((execute, client) => claimTask(execute, client, claim)),
    requestCancel: (id, request) =>
      writer.transaction((execute, client) => requestCancel(execute, client, id, request)),
    recordStop: (id, attempt, reason) =>
      writer.transaction((execute, client) => recordStop(execute, client, id, attempt, reason)),
    updateWorker: (id, patch) => writer.transaction((execute) => updateWorker(execute, id, patch)),
  }
}

async function create(execute: Execute, client: PrismaClient, task: NewTask): Promise<CreateResult> {
  const { id, owner, presetId, labels, idempotencyKey, createdAt } = task
  const row = [
    ...[
      id,
      plain(owner),
      presetId,
      JSON.stringify(task.spec),
      JSON.stringify(task.input),
      JSON.stringify(labels),
    ],
    ...[task.priority, plain(idempotencyKey), task.requestHash, plain(task.affinity)],
    ...['QUEUED', 0, 1, createdAt, '[]'],
  ]
  const inserted = await execute(Prisma.sql`
    INSERT INTO "Task" (
      "id", "owner", "presetId", "spec", "input", "labels", "priority", "idempotencyKey", "requestHash", "affinity",
      "status", "attempt", "lastSeq", "createdAt", "gpuIds"
    ) VALUES ${tuples([row])}
    ON CONFLICT ("owner", "idempotencyKey") DO NOTHING`)
  if (inserted === 0) {
    const earlier = await client.task.findFirstOrThrow({
      where: { owner: plain(owner), idempotencyKey: plain(idempotencyKey) },
    })
    return earlier.requestHash === task.requestHash
      ? { status: 'created', task: toTask(earlier), duplicate: true }
      : { status: 'conflict', task: toTask(earlier) }
  }
  const labelRows = Object.entries(labels).map(([key, value]) => [id, plain(key), plain(value), createdAt])
  if (labelRows.length > 0) {
    await execute(
      Prisma.sql`INSERT INTO "TaskLabel" ("taskId", "key", "value", "createdAt") VALUES ${tuples(labelRows)}`,
    )
  }
  await insertEvent(execute, id, 1, createdAt, 0, { type: 'status', taskStatus: 'QUEUED', reason: null })
  return { status: 'created', task: await known(client, id), duplicate: false }
}

async function claimTask(execute: Execute, client: PrismaClient, claim: Claim): Promise<Task | null> {
  const { taskId, attempt, after, at, reason, worker } = claim
  const gpuIds = JSON.stringify(worker.gpuIds)
  const claimed = await execute(Prisma.sql`
    UPDATE "Task" SET
      "status" = 'STARTING', "attempt" = ${attempt}, "lastSeq" = ${after + 1}, "startedAt" = ${at},
      "gpuIds" = ${gpuIds}, "workerId" = ${worker.id}
    WHERE "id" = ${taskId} AND "status" = 'QUEUED' AND "lastSeq" = ${after} AND "attempt" = ${attempt - 1}`)
  if (claimed === 0) return null
  await execute(
    Prisma.sql`INSERT INTO "Attempt" ("taskId", "attempt", "workerId", "startedAt") VALUES ${tuples([[taskId, attempt, worker.id, at]])}`,
  )
  const { id, name, presetId, mode } = worker
  await execute(Prisma.sql`
    INSERT INTO "Worker" (
      "id", "name", "presetId", "mode", "status", "gpuIds", "startedAt", "tasksServed", "stdoutCursor", "stderrCursor"
    ) VALUES ${tuples([[id, name, presetId, mode, 'STARTING', gpuIds, at, 0, '', '']])}`)
  await insertEvent(execute, taskId, after + 1, at, attempt, {
    type: 'status',
    taskStatus: 'STARTING',
    reason,
  })
  return known(client, taskId)
}

async function requestCancel(
  execute: Execute,
  client: PrismaClient,
  id: TaskId,
  { at, reason }: { readonly at: number; readonly reason: string | null },
): Promise<Task | null> {
  const cancelled = await execute(Prisma.sql`
    UPDATE "Task" SET
      "status" = 'CANCELLED', "lastSeq" = "lastSeq" + 1, "finishedAt" = ${at}, "cancelRequestedAt" = ${at},
      "cancelReason" = ${plain(reason)}
    WHERE "id" = ${id} AND "status" = 'QUEUED'`)
  if (cancelled === 0) {
    await execute(Prisma.sql`
      UPDATE "Task" SET
        "cancelRequestedAt" = ${at}, "cancelReason" = ${plain(reason)},
        "stopReason" = CASE WHEN "finish" IS NULL THEN COALESCE("stopReason", 'cancel') ELSE "stopReason" END
      WHERE "id" = ${id} AND "status" IN ('STARTING', 'RUNNING') AND "cancelRequestedAt" IS NULL`)
    const row = await client.task.findUnique({ where: { id } })
    return row === null ? null : toTask(row)
  }
  const task = await known(client, id)
  await insertEvent(execute, id, task.lastSeq, at, task.attempt, {
    type: 'status',
    taskStatus: 'CANCELLED',
    reason,
  })
  await execute(Prisma.sql`INSERT INTO "Output" ("taskId", "attempt") VALUES ${tuples([[id, task.attempt]])}`)
  return task
}

async function recordStop(
  execute: Execute,
  client: PrismaClient,
  id: TaskId,
  attempt: number,
  reason: StopReason,
): Promise<Task> {
  await execute(Prisma.sql`
    UPDATE "Task" SET "stopReason" = ${reason}
    WHERE "id" = ${id} AND "attempt" = ${attempt} AND "status" IN ('STARTING', 'RUNNING')
      AND "stopReason" IS NULL AND "finish" IS NULL`)
  return known(client, id)
}

async function updateWorker(execute: Execute, id: WorkerId, patch: WorkerPatch): Promise<void> {
  const { status, containerId, imageDigest, readyAt, exit, exitedAt } = patch
  const columns: Prisma.Sql[] = []
  if (status !== undefined) columns.push(Prisma.sql`"status" = ${status}`)
  if (containerId !== undefined) columns.push(Prisma.sql`"containerId" = ${containerId}`)
  if (imageDigest !== undefined) columns.push(Prisma.sql`"imageDigest" = ${imageDigest}`)
  if (readyAt !== undefined) columns.push(Prisma.sql`"readyAt" = ${readyAt}`)
  if (exit !== undefined) columns.push(Prisma.sql`"exit" = ${exit === null ? null : JSON.stringify(exit)}`)
  if (exitedAt !== undefined) columns.push(Prisma.sql`"exitedAt" = ${exitedAt}`)
  if (columns.length === 0) return
  const from = Object.entries<readonly WorkerStatus[]>(WORKER_MOVES)
    .filter(([known, next]) => status === undefined || known === status || next.includes(status))
    .map(([known]) => known)
  const updated = await execute(
    Prisma.sql`UPDATE "Worker" SET ${Prisma.join(columns)} WHERE "id" = ${id} AND "status" IN (${Prisma.join(from)})`,
  )
  if (updated === 0) {
    throw new StoreError(
      'INVALID_WRITE',
      `There is no worker ${id}${status === undefined ? '' : ` that may become ${status}`}.`,
    )
  }
}

async function known(client: PrismaClient, id: TaskId): Promise<Task> {
  const row = await client.task.findUnique({ where: { id } })
  if (row === null) throw new StoreError('NOT_FOUND', `There is no task ${id}.`)
  return toTask(row)
}

async function insertEvent(
  execute: Execute,
  taskId: TaskId,
  seq: number,
  at: number,
  attempt: number,
  body: TaskEventBody,
): Promise<void> {
  await insertChunks(execute, toChunks(taskId, [{ seq, at, attempt, body }]))
}
