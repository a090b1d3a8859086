import { accountOf, isFinal, type TaskFilter, type TaskId, type TaskStatus } from '@gpu-service/tasks'
import { Prisma } from './generated/client.ts'
import { placeOf } from './place.ts'
import { marks, OPEN, type Searched } from './search-index.ts'
import { StoreError } from './store-error.ts'
import { wordsOf } from './words.ts'

const MAX_WORDS = 32

/** A filter as SQL. */
export interface FilterSql {
  /** The columns id and place of the newest `limit` tasks that match, newest first; `after`: of those behind that one. */
  newest(limit: number, after: TaskId | null): Prisma.Sql
  /** Whether it needs the words of a task's texts for `holds`. */
  readonly isOfTexts: boolean
  /** Whether a task matches. The index is no help for a few that are known: it would look for the next one that matches, however far it is. */
  holds(task: Pick<Searched, 'id' | 'status' | 'createdAt'>, words: ReadonlySet<string>): boolean
}

/** `null` where nothing can match. */
export function filterSql(filter: TaskFilter): FilterSql | null {
  const { id, status, createdAfter, createdBefore, text } = filter
  const required = requirementsOf(filter)
  if (required === null || status?.length === 0) return null
  const words = required.map(expression)
  /** With those of them that have the words. */
  const candidates = withIndex(words)
  const statuses = (list: readonly TaskStatus[]) => Prisma.sql`t."status" IN (${Prisma.join([...list])})`

  /** The part of the order that is asked for, as one bound at each end: of several an index would take only one. */
  function range(column: Prisma.Sql, after: TaskId | null): readonly Prisma.Sql[] {
    const bounds: Prisma.Sql[] = []
    if (createdAfter !== undefined)
      bounds.push(Prisma.sql`${column} >= ${placeOf(Math.floor(createdAfter) + 1)}`)
    const ends: Prisma.Sql[] = []
    if (createdBefore !== undefined) ends.push(Prisma.sql`${placeOf(Math.ceil(createdBefore))}`)
    if (after !== null) ends.push(Prisma.sql`(SELECT "place" FROM "Task" WHERE "id" = ${after})`)
    const [end] = ends
    if (end !== undefined)
      bounds.push(Prisma.sql`${column} < ${ends.length === 1 ? end : Prisma.sql`MIN(${Prisma.join(ends)})`}`)
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
      SELECT t."id", t."place" FROM ${candidates} WHERE ${Prisma.join(where, ' AND ')}
      ORDER BY t."place" DESC LIMIT ${limit}`
  }

  return {
    isOfTexts: text !== undefined,

    holds: (task, ofTask) =>
      (id === undefined || task.id === id) &&
      (status === undefined || status.some((one) => one === task.status)) &&
      (createdAfter === undefined || Number(task.createdAt) > createdAfter) &&
      (createdBefore === undefined || Number(task.createdAt) < createdBefore) &&
      required.every((one) => hasWords(one, ofTask)),

    newest(limit, after) {
      const asked = status === undefined ? [] : [statuses(status)]
      if (id !== undefined) return tried([Prisma.sql`t."id" = ${id}`, ...asked], limit, after)
      if (status === undefined)
        return words.length === 0 ? tried([], limit, after) : found(words, [], limit, after)
      const ended = status.filter(isFinal)
      const open = status.filter((one) => !isFinal(one))
      const walks: Prisma.Sql[] = []
      // The index does not tell one that waits from one that has begun. Of the latter there are few.
      const isQueueAsked = open.includes('QUEUED')
      const oneOf = [...new Set(ended.map(marks.status)), ...(isQueueAsked ? [OPEN] : [])].join('" OR "')
      if (oneOf !== '') walks.push(found([...words, `("${oneOf}")`], isQueueAsked ? asked : [], limit, after))
      if (open.length > 0 && !isQueueAsked) {
        // The plus keeps it from being asked of the index for each of them, which would look for the next one that matches.
        const isOpen = Prisma.sql`+s."rowid" IN (SELECT "place" FROM "Task" AS t WHERE ${statuses(open)})`
        if (words.length === 0) walks.push(tried([statuses(open)], limit, after))
        else walks.push(found([...words, `"${OPEN}"`], [isOpen], limit, after))
      }
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

/** What a task must have: all words of one of these lists, or one word that begins so. */
interface Requirement {
  readonly anyOf: readonly (readonly string[])[]
  readonly start?: string
}

/** As the index takes it. Words are made of letters, digits and `=`, so none of them means anything else there. */
function expression({ anyOf, start }: Requirement): string {
  const lists = anyOf.map((words) => `("${words.join('" AND "')}")`)
  return `(${[...lists, ...(start === undefined ? [] : [`"${start}" *`])].join(' OR ')})`
}

function hasWords({ anyOf, start }: Requirement, ofTask: ReadonlySet<string>): boolean {
  if (anyOf.some((words) => words.every((word) => ofTask.has(word)))) return true
  return start !== undefined && [...ofTask].some((word) => word.startsWith(start))
}

/** All of the filter but the id, the status and the time. `null`: no task has it. */
function requirementsOf({
  presetId,
  presets,
  owner,
  label,
  text,
}: TaskFilter): readonly Requirement[] | null {
  const required: Requirement[] = []
  const require = (...words: readonly string[]) => required.push({ anyOf: words.map((word) => [word]) })
  if (presets?.length === 0) return null
  if (presetId !== undefined) require(marks.preset(presetId))
  if (presets !== undefined) require(...presets.map(marks.preset))
  if (owner !== undefined) require(accountOf(owner) === owner ? marks.account(owner) : marks.owner(owner))
  if (label !== undefined) {
    const { key, value } = label
    require(value === null ? marks.labelled(key) : marks.label(key, value))
  }
  if (text === undefined) return required
  const asked = requirementsOfText(text)
  return asked.length === 0 ? null : [...required, ...asked]
}

/** As much of an id as tells a minute: with less, half of all tasks would be meant. */
const ID_START = /^[0-9a-f]{8}[0-9a-f-]{0,28}$/i

function requirementsOfText(text: string): readonly Requirement[] {
  const required = new Map<string, Requirement>()
  for (const part of text.split(/\s+/)) {
    const words = wordsOf(part)
    if (ID_START.test(part)) required.set(part, { anyOf: [words], start: marks.id(part) })
    else for (const word of words) required.set(word, { anyOf: [[word]] })
    if (required.size > MAX_WORDS)
      throw new StoreError('INVALID_FILTER', `At most ${MAX_WORDS} words can be searched for.`)
  }
  return [...required.values()]
}
