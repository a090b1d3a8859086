import type { TaskFilter } from '@gpu-service/tasks'
import { Prisma } from './generated/client.ts'
import { StoreError } from './store-error.ts'

const MAX_WORDS = 32
const MAX_WORD_LENGTH = 1_000

/**
 * A filter as SQL, in two halves: the candidates, which an index gives in the order of their ids, and the conditions on them that no index
 * serves. `null` where nothing can match.
 */
export interface FilterSql {
  /** The ids of at most `limit` candidates below `before`: the greatest ones, in no order. */
  candidates(before: string | null, limit: number): Prisma.Sql
  /** On the tables t (Task) and, where `text` is asked for, o (Output of the last attempt). Empty: every candidate matches. */
  readonly conditions: readonly Prisma.Sql[]
  /** All of the filter as conditions. */
  readonly all: readonly Prisma.Sql[]
  /** What the conditions need to be joined to t. */
  readonly joins: Prisma.Sql
}

export function filterSql(filter: TaskFilter): FilterSql | null {
  const { status, presetId, label } = filter
  if (status?.length === 0) return null
  const statuses = status === undefined ? [] : [Prisma.sql`t."status" IN (${Prisma.join([...status])})`]
  const presets = presetId === undefined ? [] : [Prisma.sql`t."presetId" = ${presetId}`]
  const scanned: Prisma.Sql[] = []
  if (filter.createdAfter !== undefined) scanned.push(Prisma.sql`t."createdAt" > ${filter.createdAfter}`)
  if (filter.createdBefore !== undefined) scanned.push(Prisma.sql`t."createdAt" < ${filter.createdBefore}`)
  const words = wordsOf(filter.text ?? '')
  for (const word of words) scanned.push(contains(word))
  const joins =
    words.length === 0
      ? Prisma.empty
      : Prisma.sql`LEFT JOIN "Output" AS o ON o."taskId" = t."id" AND o."attempt" = t."attempt"`

  if (label !== undefined) {
    const { key, value } = label
    const conditions = [...statuses, ...presets, ...scanned]
    return {
      conditions,
      all: [
        ...conditions,
        Prisma.sql`EXISTS (SELECT 1 FROM "TaskLabel" AS l WHERE l."taskId" = t."id" AND l."key" = ${key} AND l."value" = ${value})`,
      ],
      joins,
      candidates: (before, limit) => Prisma.sql`
        SELECT l."taskId" AS "id" FROM "TaskLabel" AS l
        WHERE l."key" = ${key} AND l."value" = ${value} ${before === null ? Prisma.empty : Prisma.sql`AND l."taskId" < ${before}`}
        ORDER BY l."taskId" DESC LIMIT ${limit}`,
    }
  }

  return {
    conditions: scanned,
    all: [...statuses, ...presets, ...scanned],
    joins,
    candidates(before, limit) {
      const below = before === null ? [] : [Prisma.sql`t."id" < ${before}`]
      const newest = (conditions: readonly Prisma.Sql[]) => Prisma.sql`
        SELECT t."id" FROM "Task" AS t
        ${conditions.length === 0 ? Prisma.empty : Prisma.sql`WHERE ${Prisma.join([...conditions], ' AND ')}`}
        ORDER BY t."id" DESC LIMIT ${limit}`
      if (status === undefined) return newest([...presets, ...below])
      // One walk down the index for each status: for all at once there is none in the order of ids.
      const walks = [...new Set(status)].map(
        (one, index) =>
          Prisma.sql`SELECT * FROM (${newest([Prisma.sql`t."status" = ${one}`, ...presets, ...below])}) AS ${Prisma.raw(`s${index}`)}`,
      )
      return Prisma.join(walks, ' UNION ALL ')
    },
  }
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
