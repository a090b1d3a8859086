import { accountOf, isFinal, type JsonValue, type TaskId, type TaskStatus } from '@gpu-service/tasks'
import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'
import { plain } from './statements.ts'
import { textOf, wordsOf } from './words.ts'

// TaskSearch has a row for each task, by its place, with all that a filter can ask for as words of one kind: those of its texts, and marks such
// as `s=open`. So a filter is a conjunction of words, whatever it is made of, and the index finds what has them all in the order of places
// without looking at any task. It keeps for each word where it occurs, and none of the texts.

/** What a row is made of. */
export interface Searched {
  readonly place: string
  readonly id: string
  readonly owner: string
  readonly presetId: string
  readonly labels: string
  readonly input: string
  readonly privacy: string
  readonly status: string
  readonly createdAt: number | bigint
  readonly errorMessage: string | null
  readonly text: string | null
}

/** Of a task that has not ended; which of these states it has, only its own row tells. */
export const OPEN = 's=open'

/** Words that no text has. Of what can be any text in hex, which is the same in any case and has no separators. */
export const marks = {
  status: (status: TaskStatus) => (isFinal(status) ? `s=${hex(status)}` : OPEN),
  preset: (id: string) => `p=${hex(id)}`,
  account: (name: string) => `a=${hex(name)}`,
  owner: (name: string) => `o=${hex(name)}`,
  labelled: (key: string) => `l=${hex(key)}`,
  label: (key: string, value: string) => `l=${hex(key)}=${hex(value)}`,
  id: (id: string) => `i=${id.replaceAll('-', '').toLowerCase()}`,
}

function hex(text: string): string {
  return Buffer.from(plain(text)).toString('hex')
}

/**
 * Makes the tasks' rows anew from what is stored of them, and removes those of tasks that are being removed. To be called once, as the last of a
 * transaction that has created, ended or removed them or changed their contents: for a row that comes before the one that was written last,
 * FTS5 begins a segment of the index of its own.
 */
export async function indexTasks({ query, execute }: Transaction, ids: Iterable<TaskId>): Promise<void> {
  const rows = await query<Searched>(searchedSql([...ids], true))
  const removed = rows.filter(({ status }) => status === 'REMOVED').map(({ place }) => place)
  const there = rows.filter(({ status }) => status !== 'REMOVED')
  if (removed.length > 0)
    await execute(Prisma.sql`
      DELETE FROM "TaskSearch" WHERE "rowid" IN (
        SELECT CAST("value" AS INTEGER) FROM json_each(${JSON.stringify(removed)}))`)
  if (there.length > 0) {
    const values = there.map((row) => [row.place, [...searchWords(row)].join(' ')])
    await execute(Prisma.sql`
      REPLACE INTO "TaskSearch" ("rowid", "words")
      SELECT CAST("value" ->> 0 AS INTEGER), "value" ->> 1 FROM json_each(${JSON.stringify(values)})`)
  }
}

/** In the order of places; without texts, they are empty. */
export function searchedSql(ids: readonly string[], withTexts: boolean): Prisma.Sql {
  const texts = withTexts
    ? Prisma.sql`t."input", t."errorMessage", o."text"`
    : Prisma.sql`'null' AS "input", NULL AS "errorMessage", NULL AS "text"`
  const outputs = Prisma.sql`LEFT JOIN "Output" AS o ON o."taskId" = t."id" AND o."attempt" = t."attempt"`
  return Prisma.sql`
    SELECT CAST(t."place" AS TEXT) AS "place", t."id", t."owner", t."presetId", t."labels", t."privacy", t."status", t."createdAt", ${texts}
    FROM json_each(${JSON.stringify(ids)}) AS i CROSS JOIN "Task" AS t ON t."id" = i."value"
    ${withTexts ? outputs : Prisma.empty}
    ORDER BY t."place"`
}

/** All that a filter can ask for of the task. */
export function searchWords(row: Searched): ReadonlySet<string> {
  const { id, owner, presetId } = row
  const status = row.status as TaskStatus
  const labels = Object.entries(JSON.parse(row.labels) as Record<string, string>)
  const account = accountOf(owner)
  const words = new Set([
    ...[marks.status(status), marks.preset(presetId), marks.account(account), marks.id(id)],
    ...(owner === account ? [] : [marks.owner(owner)]),
    ...labels.flatMap(([key, value]) => [marks.labelled(key), marks.label(key, value)]),
    ...wordsOf(presetId),
  ])
  // What is not to be kept must not be here either: a word that is removed stays in the index's file until its segment is merged.
  if (row.privacy !== 'full') return words
  for (const word of wordsOf(textOf(JSON.parse(row.input) as JsonValue))) words.add(word)
  // Before that an attempt's output may yet be replaced by the next one's.
  if (isFinal(status))
    for (const text of [row.text, row.errorMessage]) for (const word of wordsOf(text ?? '')) words.add(word)
  return words
}
