import { setImmediate as nextTurn } from 'node:timers/promises'
import type { GpuDrain, GpuId, TaskArtifact, TaskStore, Worker, WorkerLogEvent } from '@gpu-service/tasks'
import { fromWorkerLog } from './chunk.ts'
import type { Artifact, PrismaClient } from './generated/client.ts'
import { readHistory } from './history.ts'
import { toArtifact, toAttempt, toGpuId, toTask, toWorker, type WorkerRow } from './rows.ts'
import { KEPT, plain } from './statements.ts'

/** So many pieces of a worker's log are read at once. */
const LOG_CHUNKS = 64
/** So many artifacts are read at once. */
const ARTIFACTS = 100

/** The store's reads by key, and of what is going on now. */
export function createLookup(
  reader: PrismaClient,
): Pick<
  TaskStore,
  | 'task'
  | 'submitted'
  | 'activeTasks'
  | 'artifacts'
  | 'artifact'
  | 'leftBefore'
  | 'attempts'
  | 'liveWorkers'
  | 'worker'
  | 'workerLog'
  | 'history'
  | 'charges'
  | 'drains'
> {
  async function withTasks(rows: readonly WorkerRow[]): Promise<readonly Worker[]> {
    const tasks = await reader.task.findMany({
      where: { status: { in: ['STARTING', 'RUNNING'] }, workerId: { in: rows.map(({ id }) => id) } },
      select: { id: true, workerId: true },
      orderBy: { id: 'asc' },
    })
    return rows.flatMap((row) => {
      const own = tasks.filter(({ workerId }) => workerId === row.id)
      const ids = own.map(({ id }) => id)
      return toWorker(row, ids) ?? []
    })
  }

  /** The task that it is a retry of, where that has not completed: one that has is done again from its beginning. */
  async function unfinishedBefore(taskId: string): Promise<string | null> {
    const task = await reader.task.findUnique({ where: { id: taskId }, select: { retryOf: true } })
    if (task?.retryOf == null) return null
    const where = { id: task.retryOf, status: { not: 'COMPLETED' } }
    return (await reader.task.findFirst({ where, select: { id: true } }))?.id ?? null
  }

  return {
    async task(id) {
      const row = await reader.task.findUnique({ where: { id, ...KEPT } })
      return row === null ? null : toTask(row)
    },

    async submitted(owner, idempotencyKey) {
      const row = await reader.task.findFirst({
        where: { owner: plain(owner), idempotencyKey: plain(idempotencyKey) },
      })
      return row === null ? null : { task: toTask(row), requestHash: row.requestHash }
    },

    async activeTasks() {
      const rows = await reader.task.findMany({
        where: { status: { in: ['QUEUED', 'STARTING', 'RUNNING'] } },
        orderBy: { id: 'asc' },
      })
      return rows.map(toTask)
    },

    async artifacts(id) {
      const task = await reader.task.findUnique({ where: { id, ...KEPT }, select: { attempt: true } })
      if (task === null) return []
      const rows = await reader.artifact.findMany({
        where: { taskId: id, attempt: task.attempt },
        orderBy: { id: 'asc' },
      })
      return rows.map(toArtifact)
    },

    async artifact(id) {
      const row = await reader.artifact.findUnique({ where: { id, task: KEPT } })
      return row === null ? null : toArtifact(row)
    },

    async leftBefore(id, attempt, limit) {
      const latest = new Map<string, TaskArtifact>()
      let place: { taskId: string; attempt?: { lt: number } } | null = {
        taskId: id,
        attempt: { lt: attempt },
      }
      while (place !== null && latest.size === 0) {
        for (let skip = 0; latest.size < limit; skip += ARTIFACTS) {
          const rows: Artifact[] = await reader.artifact.findMany({
            where: { ...place, task: KEPT },
            orderBy: [{ attempt: 'desc' }, { id: 'desc' }],
            ...{ skip, take: ARTIFACTS },
          })
          for (const row of rows)
            if (latest.size < limit && !latest.has(row.name)) latest.set(row.name, toArtifact(row))
          if (rows.length < ARTIFACTS) break
        }
        const unfinished = await unfinishedBefore(place.taskId)
        // Of that one all attempts are earlier ones.
        place = unfinished === null ? null : { taskId: unfinished }
      }
      return [...latest.values()]
    },

    async attempts(id) {
      const rows = await reader.attempt.findMany({
        where: { taskId: id, task: KEPT },
        orderBy: { attempt: 'asc' },
      })
      return rows.map(toAttempt)
    },

    async liveWorkers() {
      const rows = await reader.worker.findMany({
        // Rather than "not EXITED", which no index serves.
        where: { status: { in: ['STARTING', 'READY', 'WORKING', 'STOPPING'] } },
        orderBy: [{ startedAt: 'asc' }, { id: 'asc' }],
      })
      return withTasks(rows)
    },

    async worker(id) {
      const row = await reader.worker.findUnique({ where: { id } })
      return row === null ? null : ((await withTasks([row]))[0] ?? null)
    },

    async workerLog(id, after, limit) {
      const end = after + limit
      const events: WorkerLogEvent[] = []
      for (let at = after; at < end;) {
        const rows = await reader.workerLogChunk.findMany({
          where: { workerId: id, toSeq: { gt: at }, fromSeq: { lte: end } },
          orderBy: { toSeq: 'asc' },
          take: LOG_CHUNKS,
        })
        for (const row of rows) {
          const { fromSeq } = row
          events.push(...fromWorkerLog(row).slice(Math.max(0, after - fromSeq + 1), end - fromSeq + 1))
          at = row.toSeq
        }
        if (rows.length < LOG_CHUNKS) break
        await nextTurn()
      }
      return events
    },

    history: (limit) => readHistory(reader, limit),

    async charges(dayStart) {
      const rows = await reader.keyCharge.findMany({ where: { dayStart } })
      return rows.map(({ keyId, gpuMs }) => ({ keyId, gpuMs: Number(gpuMs) }))
    },

    async drains() {
      const rows = await reader.gpuDrain.findMany()
      return new Map(
        rows.map(({ gpuId, at, reason }): [GpuId, GpuDrain] => [toGpuId(gpuId), { at: Number(at), reason }]),
      )
    },
  }
}
