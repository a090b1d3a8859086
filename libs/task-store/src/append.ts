import {
  dayStartOf,
  isFinal,
  mayMove,
  SERVICE,
  StaleWriteError,
  TASK_MOVES,
  type AttemptResult,
  type TaskAppend,
  type TaskStatus,
  type TaskStore,
  type WorkerProgress,
} from '@gpu-service/tasks'
import { countArtifactBytes } from './artifact-bytes.ts'
import { insertEvents } from './chunk.ts'
import type { Transaction } from './connection.ts'
import { eventBody } from './event-body.ts'
import { Prisma } from './generated/client.ts'
import { requeuedColumns } from './moves.ts'
import { assignments, errorColumns, insert, jsonOrNull, plain, type Value } from './statements.ts'
import { StoreError } from './store-error.ts'
import { insertWorkerLog, updateWorker } from './workers.ts'
import type { Change, Writer } from './writer.ts'

/** The store's `append`. */
export function createAppend(writer: Writer): TaskStore['append'] {
  return async (progress) => {
    // Before it waits, so that what it says cannot change in between.
    const appends = progress.tasks.map(checked)
    await writer.change((transaction) => writeProgress(transaction, progress, appends))
  }
}

interface CheckedAppend extends TaskAppend {
  /** The changes of status, in order; each but the first is known to be a move of the table. */
  readonly moves: readonly TaskStatus[]
  readonly result: AttemptResult | null
}

/** Throws where it contradicts itself. */
function checked(append: TaskAppend): CheckedAppend {
  const { taskId, after, events, changes, settle, requeue } = append
  const wrong = (what: string) => new StoreError('INVALID_WRITE', `Task ${taskId}: ${what}.`)
  let before = after
  for (const { seq, at, body } of events) {
    if (seq !== before + 1) throw wrong(`event ${seq} does not follow event ${before}`)
    // It could be written, but never be read again.
    if (!Number.isFinite(at) || !eventBody(body)) throw wrong(`event ${seq} is not an event`)
    before = seq
  }
  if (settle !== undefined && requeue !== undefined) throw wrong('it cannot both end and be tried again')
  const end: TaskStatus | undefined = requeue === undefined ? settle?.status : 'QUEUED'
  const last = events.at(-1)?.body
  if (end !== undefined && (last?.type !== 'status' || last.taskStatus !== end)) {
    throw wrong(`it becomes ${end}, but its last event does not say so`)
  }
  const change = changes?.status
  if (change !== undefined && change !== end && (isFinal(change) || change === 'QUEUED')) {
    throw wrong(`it becomes ${change} without the result of its attempt`)
  }
  const moves = [change === end ? undefined : change, end].filter((status) => status !== undefined)
  const [first, second] = moves
  if (first !== undefined && second !== undefined && !mayMove(first, second)) {
    throw new StaleWriteError(taskId, `Task ${taskId} cannot go ${moves.join(' to ')}.`)
  }
  return { ...append, moves, result: settle ?? requeue ?? null }
}

async function writeProgress(
  transaction: Change,
  { workerId, cursor, eventSeq, workerEvents = [], worker }: WorkerProgress,
  appends: readonly CheckedAppend[],
): Promise<void> {
  let served = 0
  for (const append of appends) {
    await moveTask(transaction, append)
    if (await moveAttempt(transaction, append)) served++
    recordMoves(transaction, append)
    if (append.settle !== undefined) transaction.index(append.taskId)
  }
  await insertEvents(transaction, appends)
  const artifacts = appends.flatMap(artifactRows)
  await insert(transaction, 'Artifact', artifacts)
  await countArtifactBytes(
    transaction,
    artifacts.reduce((sum, { bytes }) => sum + bytes, 0),
  )
  await insert(transaction, 'Output', appends.flatMap(outputRows))
  await charge(
    transaction,
    appends.flatMap(({ result }) => result ?? []),
  )
  await updateWorker(transaction, workerId, {
    ...worker,
    ...(cursor === undefined ? {} : { cursor }),
    ...(eventSeq === undefined ? {} : { eventSeq }),
    served,
  })
  await insertWorkerLog(transaction, workerId, workerEvents)
}

function recordMoves(
  { record }: Change,
  { taskId: id, attempt, moves, result, requeue }: CheckedAppend,
): void {
  const first = { actor: SERVICE, target: { kind: 'task', id }, reason: null } as const
  const details = { attempt: String(attempt) }
  for (const status of moves) {
    if (!isFinal(status) && status !== 'QUEUED') {
      record({ ...first, action: 'task.run', result: 'OK', status, details })
      continue
    }
    const action = requeue === undefined ? 'task.end' : 'task.requeue'
    record({ ...first, action, result: result?.error?.code ?? 'OK', status, details })
  }
}

/** Moves the task's `lastSeq`, and with it the columns that change, from where its writer knows it. */
async function moveTask({ execute, query }: Transaction, append: CheckedAppend): Promise<void> {
  const { taskId, attempt, after, events, moves } = append
  const columns = { lastSeq: after + events.length, ...changedColumns(append) }
  const moved = await execute(Prisma.sql`
    UPDATE "Task" SET ${assignments(columns)}
    WHERE "id" = ${taskId} AND "attempt" = ${attempt} AND "lastSeq" = ${after}
      AND "status" IN (${Prisma.join(statusesBefore(moves[0], attempt))})`)
  if (moved > 0) return
  const [row] = await query<{ readonly attempt: number; readonly lastSeq: number; readonly status: string }>(
    Prisma.sql`SELECT "attempt", "lastSeq", "status" FROM "Task" WHERE "id" = ${taskId}`,
  )
  const wanted = `attempt ${attempt} at event ${after}${moves.map((status) => `, then ${status}`).join('')}`
  const is =
    row === undefined
      ? 'there is no such task'
      : `it is ${row.status} in attempt ${row.attempt} at event ${row.lastSeq}`
  throw new StaleWriteError(taskId, `Task ${taskId} cannot go on from ${wanted}: ${is}.`)
}

/** Those from which a task may make the move; without one, those in which it has not ended. In the queue it has ended its attempt. */
function statusesBefore(move: TaskStatus | undefined, attempt: number): readonly string[] {
  return Object.entries<readonly TaskStatus[]>(TASK_MOVES)
    .filter(([, next]) => (move === undefined ? next.length > 0 : next.includes(move)))
    .map(([from]) => from)
    .filter((from) => from !== 'QUEUED' || attempt === 0)
}

function changedColumns({ changes = {}, moves, settle, requeue }: TaskAppend & CheckedAppend) {
  const { runningAt, firstTextAt, finish } = changes
  const status = moves.at(-1)
  return {
    ...(status === undefined ? {} : { status }),
    ...(runningAt === undefined ? {} : { runningAt }),
    ...(firstTextAt === undefined ? {} : { firstTextAt }),
    ...(finish === undefined ? {} : { finish: JSON.stringify(finish) }),
    ...(settle === undefined
      ? {}
      : { finishedAt: settle.at, ...errorColumns(settle.error), exitCode: settle.exitCode }),
    ...(requeue === undefined ? {} : requeuedColumns(requeue.at, requeue.retryAt)),
  }
}

/** Keeps in the attempt's row what the task's tells of its last attempt only. Tells whether this has ended it: it had begun, and not ended before. */
async function moveAttempt({ execute }: Transaction, append: CheckedAppend): Promise<boolean> {
  const { taskId, attempt, changes, result } = append
  const columns: Record<string, Value> = {
    ...(changes?.runningAt === undefined ? {} : { runningAt: changes.runningAt }),
    ...(result === null
      ? {}
      : {
          ...{ finishedAt: result.at, status: result.status, exitCode: result.exitCode },
          ...{ ...errorColumns(result.error), failureClass: result.failureClass },
          evidence: jsonOrNull(result.evidence),
        }),
  }
  if (Object.keys(columns).length === 0) return false
  const changed = await execute(Prisma.sql`
    UPDATE "Attempt" SET ${assignments(columns)}
    WHERE "taskId" = ${taskId} AND "attempt" = ${attempt} AND "finishedAt" IS NULL`)
  return result !== null && changed > 0
}

function artifactRows({ taskId, attempt, artifacts = [] }: TaskAppend) {
  return artifacts.map(({ id, name, mediaType, bytes, sha256 }) => ({
    ...{ id, taskId, attempt, name: plain(name), mediaType: plain(mediaType), bytes, sha256 },
  }))
}

async function charge({ execute }: Transaction, results: readonly AttemptResult[]): Promise<void> {
  for (const { charge, at } of results)
    if (charge !== null)
      await execute(Prisma.sql`
        INSERT INTO "KeyCharge" ("keyId", "dayStart", "gpuMs")
        VALUES (${charge.keyId}, ${dayStartOf(at)}, ${charge.gpuMs})
        ON CONFLICT ("dayStart", "keyId") DO UPDATE SET "gpuMs" = "KeyCharge"."gpuMs" + excluded."gpuMs"`)
}

function outputRows({ taskId, attempt, result }: CheckedAppend) {
  if (result === null) return []
  const { text, result: value, usage } = result.output
  return [{ taskId, attempt, text: plain(text), result: jsonOrNull(value), usage: jsonOrNull(usage) }]
}
