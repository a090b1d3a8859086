import type { Task, TaskStore } from '@gpu-service/tasks'
import { filterSql } from './filter.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toTask } from './rows.ts'
import { inBatches, KEPT } from './statements.ts'

/** The store's lists of tasks. Pages follow the time of creation, and within a moment the order of it. */
export function createSearch(
  reader: PrismaClient,
): Pick<TaskStore, 'tasks' | 'countTasks' | 'matching' | 'tasksById'> {
  async function tasksById(ids: readonly string[]): Promise<readonly Task[]> {
    const tasks: Task[] = []
    for (const batch of inBatches(ids)) {
      const rows = await reader.task.findMany({ where: { id: { in: [...batch] }, ...KEPT } })
      for (const row of rows) tasks.push(toTask(row))
    }
    return tasks
  }

  async function idsOf(sql: Prisma.Sql): Promise<readonly string[]> {
    const rows = await reader.$queryRaw<readonly { readonly id: string }[]>(sql)
    return rows.map(({ id }) => id)
  }

  return {
    tasksById,

    async tasks({ filter, first, after }) {
      const sql = filterSql(filter)
      if (sql === null) return { tasks: [], hasNextPage: false }
      const ids = await idsOf(sql.newest(first + 1, after))
      const tasks = new Map((await tasksById(ids.slice(0, first))).map((task) => [String(task.id), task]))
      return { tasks: ids.flatMap((id) => tasks.get(id) ?? []), hasNextPage: ids.length > first }
    },

    async countTasks(filter, limit) {
      const sql = filterSql(filter)
      if (sql === null) return 0
      const [row] = await reader.$queryRaw<readonly { readonly count: unknown }[]>(
        Prisma.sql`SELECT COUNT(*) AS "count" FROM (${sql.newest(limit + 1, null)}) AS c`,
      )
      const count = Number(row?.count)
      return count > limit ? null : count
    },

    async matching(ids, filter) {
      const sql = filterSql(filter)
      if (sql === null) return []
      const matching: string[] = []
      for (const batch of inBatches(ids)) matching.push(...(await idsOf(sql.among(batch))))
      return tasksById(matching)
    },
  }
}
