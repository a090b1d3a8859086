import {
  type Actor,
  type CreatedTask,
  type CreateResult,
  type NewAuditEntry,
  type NewTask,
  type WorkerSpec,
} from '@gpu-service/tasks'
import { insertEvents } from './chunk.ts'
import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'
import { placesFor } from './place.ts'
import { type TaskRow, toTask } from './rows.ts'
import { inBatches, insert, plain } from './statements.ts'
import { uploadsGone, useUploads } from './uploads.ts'
import type { Change } from './writer.ts'

/**
 * Writes new tasks. Keys that were seen are looked for before anything is written, so that nothing has to be taken back: no other
 * transaction comes between.
 */
export async function createTasks(
  transaction: Change,
  tasks: readonly NewTask[],
  by: Actor,
): Promise<CreateResult> {
  const submitted = await submittedBefore(transaction, tasks)
  const written: NewTask[] = []
  const results: CreatedTask[] = []
  for (const [index, task] of tasks.entries()) {
    const key = keyOf(task)
    const earlier = key === null ? undefined : submitted.get(key)
    if (earlier !== undefined && earlier.requestHash !== task.requestHash) {
      return { status: 'conflict', index, task: toTask(earlier) }
    }
    const row = earlier ?? newRow(task)
    if (earlier === undefined) written.push(task)
    // An equal submission may also come later in the same call.
    if (key !== null) submitted.set(key, row)
    results.push({ task: toTask(row), duplicate: earlier !== undefined })
  }
  const gone = await uploadsGone(
    transaction,
    written.flatMap(({ files }) => files.map(({ id }) => id)),
  )
  for (const [index, { files }] of tasks.entries()) {
    const lost = files.find(({ id }) => gone.has(id))
    if (lost !== undefined) return { status: 'file-gone', index, id: lost.id }
  }
  const places = await placesFor(transaction, written)
  await insert(
    transaction,
    'Task',
    written.map((task) => ({ ...newColumns(task), place: places.get(task.id) ?? null })),
  )
  await useUploads(transaction, written)
  const unscrubbed = written.filter(({ privacy }) => privacy !== 'full')
  await insert(
    transaction,
    'Unscrubbed',
    unscrubbed.map(({ id }) => ({ taskId: id })),
  )
  await insertEvents(
    transaction,
    written.map(({ id, createdAt }) => ({
      taskId: id,
      events: [
        { seq: 1, at: createdAt, attempt: 0, body: { type: 'status', taskStatus: 'QUEUED', reason: null } },
      ],
    })),
  )
  for (const task of written) {
    transaction.index(task.id)
    transaction.record(submission(task, by))
  }
  return { status: 'created', tasks: results }
}

function submission({ id, presetId, owner, retryOf }: NewTask, actor: Actor): NewAuditEntry {
  return {
    ...{ actor, action: retryOf === null ? 'task.submit' : 'task.retry', target: { kind: 'task', id } },
    ...{ result: 'OK', status: 'QUEUED', reason: null },
    details: { presetId, owner, ...(retryOf !== null && { retryOf }) },
  }
}

/** The tasks that their owners have submitted under the keys of these. */
async function submittedBefore(
  { query }: Transaction,
  tasks: readonly NewTask[],
): Promise<Map<string, TaskRow>> {
  const found = new Map<string, TaskRow>()
  const keyed = tasks.filter(({ idempotencyKey }) => idempotencyKey !== null)
  for (const batch of inBatches(keyed)) {
    const keys = batch.map(
      ({ owner, idempotencyKey }) => Prisma.sql`(${plain(owner)}, ${plain(idempotencyKey)})`,
    )
    const rows = await query<TaskRow>(
      Prisma.sql`SELECT * FROM "Task" WHERE ("owner", "idempotencyKey") IN (VALUES ${Prisma.join(keys)})`,
    )
    for (const row of rows) {
      const key = keyOf(row)
      if (key !== null) found.set(key, row)
    }
  }
  return found
}

function keyOf({ owner, idempotencyKey }: Pick<NewTask, 'owner' | 'idempotencyKey'>): string | null {
  return idempotencyKey === null ? null : JSON.stringify([plain(owner), plain(idempotencyKey)])
}

/** Specs are frozen, and most tasks of a preset share one. */
const specTexts = new WeakMap<WorkerSpec, string>()

function specText(spec: WorkerSpec): string {
  const known = specTexts.get(spec)
  if (known !== undefined) return known
  const text = JSON.stringify(spec)
  specTexts.set(spec, text)
  return text
}

/** The columns of a new task; the others are null. */
function newColumns(task: NewTask) {
  const { id, owner, presetId, spec, input, labels, priority, idempotencyKey, requestHash, affinity, asked } =
    task
  return {
    ...{
      id,
      owner: plain(owner),
      keyId: task.keyId,
      privacy: task.privacy,
      presetId,
      priority,
      requestHash,
      retryOf: task.retryOf,
    },
    ...{ spec: specText(spec), input: JSON.stringify(input), labels: JSON.stringify(labels) },
    files: task.files.length === 0 ? null : JSON.stringify(task.files),
    ...{ idempotencyKey: plain(idempotencyKey), affinity: plain(affinity) },
    askedTimeoutMs: asked.timeoutMs,
    askedGpuIds: asked.gpuIds === null ? null : JSON.stringify(asked.gpuIds),
    ...{ status: 'QUEUED', attempt: 0, lastSeq: 1, gpuIds: '[]', killed: 0 },
    ...{ createdAt: task.createdAt, queuedAt: task.createdAt },
  }
}

function newRow(task: NewTask): TaskRow {
  return {
    ...{ retryAt: null, startedAt: null, runningAt: null, firstTextAt: null, finishedAt: null },
    ...{ cancelRequestedAt: null, cancelReason: null, stopReason: null, finish: null },
    ...{ stoppedAt: null, gpuFreeAt: null, workerId: null },
    ...{ errorCode: null, errorMessage: null, exitCode: null, place: null },
    ...{ scrubbedAt: null, contentHashes: null },
    ...newColumns(task),
  }
}
