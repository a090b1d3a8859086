import { accountOf, type TaskFilter } from '@gpu-service/tasks'
import { Prisma } from './generated/client.ts'
import { StoreError } from './store-error.ts'

const MAX_WORDS = 32
const MAX_WORD_LENGTH = 1_000

/** A place in the order of tasks, which is by their creation. */
export interface Position {
  readonly createdAt: number
  readonly id: string
}

/**
 * A filter as SQL, in two halves: the candidates, which an index gives in the order of their creation, and the conditions on them that no
 * index serves.
 */
export interface FilterSql {
  /** The columns id and createdAt of at most `limit` candidates before the position: the newest ones, in no order. */
  candidates(before: Position | null, limit: number): Prisma.Sql
  /** On the tables t (Task) and, where `text` is asked for, o (Output of the last attempt). Empty: every candidate matches. */
  readonly conditions: readonly Prisma.Sql[]
  /** All of the filter as conditions. */
  readonly all: readonly Prisma.Sql[]
  /** What the conditions need to be joined to t. */
  readonly joins: Prisma.Sql
}

/** `null` where nothing can match. */
export function filterSql(filter: TaskFilter): FilterSql | null {
  const { id, status, presetId, presets: anyOf, owner, label, createdAfter, createdBefore } = filter
  if (status?.length === 0 || anyOf?.length === 0) return null
  const statuses = status === undefined ? [] : [Prisma.sql`t."status" IN (${Prisma.join([...status])})`]
  const presets = presetId === undefined ? [] : [Prisma.sql`t."presetId" = ${presetId}`]
  const seen = anyOf === undefined ? [] : [Prisma.sql`t."presetId" IN (${Prisma.join([...anyOf])})`]
  const owners = owner === undefined ? [] : [ownedBy(owner)]
  const words = wordsOf(filter.text ?? '').map(contains)
  const isLabelled = label === undefined ? null : labelled(label)
  const labels =
    isLabelled === null
      ? []
      : [Prisma.sql`EXISTS (SELECT 1 FROM "TaskLabel" AS l WHERE l."taskId" = t."id" AND ${isLabelled})`]
  const times: Prisma.Sql[] = []
  if (createdAfter !== undefined) times.push(Prisma.sql`t."createdAt" > ${createdAfter}`)
  if (createdBefore !== undefined) times.push(Prisma.sql`t."createdAt" < ${createdBefore}`)
  const joins =
    words.length === 0
      ? Prisma.empty
      : Prisma.sql`LEFT JOIN "Output" AS o ON o."taskId" = t."id" AND o."attempt" = t."attempt"`

  /** The part of an index's order that is asked for, as one bound at each end: of several an index would take only one. */
  function stretch(before: Position | null, createdAt: string, key: string): readonly Prisma.Sql[] {
    const bounds: Prisma.Sql[] = []
    if (createdAfter !== undefined) bounds.push(Prisma.sql`${Prisma.raw(createdAt)} > ${createdAfter}`)
    const end =
      createdBefore === undefined || (before !== null && before.createdAt < createdBefore)
        ? before
        : { createdAt: createdBefore, id: '' }
    if (end !== null)
      bounds.push(Prisma.sql`(${Prisma.raw(`${createdAt}, ${key}`)}) < (${end.createdAt}, ${end.id})`)
    return bounds
  }

  const others = [...statuses, ...presets, ...seen, ...words]
  const all = [...others, ...owners, ...labels, ...times]
  const from = (
    where: readonly Prisma.Sql[],
    before: Position | null,
    limit: number,
  ): Prisma.Sql => Prisma.sql`
    SELECT t."id", t."createdAt" FROM "Task" AS t
    WHERE ${Prisma.join([...where, ...stretch(before, 't."createdAt"', 't."id"')], ' AND ')}
    ORDER BY t."createdAt" DESC, t."id" DESC LIMIT ${limit}`

  if (id !== undefined) {
    const isIt = [Prisma.sql`t."id" = ${id}`]
    return {
      conditions: [...others, ...owners, ...labels],
      all: [...isIt, ...all],
      joins,
      candidates: (before, limit) => from(isIt, before, limit),
    }
  }

  if (isLabelled !== null) {
    return {
      conditions: [...others, ...owners],
      all,
      joins,
      candidates(before, limit) {
        const where = [isLabelled, ...stretch(before, 'l."createdAt"', 'l."taskId"')]
        return Prisma.sql`
          SELECT l."taskId" AS "id", l."createdAt" FROM "TaskLabel" AS l WHERE ${Prisma.join(where, ' AND ')}
          ORDER BY l."createdAt" DESC, l."taskId" DESC LIMIT ${limit}`
      },
    }
  }

  if (owner !== undefined)
    return { conditions: others, all, joins, candidates: (before, limit) => from(owners, before, limit) }

  return {
    conditions: [...seen, ...words],
    all,
    joins,
    candidates(before, limit) {
      const bounds = stretch(before, 't."createdAt"', 't."id"')
      const newest = (conditions: readonly Prisma.Sql[]) => Prisma.sql`
        SELECT t."id", t."createdAt" FROM "Task" AS t
        ${conditions.length === 0 ? Prisma.empty : Prisma.sql`WHERE ${Prisma.join([...conditions], ' AND ')}`}
        ORDER BY t."createdAt" DESC, t."id" DESC LIMIT ${limit}`
      if (status === undefined) return newest([...presets, ...bounds])
      // One walk down the index for each status: for all at once there is none in this order.
      const walks = [...new Set(status)].map(
        (one, index) =>
          Prisma.sql`SELECT * FROM (${newest([Prisma.sql`t."status" = ${one}`, ...presets, ...bounds])}) AS ${Prisma.raw(`s${index}`)}`,
      )
      return Prisma.join(walks, ' UNION ALL ')
    },
  }
}

function labelled({ key, value }: NonNullable<TaskFilter['label']>): Prisma.Sql {
  return value === null ? Prisma.sql`l."key" = ${key}` : Prisma.sql`l."key" = ${key} AND l."value" = ${value}`
}

function ownedBy(owner: string): Prisma.Sql {
  return accountOf(owner) === owner ? Prisma.sql`t."account" = ${owner}` : Prisma.sql`t."owner" = ${owner}`
}

function wordsOf(text: string): readonly string[] {
  const words = [...new Set(text.split(/\s+/).filter((word) => word !== ''))]
  if (words.length > MAX_WORDS || words.some(({ length }) => length > MAX_WORD_LENGTH)) {
    throw new StoreError(
      'INVALID_FILTER',
      `At most ${MAX_WORDS} words of at most ${MAX_WORD_LENGTH} characters can be searched for.`,
    )
  }
  return words
}

function contains(word: string): Prisma.Sql {
  // SQLite's LIKE takes only a-z and A-Z for the same letters. Other alphabets are written in one of these ways nearly always.
  const [first = '', ...others] = word.toLowerCase()
  const spellings = [word, word.toLowerCase(), word.toUpperCase(), first.toUpperCase() + others.join('')]
  const likes = [...new Set(spellings)].flatMap((spelling) => {
    const pattern = likePattern(spelling)
    // In the input, which is JSON, a quote or a backslash is written as two characters.
    const escaped = likePattern(JSON.stringify(spelling).slice(1, -1))
    return [
      Prisma.sql`t."input" LIKE ${escaped} ESCAPE '\\'`,
      Prisma.sql`o."text" LIKE ${pattern} ESCAPE '\\'`,
      Prisma.sql`t."errorMessage" LIKE ${pattern} ESCAPE '\\'`,
    ]
  })
  return Prisma.sql`(${Prisma.join(likes, ' OR ')})`
}

function likePattern(text: string): string {
  return `%${text.replace(/[\\%_]/g, '\\$&')}%`
}
