import type { Logger, TaskId } from '@gpu-service/tasks'
import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'
import type { Writer } from './writer.ts'

/** An input may have 256 KiB, an output more. */
const TASKS_AT_ONCE = 100

/**
 * Makes the rows of the search index that a database of an earlier version lacks. They are made in the order of places, and new tasks come
 * behind the last of them, so where it was interrupted it goes on; of a database that has them all it reads a row.
 */
export async function fillSearch(writer: Writer, logger: Logger): Promise<void> {
  let filled = 0
  for (let next = await fill(writer); next > 0; next = await fill(writer)) {
    if (filled === 0) logger.info({}, 'The tasks of an earlier version are being made ready for search')
    filled += next
  }
  if (filled > 0) logger.info({ tasks: filled }, 'The tasks of an earlier version can be searched')
}

function fill(writer: Writer): Promise<number> {
  return writer.change(async ({ query, index }) => {
    const ids = await lacking({ query })
    for (const id of ids) index(id)
    return ids.length
  })
}

async function lacking({ query }: Pick<Transaction, 'query'>): Promise<readonly TaskId[]> {
  const rows = await query<{ readonly id: TaskId }>(Prisma.sql`
    SELECT "id" FROM "Task"
    WHERE "place" > COALESCE((SELECT "rowid" FROM "TaskSearch" ORDER BY "rowid" DESC LIMIT 1), -1) AND "status" <> 'REMOVED'
    ORDER BY "place" LIMIT ${TASKS_AT_ONCE}`)
  return rows.map(({ id }) => id)
}
