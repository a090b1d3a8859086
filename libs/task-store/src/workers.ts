import {
  WORKER_MOVES,
  type GpuClaim,
  type NewWorker,
  type OutputCursor,
  type WorkerId,
  type WorkerLogEvent,
  type WorkerPatch,
  type WorkerStatus,
} from '@gpu-service/tasks'
import { toWorkerLog } from './chunk.ts'
import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'
import { assignments, insert, jsonOrNull, plain, type Value } from './statements.ts'
import { StoreError } from './store-error.ts'

/** What changes of a worker. */
export interface WorkerChange extends WorkerPatch {
  readonly cursor?: OutputCursor
  readonly eventSeq?: number
  /** By so many attempts it has served more. */
  readonly served?: number
}

export function insertWorkers(transaction: Transaction, workers: readonly NewWorker[]): Promise<void> {
  const rows = workers.map(({ id, name, presetId, mode, spec, specHash, owner, claim, at }) => ({
    ...{ id, name, presetId, mode, status: 'STARTING', spec: JSON.stringify(spec), specHash },
    ...{ owner: plain(owner), gpuIds: gpuColumn(claim), claimMemoryMb: claim.memoryMb, startedAt: at },
    ...{ tasksServed: 0, stdoutCursor: '', stderrCursor: '' },
  }))
  return insert(transaction, 'Worker', rows)
}

export function gpuColumn({ gpuIds }: GpuClaim): string {
  return JSON.stringify(gpuIds)
}

/** Throws `StoreError` NOT_FOUND where there is no such worker, INVALID_WRITE where it may not become what it should. */
export async function updateWorker(
  { execute, query }: Transaction,
  id: WorkerId,
  change: WorkerChange,
): Promise<void> {
  const columns = columnsOf(change)
  if (Object.keys(columns).length === 0) return
  const { status } = change
  const from = status === undefined ? Prisma.empty : Prisma.sql` AND "status" IN (${statusesBefore(status)})`
  const updated = await execute(
    Prisma.sql`UPDATE "Worker" SET ${assignments(columns)} WHERE "id" = ${id}${from}`,
  )
  if (updated > 0) return
  const [row] = await query<{ readonly status: string }>(
    Prisma.sql`SELECT "status" FROM "Worker" WHERE "id" = ${id}`,
  )
  if (row === undefined) throw new StoreError('NOT_FOUND', `There is no worker ${id}.`)
  throw new StoreError(
    'INVALID_WRITE',
    `The worker ${id} is ${row.status} and cannot become ${status ?? row.status}.`,
  )
}

function statusesBefore(status: WorkerStatus): Prisma.Sql {
  const from = Object.entries<readonly WorkerStatus[]>(WORKER_MOVES)
    .filter(([known, next]) => known === status || next.includes(status))
    .map(([known]) => known)
  return Prisma.join(from)
}

function columnsOf(change: WorkerChange): Record<string, Value | Prisma.Sql> {
  const { cursor, eventSeq, served = 0, status, containerId, imageDigest, readyAt, exitedAt } = change
  const { exit, peakMemoryMb: peak, endReason } = change
  return {
    ...(cursor === undefined ? {} : { stdoutCursor: cursor.stdout, stderrCursor: cursor.stderr }),
    ...(eventSeq === undefined ? {} : { eventSeq }),
    ...(served === 0 ? {} : { tasksServed: Prisma.sql`"tasksServed" + ${served}` }),
    ...(status === undefined ? {} : { status }),
    ...(containerId === undefined ? {} : { containerId }),
    ...(imageDigest === undefined ? {} : { imageDigest }),
    ...(readyAt === undefined ? {} : { readyAt }),
    ...(exitedAt === undefined ? {} : { exitedAt }),
    ...(exit === undefined ? {} : { exit: jsonOrNull(exit) }),
    ...(endReason === undefined ? {} : { endReason: plain(endReason) }),
    // It is the most of all that was measured, whoever measured it.
    ...(peak === undefined
      ? {}
      : {
          peakMemoryMb: Prisma.sql`CASE WHEN "peakMemoryMb" > ${peak} THEN "peakMemoryMb" ELSE ${peak} END`,
        }),
  }
}

/** Adds to the worker's own log, behind what is there. */
export async function insertWorkerLog(
  { execute }: Transaction,
  workerId: WorkerId,
  events: readonly WorkerLogEvent[],
): Promise<void> {
  if (events.length === 0) return
  await execute(Prisma.sql`
    INSERT INTO "WorkerLogChunk" ("workerId", "fromSeq", "toSeq", "data")
    SELECT ${workerId}, l."last" + 1, l."last" + ${events.length}, ${toWorkerLog(events)}
    FROM (SELECT COALESCE(MAX("toSeq"), 0) AS "last" FROM "WorkerLogChunk" WHERE "workerId" = ${workerId}) AS l`)
}
