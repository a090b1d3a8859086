import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Task, TaskStore } from '@gpu-service/tasks'
import { filterSql, type FilterSql } from './filter.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toTask } from './rows.ts'
import { inBatches } from './statements.ts'

// Conditions that no index serves are tried on one stretch of candidates after the other, each long enough to take about this much time, so
// that a search that finds little in a million tasks takes its time but holds up nobody.
const STRETCH_MS = 10
const FIRST_STRETCH = 32
const MAX_STRETCH = 8_192

/** The store's lists of tasks. Pages follow the id, which grows with the time of submission. */
export function createSearch(
  reader: PrismaClient,
): Pick<TaskStore, 'tasks' | 'countTasks' | 'matching' | 'tasksById'> {
  async function tasksById(ids: readonly string[]): Promise<readonly Task[]> {
    const tasks: Task[] = []
    for (const batch of inBatches(ids)) {
      const rows = await reader.task.findMany({ where: { id: { in: [...batch] } }, orderBy: { id: 'desc' } })
      for (const row of rows) tasks.push(toTask(row))
    }
    return tasks
  }

  /** The ids of the newest `limit` tasks that match. */
  async function find(filter: FilterSql, limit: number, after: string | null): Promise<readonly string[]> {
    const { conditions } = filter
    const found: string[] = []
    let before = after
    for (let stretch = conditions.length === 0 ? limit : FIRST_STRETCH; found.length < limit;) {
      const start = performance.now()
      const rows = await reader.$queryRaw<
        readonly { readonly id: string; readonly matches: unknown }[]
      >(Prisma.sql`
        SELECT c."id", ${conditions.length === 0 ? 1 : Prisma.sql`CASE WHEN ${Prisma.join([...conditions], ' AND ')} THEN 1 ELSE 0 END`} AS "matches"
        FROM (SELECT s."id" FROM (${filter.candidates(before, stretch)}) AS s ORDER BY s."id" DESC LIMIT ${stretch}) AS c
        JOIN "Task" AS t ON t."id" = c."id" ${filter.joins}
        ORDER BY c."id" DESC`)
      for (const { id, matches } of rows) if (Number(matches) === 1) found.push(id)
      const last = rows.at(-1)
      if (last === undefined || rows.length < stretch) break
      before = last.id
      const tookMs = performance.now() - start
      if (tookMs > STRETCH_MS) stretch = Math.max(1, Math.floor(stretch / 2))
      else if (tookMs < STRETCH_MS / 2) stretch = Math.min(MAX_STRETCH, stretch * 2)
      await nextTurn()
    }
    return found.slice(0, limit)
  }

  return {
    tasksById,

    async tasks({ filter, first, after }) {
      const sql = filterSql(filter)
      const ids = sql === null ? [] : await find(sql, first + 1, after)
      return { tasks: await tasksById(ids.slice(0, first)), hasNextPage: ids.length > first }
    },

    async countTasks(filter, limit) {
      const sql = filterSql(filter)
      const { length } = sql === null ? [] : await find(sql, limit + 1, null)
      return length > limit ? null : length
    },

    async matching(ids, filter) {
      const sql = filterSql(filter)
      if (sql === null) return []
      const matching: string[] = []
      for (const batch of inBatches(ids)) {
        const where = [Prisma.sql`t."id" IN (${Prisma.join([...batch])})`, ...sql.all]
        const rows = await reader.$queryRaw<readonly { readonly id: string }[]>(
          Prisma.sql`SELECT t."id" FROM "Task" AS t ${sql.joins} WHERE ${Prisma.join(where, ' AND ')}`,
        )
        for (const { id } of rows) matching.push(id)
      }
      return tasksById(matching)
    },
  }
}
