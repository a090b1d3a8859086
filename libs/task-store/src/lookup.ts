import type { TaskStore, Worker } from '@gpu-service/tasks'
import type { PrismaClient, Worker as WorkerRow } from './generated/client.ts'
import { toArtifact, toTask, toWorker } from './rows.ts'
import { plain } from './statements.ts'

/** The store's reads by key, and of what is going on now. */
export function createLookup(
  reader: PrismaClient,
): Pick<
  TaskStore,
  'task' | 'submitted' | 'activeTasks' | 'artifacts' | 'artifact' | 'liveWorkers' | 'worker'
> {
  async function withTasks(rows: readonly WorkerRow[]): Promise<readonly Worker[]> {
    const tasks = await reader.task.findMany({
      where: { status: { in: ['STARTING', 'RUNNING'] }, workerId: { in: rows.map(({ id }) => id) } },
      select: { id: true, workerId: true },
      orderBy: { id: 'asc' },
    })
    return rows.map((row) => {
      const own = tasks.filter(({ workerId }) => workerId === row.id)
      return toWorker(
        row,
        own.map(({ id }) => id),
      )
    })
  }

  return {
    async task(id) {
      const row = await reader.task.findUnique({ where: { id } })
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
      const task = await reader.task.findUnique({ where: { id }, select: { attempt: true } })
      if (task === null) return []
      const rows = await reader.artifact.findMany({
        where: { taskId: id, attempt: task.attempt },
        orderBy: { id: 'asc' },
      })
      return rows.map(toArtifact)
    },

    async artifact(id) {
      const row = await reader.artifact.findUnique({ where: { id } })
      return row === null ? null : toArtifact(row)
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
  }
}
