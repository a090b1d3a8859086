import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Task, TaskId, TaskStore } from '@gpu-service/tasks'
import { filterSql, type FilterSql, type Position } from './filter.ts'
import { Prisma, type PrismaClient } from './generated/client.ts'
import { toTask } from './rows.ts'
import { inBatches, KEPT } from './statements.ts'

// Conditions that no index serves are tried on one stretch of candidates after the other, each long enough to take about this much time, so
// that a search that finds little in a million tasks takes its time but holds up nobody.
const STRETCH_MS = 10
const FIRST_STRETCH = 32
const MAX_STRETCH = 2_048

interface Candidate {
  readonly id: string
  readonly createdAt: bigint
  readonly matches: unknown
}

/** The store's lists of tasks. Pages follow the time of creation, and among equal ones the id. */
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

  /** The ids of the newest `limit` tasks that match, newest first. */
  async function find(filter: FilterSql, limit: number, after: Position | null): Promise<readonly string[]> {
    const { conditions } = filter
    const matches =
      conditions.length === 0
        ? Prisma.sql`1`
        : Prisma.sql`CASE WHEN ${Prisma.join([...conditions], ' AND ')} THEN 1 ELSE 0 END`
    const found: string[] = []
    let before = after
    for (let stretch = conditions.length === 0 ? limit : FIRST_STRETCH; found.length < limit;) {
      const start = performance.now()
      const rows = await reader.$queryRaw<readonly Candidate[]>(Prisma.sql`
        SELECT c."id", c."createdAt", ${matches} AS "matches"
        FROM (
          SELECT s.* FROM (${filter.candidates(before, stretch)}) AS s
          ORDER BY s."createdAt" DESC, s."id" DESC LIMIT ${stretch}
        ) AS c JOIN "Task" AS t ON t."id" = c."id" ${filter.joins}
        ORDER BY c."createdAt" DESC, c."id" DESC`)
      for (const row of rows) if (Number(row.matches) === 1) found.push(row.id)
      const last = rows.at(-1)
      if (last === undefined || rows.length < stretch) break
      before = { id: last.id, createdAt: Number(last.createdAt) }
      const tookMs = performance.now() - start
      if (tookMs > STRETCH_MS) stretch = Math.max(1, Math.floor(stretch / 2))
      else if (tookMs < STRETCH_MS / 2) stretch = Math.min(MAX_STRETCH, stretch * 2)
      await nextTurn()
    }
    return found.slice(0, limit)
  }

  /** Where a page goes on. An id that is not there (any more) ends the list. */
  async function positionOf(id: TaskId): Promise<Position | null> {
    const row = await reader.task.findUnique({ where: { id }, select: { createdAt: true } })
    return row === null ? null : { id, createdAt: Number(row.createdAt) }
  }

  return {
    tasksById,

    async tasks({ filter, first, after }) {
      const position = after === null ? null : await positionOf(after)
      const sql = filterSql(filter)
      if (sql === null || (after !== null && position === null)) return { tasks: [], hasNextPage: false }
      const ids = await find(sql, first + 1, position)
      const tasks = new Map((await tasksById(ids.slice(0, first))).map((task) => [String(task.id), task]))
      return { tasks: ids.flatMap((id) => tasks.get(id) ?? []), hasNextPage: ids.length > first }
    },

    async countTasks(filter, limit) {
      const sql = filterSql(filter)
      if (sql === null) return 0
      if (sql.conditions.length > 0) {
        const { length } = await find(sql, limit + 1, null)
        return length > limit ? null : length
      }
      const [row] = await reader.$queryRaw<readonly { readonly count: unknown }[]>(
        Prisma.sql`SELECT COUNT(*) AS "count" FROM (${sql.candidates(null, limit + 1)}) AS c`,
      )
      const count = Number(row?.count)
      return count > limit ? null : count
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
