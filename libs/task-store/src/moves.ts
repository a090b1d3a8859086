import {
  SERVICE,
  type Actor,
  type Claim,
  type GpuDrain,
  type GpuId,
  type NewWorker,
  type StopReason,
  type Task,
  type TaskError,
  type TaskEvent,
  type TaskEventBody,
  type TaskId,
  type TaskRelease,
  type TaskStatus,
  type TaskStore,
} from '@gpu-service/tasks'
import { insertEvents } from './chunk.ts'
import type { Transaction } from './connection.ts'
import { createTasks } from './create.ts'
import { Prisma } from './generated/client.ts'
import { type TaskRow, toTask } from './rows.ts'
import { assignments, errorColumns, insert, plain } from './statements.ts'
import { StoreError } from './store-error.ts'
import { gpuColumn, insertWorkers, updateWorker } from './workers.ts'
import type { Change, Writer } from './writer.ts'

type Moves = Pick<
  TaskStore,
  | 'create'
  | 'claim'
  | 'createWorker'
  | 'endQueued'
  | 'requestCancel'
  | 'recordStop'
  | 'recordRelease'
  | 'updateWorker'
  | 'setDrain'
>

/** The store's moves of tasks and workers. Each task is moved by one guarded statement, which gives it as it then is. */
export function createMoves(writer: Writer): Moves {
  return {
    create: (tasks, by = SERVICE) => writer.change((transaction) => createTasks(transaction, tasks, by)),
    claim: (claims) => writer.change((transaction) => claimTasks(transaction, claims)),
    createWorker: (worker, by = SERVICE) =>
      writer.change((transaction) => createWorker(transaction, worker, by)),
    endQueued: (id, end) => writer.change((transaction) => endQueued(transaction, id, end)),
    requestCancel: (id, request, by = SERVICE) =>
      writer.change((transaction) => requestCancel(transaction, id, request, by)),
    recordStop: (id, attempt, reason) =>
      writer.change((transaction) => recordStop(transaction, id, attempt, reason)),
    recordRelease: (id, attempt, release) =>
      writer.change((transaction) => recordRelease(transaction, id, attempt, release)),
    updateWorker: (id, patch) => writer.change((transaction) => updateWorker(transaction, id, patch)),
    setDrain: (id, drain, by = SERVICE) =>
      writer.change((transaction) => setDrain(transaction, id, drain, by)),
  }
}

/** How an attempt lets go of its worker, before it has. */
const NO_RELEASE = { stoppedAt: null, gpuFreeAt: null, killed: 0 }

/**
 * The columns of a task that has returned to the queue. How its attempt lets go of its worker may be told before or after, so that is
 * forgotten at the next claim only.
 */
export function requeuedColumns(at: number, retryAt: number) {
  const nothing = { runningAt: null, firstTextAt: null, finish: null, stopReason: null }
  return { ...nothing, queuedAt: at, retryAt }
}

async function claimTasks(transaction: Change, claims: readonly Claim[]): Promise<readonly (Task | null)[]> {
  const tasks: (Task | null)[] = []
  const claimed: Claim[] = []
  for (const claim of claims) {
    const { taskId, attempt, after, at, worker } = claim
    const columns = {
      ...{ status: 'STARTING', attempt, lastSeq: after + 1, startedAt: at, retryAt: null },
      ...{ gpuIds: gpuColumn(worker.claim), workerId: worker.id },
      ...NO_RELEASE,
    }
    const [row] = await transaction.query<TaskRow>(Prisma.sql`
      UPDATE "Task" SET ${assignments(columns)}
      WHERE "id" = ${taskId} AND "status" = 'QUEUED' AND "lastSeq" = ${after} AND "attempt" = ${attempt - 1}
      RETURNING *`)
    tasks.push(row === undefined ? null : toTask(row))
    if (row !== undefined) claimed.push(claim)
  }
  await insertWorkers(
    transaction,
    claimed.flatMap(({ worker }) => (isNew(worker) ? [worker] : [])),
  )
  await insert(
    transaction,
    'Attempt',
    claimed.map(({ taskId, attempt, worker, warm, at }) => ({
      ...{ taskId, attempt, workerId: worker.id, gpuIds: gpuColumn(worker.claim) },
      ...{ warm: warm ? 1 : 0, startedAt: at },
    })),
  )
  await insertEvents(
    transaction,
    claimed.map(({ taskId, attempt, after, at, reason }) => ({
      taskId,
      events: [{ seq: after + 1, at, attempt, body: { type: 'status', taskStatus: 'STARTING', reason } }],
    })),
  )
  for (const { taskId, attempt, worker, reason } of claimed)
    transaction.record({
      ...{ actor: SERVICE, action: 'task.start', target: { kind: 'task', id: taskId } },
      ...{ result: 'OK', status: 'STARTING', reason },
      details: { attempt: String(attempt), workerId: worker.id, gpuIds: worker.claim.gpuIds.join(' ') },
    })
  return tasks
}

async function createWorker(transaction: Change, worker: NewWorker, actor: Actor): Promise<void> {
  await insertWorkers(transaction, [worker])
  const { id, presetId } = worker
  transaction.record({
    ...{ actor, action: 'worker.start', target: { kind: 'worker', id } },
    ...{ result: 'OK', status: 'STARTING', reason: null, details: { presetId } },
  })
}

function isNew(worker: Claim['worker']): worker is NewWorker {
  return 'spec' in worker
}

/** Ends a QUEUED task; `null` where it is not QUEUED. What its last attempt has produced, if there was one, stays its output. */
async function end(
  transaction: Change,
  id: TaskId,
  columns: Parameters<typeof assignments>[0],
  eventOf: (task: Task) => Pick<TaskEvent, 'at' | 'body'>,
): Promise<Task | null> {
  const [row] = await transaction.query<TaskRow>(Prisma.sql`
    UPDATE "Task" SET "lastSeq" = "lastSeq" + 1, "retryAt" = NULL, ${assignments(columns)}
    WHERE "id" = ${id} AND "status" = 'QUEUED' RETURNING *`)
  if (row === undefined) return null
  const task = toTask(row)
  const { lastSeq: seq, attempt } = task
  await insertEvents(transaction, [{ taskId: id, events: [{ seq, attempt, ...eventOf(task) }] }])
  if (attempt === 0) await insert(transaction, 'Output', [{ taskId: id, attempt }])
  transaction.index(id)
  return task
}

async function endQueued(
  transaction: Change,
  id: TaskId,
  {
    at,
    status,
    error,
  }: { readonly at: number; readonly status: 'FAILED' | 'TIMED_OUT'; readonly error: TaskError },
): Promise<Task | null> {
  const body: TaskEventBody = { type: 'status', taskStatus: status, reason: error.message }
  const columns = { status, finishedAt: at, ...errorColumns(error) }
  const ended = await end(transaction, id, columns, () => ({ at, body }))
  if (ended !== null)
    transaction.record({
      ...{ actor: SERVICE, action: 'task.end', target: { kind: 'task', id } },
      ...{ result: error.code, status, reason: null, details: {} },
    })
  return ended
}

async function requestCancel(
  transaction: Change,
  id: TaskId,
  { at, reason }: { readonly at: number; readonly reason: string | null },
  actor: Actor,
): Promise<Task | null> {
  const record = (result: string, status: TaskStatus | null, { privacy }: Pick<Task, 'privacy'>): void => {
    const target = { kind: 'task', id } as const
    // The log is kept whatever becomes of the task, and a reason is a text of the client's own.
    const kept = privacy === 'full' ? reason : null
    transaction.record({ actor, action: 'task.cancel', target, result, status, reason: kept, details: {} })
  }
  // Of a task that has returned to the queue a cancel may have been asked for before.
  const asked = {
    cancelRequestedAt: Prisma.sql`COALESCE("cancelRequestedAt", ${at})`,
    cancelReason: Prisma.sql`CASE WHEN "cancelRequestedAt" IS NULL THEN ${plain(reason)} ELSE "cancelReason" END`,
  }
  const cancelled = await end(transaction, id, { status: 'CANCELLED', finishedAt: at, ...asked }, (task) => ({
    at,
    body: { type: 'status', taskStatus: 'CANCELLED', reason: task.cancelReason },
  }))
  if (cancelled !== null) {
    record('OK', 'CANCELLED', cancelled)
    return cancelled
  }
  const [row] = await transaction.query<TaskRow>(Prisma.sql`
    UPDATE "Task" SET
      ${assignments(asked)},
      "stopReason" = CASE WHEN "finish" IS NULL THEN COALESCE("stopReason", 'cancel') ELSE "stopReason" END
    WHERE "id" = ${id} AND "status" IN ('STARTING', 'RUNNING') RETURNING *`)
  if (row !== undefined) {
    const task = toTask(row)
    record('OK', null, task)
    return task
  }
  const ended = await known(transaction, id)
  if (ended !== null) record('ENDED_BEFORE', null, ended)
  return ended
}

async function recordStop(
  transaction: Change,
  id: TaskId,
  attempt: number,
  reason: StopReason,
): Promise<Task> {
  const [row] = await transaction.query<TaskRow>(Prisma.sql`
    UPDATE "Task" SET "stopReason" = ${reason}
    WHERE "id" = ${id} AND "attempt" = ${attempt} AND "status" IN ('STARTING', 'RUNNING')
      AND "stopReason" IS NULL AND "finish" IS NULL RETURNING *`)
  if (row !== undefined)
    transaction.record({
      ...{ actor: SERVICE, action: 'task.stop', target: { kind: 'task', id } },
      ...{ result: 'OK', status: null, reason, details: { attempt: String(attempt) } },
    })
  const task = row === undefined ? await known(transaction, id) : toTask(row)
  if (task === null) throw new StoreError('NOT_FOUND', `There is no task ${id}.`)
  return task
}

async function recordRelease(
  { execute }: Transaction,
  id: TaskId,
  attempt: number,
  { stoppedAt = null, gpuFreeAt = null, killed = false }: Partial<TaskRelease>,
): Promise<void> {
  await execute(Prisma.sql`
    UPDATE "Task" SET
      "stoppedAt" = COALESCE("stoppedAt", ${stoppedAt}), "gpuFreeAt" = COALESCE("gpuFreeAt", ${gpuFreeAt}),
      "killed" = CASE WHEN ${killed ? 1 : 0} = 1 THEN 1 ELSE "killed" END
    WHERE "id" = ${id} AND "attempt" = ${attempt}`)
}

async function setDrain(
  transaction: Change,
  gpuId: GpuId,
  drain: GpuDrain | null,
  actor: Actor,
): Promise<void> {
  transaction.record({
    ...{ actor, action: drain === null ? 'gpu.enable' : 'gpu.drain', target: { kind: 'gpu', id: gpuId } },
    ...{ result: 'OK', status: null, reason: drain?.reason ?? null, details: {} },
  })
  await transaction.execute(Prisma.sql`DELETE FROM "GpuDrain" WHERE "gpuId" = ${gpuId}`)
  if (drain === null) return
  await insert(transaction, 'GpuDrain', [{ gpuId, at: drain.at, reason: plain(drain.reason) }])
}

async function known({ query }: Transaction, id: TaskId): Promise<Task | null> {
  const [row] = await query<TaskRow>(
    Prisma.sql`SELECT * FROM "Task" WHERE "id" = ${id} AND "status" <> 'REMOVED'`,
  )
  return row === undefined ? null : toTask(row)
}
