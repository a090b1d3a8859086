import type { TaskError } from '@gpu-service/tasks'
import type { Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'

/** Of tasks that are not being removed: those are there for nobody any more. */
export const KEPT = { status: { not: 'REMOVED' } } as const

export type Value = string | number | bigint | null

/** The most rows that one statement names: SQLite takes 32,766 parameters, PostgreSQL 65,535. */
export const MAX_ROWS = 1_000
const MAX_PARAMETERS = 32_000

/** Writes the rows, which have the same columns all. */
export async function insert(
  { execute }: Transaction,
  table: Prisma.ModelName,
  rows: readonly Readonly<Record<string, Value>>[],
): Promise<void> {
  const columns = Object.keys(rows[0] ?? {})
  const into = `INSERT INTO "${table}" (${columns.map((column) => `"${column}"`).join(', ')}) VALUES`
  const places = `(${columns.map(() => '?').join(', ')})`
  for (const batch of inBatches(rows, Math.floor(MAX_PARAMETERS / columns.length))) {
    const sql = `${into} ${batch.map(() => places).join(', ')}`
    await execute({ sql, values: batch.flatMap((row) => columns.map((column) => row[column] ?? null)) })
  }
}

/** The rows in parts that each fit one statement. */
export function* inBatches<T>(rows: readonly T[], size = MAX_ROWS): Generator<readonly T[]> {
  for (let from = 0; from < rows.length; from += size) yield rows.slice(from, from + size)
}

const UNSTORABLE = /[\0\p{Surrogate}]/gu

/** The text with U+FFFD for what a text column cannot hold in every database: NUL and lone surrogates. JSON escapes them by itself. */
export function plain(text: string): string
export function plain(text: string | null): string | null
export function plain(text: string | null): string | null {
  return text === null ? null : text.replace(UNSTORABLE, '\uFFFD')
}

export function errorColumns(error: TaskError | null) {
  return { errorCode: plain(error?.code ?? null), errorMessage: plain(error?.message ?? null) }
}

/** `null` stays `null`, rather than the JSON of it. */
export function jsonOrNull(value: unknown): string | null {
  return value === null ? null : JSON.stringify(value)
}

/** `"a" = ..., "b" = ...` */
export function assignments(columns: Readonly<Record<string, Value | Prisma.Sql>>): Prisma.Sql {
  return Prisma.join(
    Object.entries(columns).map(([column, value]) => Prisma.sql`${Prisma.raw(`"${column}"`)} = ${value}`),
  )
}
