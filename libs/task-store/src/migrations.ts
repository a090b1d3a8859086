import { createHash } from 'node:crypto'
import type { SqlDriverAdapter, SqlMigrationAwareDriverAdapterFactory } from '@prisma/driver-adapter-utils'
import type { Logger } from '@gpu-service/tasks'
import { type Migration, applyMigrations } from './schema-engine.ts'
import { StoreError } from './store-error.ts'

/**
 * Brings the database to the newest schema, all of it or nothing: the pending migrations and Prisma's own record of them are one
 * transaction. A database that is up to date costs one small query.
 *
 * Throws `StoreError` DATABASE_NEWER for a database with migrations that are not in the list, MIGRATION_FAILED where one of it has failed or
 * was edited, or the file holds tables of something else. It leaves a refused database as it was.
 */
export async function migrate(
  factory: SqlMigrationAwareDriverAdapterFactory,
  migrations: readonly Migration[],
  logger: Logger,
): Promise<void> {
  const connection = await factory.connect()
  try {
    if (pending(await recorded(connection), migrations).length === 0) return
    // A migration that rebuilds a table must not cascade. It has to be said before the transaction begins.
    await connection.executeScript('PRAGMA foreign_keys=OFF')
    await connection.executeScript('BEGIN IMMEDIATE')
    try {
      const applied = await applyMigrations(lending(factory, connection), migrations)
      const broken = await read(connection, 'PRAGMA foreign_key_check')
      if (broken.length > 0) throw new Error(`${broken.length} rows refer to rows that are gone`)
      await connection.executeScript('COMMIT')
      logger.info({ migrations: applied }, 'Migrated the database')
    } catch (error) {
      await connection.executeScript('ROLLBACK')
      const reason = error instanceof Error ? (error.message.split('\n', 1)[0] ?? '') : String(error)
      throw new StoreError(
        'MIGRATION_FAILED',
        `The database cannot be migrated, and is as it was: ${reason}`,
        {
          cause: error,
        },
      )
    }
  } finally {
    await connection.dispose()
  }
}

interface Recorded {
  readonly name: string
  readonly checksum: string
  readonly finished: boolean
}

/** What Prisma's table says has been applied; nothing where there is no such table yet. */
async function recorded(connection: SqlDriverAdapter): Promise<readonly Recorded[]> {
  const tables = await read(connection, "SELECT name FROM sqlite_master WHERE name = '_prisma_migrations'")
  if (tables.length === 0) return []
  const rows = await read(
    connection,
    'SELECT migration_name, checksum, finished_at IS NOT NULL FROM _prisma_migrations WHERE rolled_back_at IS NULL',
  )
  return rows.map(([name, checksum, finished]) => ({
    name: String(name),
    checksum: String(checksum),
    finished: Number(finished) === 1,
  }))
}

function pending(applied: readonly Recorded[], migrations: readonly Migration[]): readonly Migration[] {
  const byName = new Map(migrations.map((migration) => [migration.name, migration]))
  for (const { name, checksum, finished } of applied) {
    const migration = byName.get(name)
    if (migration === undefined) {
      throw new StoreError(
        'DATABASE_NEWER',
        `The database is of a newer version of this program: it has the migration ${name}, which this version does not know. Use the newer version, or a copy of the database from before.`,
      )
    }
    if (!finished) {
      throw new StoreError('MIGRATION_FAILED', `The migration ${name} has failed on this database before.`)
    }
    if (createHash('sha256').update(migration.sql).digest('hex') !== checksum) {
      throw new StoreError(
        'MIGRATION_FAILED',
        `The migration ${name} was edited after it had been applied to this database.`,
      )
    }
    byName.delete(name)
  }
  return [...byName.values()]
}

/** The factory, but with the one connection on which the transaction is open. */
function lending(
  factory: SqlMigrationAwareDriverAdapterFactory,
  connection: SqlDriverAdapter,
): SqlMigrationAwareDriverAdapterFactory {
  const lent: SqlDriverAdapter = {
    provider: connection.provider,
    adapterName: connection.adapterName,
    queryRaw: (query) => connection.queryRaw(query),
    executeRaw: (query) => connection.executeRaw(query),
    executeScript: (script) => connection.executeScript(script),
    startTransaction: (isolation) => connection.startTransaction(isolation),
    dispose: () => Promise.resolve(),
  }
  return {
    provider: factory.provider,
    adapterName: factory.adapterName,
    connect: () => Promise.resolve(lent),
    connectToShadowDb: () => factory.connectToShadowDb(),
  }
}

async function read(connection: SqlDriverAdapter, sql: string): Promise<readonly (readonly unknown[])[]> {
  return (await connection.queryRaw({ sql, args: [], argTypes: [] })).rows
}
