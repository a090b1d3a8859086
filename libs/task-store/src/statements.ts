import type { TaskError } from '@gpu-service/tasks'
import type { Chunk } from './chunk.ts'
import { Prisma } from './generated/client.ts'
import type { Execute } from './writer.ts'

export type Value = string | number | null
/** Named so that every database knows them. */
export type ColumnType = 'TEXT' | 'INTEGER' | 'BIGINT'

/** The most rows that one statement carries: SQLite takes 32,766 parameters, PostgreSQL 65,535. */
export const MAX_ROWS = 1_000

/**
 * The rows as `(?, ?), (?, ?)`. Inside `FROM (VALUES ...)`, where their columns are called column1, column2 and so on, a database cannot
 * know the types by itself: then `types` gives them.
 */
export function tuples(
  rows: readonly (readonly Value[])[],
  types: readonly ColumnType[] | null = null,
): Prisma.Sql {
  const strings: string[] = []
  const values: Value[] = []
  let between = ''
  for (const row of rows) {
    between += values.length === 0 ? '(' : ', ('
    for (const [index, value] of row.entries()) {
      const type = types?.[index]
      strings.push(type === undefined ? between : `${between}CAST(`)
      values.push(value)
      between = `${type === undefined ? '' : ` AS ${type})`}${index === row.length - 1 ? ')' : ', '}`
    }
  }
  strings.push(between)
  return new Prisma.Sql(strings, values)
}

/** The rows in parts that each fit one statement. */
export function* inBatches<T>(rows: readonly T[]): Generator<readonly T[]> {
  for (let from = 0; from < rows.length; from += MAX_ROWS) yield rows.slice(from, from + MAX_ROWS)
}

export async function insertChunks(execute: Execute, chunks: readonly Chunk[]): Promise<void> {
  for (const batch of inBatches(chunks)) {
    const rows = batch.map((chunk) => [
      chunk.taskId,
      chunk.fromSeq,
      chunk.toSeq,
      chunk.format,
      chunk.size,
      chunk.data,
    ])
    await execute(
      Prisma.sql`INSERT INTO "EventChunk" ("taskId", "fromSeq", "toSeq", "format", "size", "data") VALUES ${tuples(rows)}`,
    )
  }
}

const UNSTORABLE = /[\0\p{Surrogate}]/gu

/** The text with U+FFFD for what a text column cannot hold in every database: NUL and lone surrogates. JSON escapes them by itself. */
export function plain(text: string): string
export function plain(text: string | null): string | null
export function plain(text: string | null): string | null {
  return text === null ? null : text.replace(UNSTORABLE, '\uFFFD')
}

/** The columns errorCode and errorMessage. */
export function errorColumns(error: TaskError | null): [code: string | null, message: string | null] {
  return error === null ? [null, null] : [plain(error.code), plain(error.message)]
}
