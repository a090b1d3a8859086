import type { NewTask, TaskId } from '@gpu-service/tasks'
import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'

// A task's place is a number that orders it among all: the moment of its creation, and in the lower bits a count of those of that moment. Time
// is thereby a range of places, and one column stands for the order of every list. It is more than a number of JavaScript can hold exactly.

const COUNT_BITS = 21n
/** In the year 2109. */
const END_OF_TIME = 2 ** 42 - 1

/** The first place of a moment. */
export function placeOf(at: number): bigint {
  return BigInt(Math.min(Math.max(Math.floor(at), 0), END_OF_TIME)) << COUNT_BITS
}

/** The places of new tasks: of those of one moment, behind those that are there already, in the order of the given ones. */
export async function placesFor(
  { query }: Transaction,
  tasks: readonly Pick<NewTask, 'id' | 'createdAt'>[],
): Promise<ReadonlyMap<TaskId, bigint>> {
  const places = new Map<TaskId, bigint>()
  const next = new Map<number, bigint>()
  for (const { id, createdAt } of tasks) {
    let place = next.get(createdAt)
    if (place === undefined) {
      const [first, end] = [placeOf(createdAt), placeOf(createdAt + 1)]
      const [last] = await query<{ readonly place: string }>(Prisma.sql`
        SELECT CAST("place" AS TEXT) AS "place" FROM "Task" WHERE "place" >= ${first} AND "place" < ${end} ORDER BY "Task"."place" DESC LIMIT 1`)
      place = last === undefined ? first : BigInt(last.place) + 1n
    }
    places.set(id, place)
    next.set(createdAt, place + 1n)
  }
  return places
}
