import { accountOf, isFinal, type TaskFilter, type TaskId, type TaskStatus } from '@gpu-service/tasks'
import { Prisma } from './generated/client.ts'
import { placeOf } from './place.ts'
import { marks, OPEN } from './search-index.ts'
import { StoreError } from './store-error.ts'
import { wordsOf } from './words.ts'

const MAX_WORDS = 32

/** A filter as SQL. */
export interface FilterSql {
  /** The columns id and place of the newest `limit` tasks that match, newest first; `after`: of those behind that one. */
  newest(limit: number, after: TaskId | null): Prisma.Sql
  /** The id of those of the given tasks that match. */
  among(ids: readonly string[]): Prisma.Sql
}

/** `null` where nothing can match. */
export function filterSql(filter: TaskFilter): FilterSql | null {
  const { id, status, createdAfter, createdBefore } = filter
  const required = requiredWords(filter)
  if (required === null || status?.length === 0) return null
  const words = required
  const times: Prisma.Sql[] = []
  if (createdAfter !== undefined) times.push(Prisma.sql`t."createdAt" > ${createdAfter}`)
  if (createdBefore !== undefined) times.push(Prisma.sql`t."createdAt" < ${createdBefore}`)
  const statuses = (list: readonly TaskStatus[]) => Prisma.sql`t."status" IN (${Prisma.join([...list])})`

  /** Both ends of the part of the order that is asked for. */
  function range(column: Prisma.Sql, after: TaskId | null): readonly Prisma.Sql[] {
    const bounds: Prisma.Sql[] = []
    if (createdAfter !== undefined)
      bounds.push(Prisma.sql`${column} >= ${placeOf(Math.floor(createdAfter) + 1)}`)
    if (createdBefore !== undefined) bounds.push(Prisma.sql`${column} < ${placeOf(Math.ceil(createdBefore))}`)
    if (after !== null)
      bounds.push(Prisma.sql`${column} < (SELECT "place" FROM "Task" WHERE "id" = ${after})`)
    return bounds
  }

  /** The tasks that the index finds, down from the newest; of none of the others anything is read. */
  function found(
    all: readonly string[],
    conditions: readonly Prisma.Sql[],
    limit: number,
    after: TaskId | null,
  ) {
    const place = Prisma.sql`s."rowid"`
    return Prisma.sql`
      SELECT t."id", t."place" FROM "TaskSearch" AS s CROSS JOIN "Task" AS t ON t."place" = s."rowid"
      WHERE ${Prisma.join([matches(all), ...range(place, after), ...conditions], ' AND ')}
      ORDER BY s."rowid" DESC LIMIT ${limit}`
  }

  /** The tasks of which the conditions hold, which are few or newest first by themselves, looked at one by one. */
  function tried(conditions: readonly Prisma.Sql[], limit: number, after: TaskId | null) {
    const where = [KEPT, ...conditions, ...range(Prisma.sql`t."place"`, after)]
    return Prisma.sql`
      SELECT t."id", t."place" FROM ${withIndex(words)} WHERE ${Prisma.join(where, ' AND ')}
      ORDER BY t."place" DESC LIMIT ${limit}`
  }

  return {
    among(ids) {
      const conditions = [...(id === undefined ? [] : [Prisma.sql`t."id" = ${id}`]), ...times]
      if (status !== undefined) conditions.push(statuses(status))
      const where = [Prisma.sql`t."id" IN (${Prisma.join([...ids])})`, ...conditions]
      return Prisma.sql`SELECT t."id" FROM ${withIndex(words)} WHERE ${Prisma.join(where, ' AND ')}`
    },

    newest(limit, after) {
      const asked = status === undefined ? [] : [statuses(status)]
      if (id !== undefined) return tried([Prisma.sql`t."id" = ${id}`, ...asked], limit, after)
      if (status === undefined)
        return words.length === 0 ? tried([], limit, after) : found(words, [], limit, after)
      const ended = status.filter(isFinal)
      const open = status.filter((one) => !isFinal(one))
      const walks: Prisma.Sql[] = []
      // The index does not tell one that waits from one that has begun. Of these there are few, so they are left out, or tried, one by one.
      const isQueueAsked = open.includes('QUEUED')
      const oneOf = [...new Set(ended.map(marks.status)), ...(isQueueAsked ? [OPEN] : [])].join('" OR "')
      if (oneOf !== '') walks.push(found([...words, `("${oneOf}")`], isQueueAsked ? asked : [], limit, after))
      if (open.length > 0 && !isQueueAsked) walks.push(tried([statuses(open)], limit, after))
      const parts = walks.map((walk) => Prisma.sql`SELECT * FROM (${walk})`)
      return Prisma.sql`
        SELECT "id", "place" FROM (${Prisma.join(parts, ' UNION ALL ')}) ORDER BY "place" DESC LIMIT ${limit}`
    },
  }
}

const KEPT = Prisma.sql`t."status" <> 'REMOVED'`

function withIndex(words: readonly string[]): Prisma.Sql {
  if (words.length === 0) return Prisma.sql`"Task" AS t`
  return Prisma.sql`"Task" AS t CROSS JOIN "TaskSearch" AS s ON s."rowid" = t."place" AND ${matches(words)}`
}

function matches(words: readonly string[]): Prisma.Sql {
  return Prisma.sql`s."TaskSearch" MATCH ${words.join(' AND ')}`
}

/**
 * What the index must have of a task, each as an expression of it: all of the filter but the id, the status and the time. `null`: no task has it.
 * Words are made of letters, digits and `=`, so none of them means anything else there.
 */
function requiredWords({ presetId, presets, owner, label, text }: TaskFilter): readonly string[] | null {
  const words: string[] = []
  if (presets?.length === 0) return null
  if (presetId !== undefined) words.push(`"${marks.preset(presetId)}"`)
  if (presets !== undefined) words.push(`("${presets.map(marks.preset).join('" OR "')}")`)
  if (owner !== undefined)
    words.push(`"${accountOf(owner) === owner ? marks.account(owner) : marks.owner(owner)}"`)
  if (label !== undefined) {
    const { key, value } = label
    words.push(`"${value === null ? marks.labelled(key) : marks.label(key, value)}"`)
  }
  if (text === undefined) return words
  const asked = wordsOfQuery(text)
  return asked.length === 0 ? null : [...words, ...asked]
}

/** As much of an id as tells a minute: with less, half of all tasks would be meant. */
const ID_START = /^[0-9a-f]{8}[0-9a-f-]{0,28}$/i

function wordsOfQuery(text: string): readonly string[] {
  const required = new Set<string>()
  for (const part of text.split(/\s+/)) {
    const words = wordsOf(part).map((word) => `"${word}"`)
    if (ID_START.test(part)) required.add(`("${marks.id(part)}" * OR (${words.join(' AND ')}))`)
    else for (const word of words) required.add(word)
    if (required.size > MAX_WORDS)
      throw new StoreError('INVALID_FILTER', `At most ${MAX_WORDS} words can be searched for.`)
  }
  return [...required]
}
