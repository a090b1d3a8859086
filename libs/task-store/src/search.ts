import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Task, TaskStore } from '@gpu-service/tasks'
import { filterSql } from './filter.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toTask } from './rows.ts'
import { searchedSql, searchWords, type Searched } from './search-index.ts'
import { inBatches, KEPT } from './statements.ts'

/** An input may have 256 KiB. */
const TRIED_AT_ONCE = 50

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

  return {
    tasksById,

    async tasks({ filter, first, after }) {
      const sql = filterSql(filter)
      if (sql === null) return { tasks: [], hasNextPage: false }
      const rows = await reader.$queryRaw<readonly { readonly id: string }[]>(sql.newest(first + 1, after))
      const ids = rows.map(({ id }) => id)
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
      for (const batch of inBatches(ids, TRIED_AT_ONCE)) {
        const rows = await reader.$queryRaw<readonly Searched[]>(searchedSql(batch, sql.isOfTexts))
        for (const row of rows)
          if (row.status !== 'REMOVED' && sql.holds(row, searchWords(row))) matching.push(row.id)
        await nextTurn()
      }
      return tasksById(matching)
    },
  }
}
