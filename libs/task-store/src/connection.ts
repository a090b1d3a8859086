import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import type { ArgType, SqlMigrationAwareDriverAdapterFactory, SqlQuery } from '@prisma/driver-adapter-utils'
import { type Prisma, PrismaClient } from './generated/client.ts'

/** How long a statement may hold up the process while another program holds the database's lock: the driver waits without giving way. */
const BUSY_TIMEOUT_MS = 5

/**
 * WAL: readers and the writer do not wait for one another.
 *
 * NORMAL: what is committed is with the operating system, so a crash of this process, at any moment, loses nothing; only a power loss may
 * lose the last commits, never damage older ones. FULL would cost an fsync for each commit.
 *
 * The write-ahead log is emptied by the thread of `startCheckpoints`. 32 MB are far more than it leaves there, so that a commit does it
 * only when the thread cannot; a longer log is cut back after it.
 */
const WRITER_PRAGMAS = [
  'PRAGMA journal_mode=WAL',
  'PRAGMA synchronous=NORMAL',
  'PRAGMA foreign_keys=ON',
  'PRAGMA wal_autocheckpoint=8192',
  'PRAGMA journal_size_limit=33554432',
]

const READER_PRAGMAS = ['PRAGMA query_only=ON']

export function connectionFactory(file: string): SqlMigrationAwareDriverAdapterFactory {
  return new PrismaBetterSqlite3({ url: `file:${file}`, timeout: BUSY_TIMEOUT_MS })
}

/** What runs SQL. */
export interface Transaction {
  /** Gives the number of rows that the statement changed. */
  readonly execute: (statement: Prisma.Sql) => Promise<number>
  /** Gives the rows of the statement, which are of the type that the caller says. */
  readonly query: <R extends object>(statement: Prisma.Sql) => Promise<readonly R[]>
  /** Runs statements without parameters. */
  readonly script: (sql: string) => Promise<void>
}

/** A connection for plain SQL. It goes to Prisma's driver adapter directly: through the client a statement costs five times as much. */
export type Connection = Transaction & AsyncDisposable

/**
 * Two connections. On one alone a plain query would see what a transaction under way has not committed, since the driver adapter does
 * not keep them apart.
 */
export interface Connections extends AsyncDisposable {
  /** For the transactions of `createWriter` only. */
  readonly writer: Connection
  /** For queries. It refuses to write. */
  readonly reader: PrismaClient
}

export async function openConnections(file: string): Promise<Connections> {
  const writer = await openConnection(file)
  const reader = new PrismaClient({ adapter: withPragmas(file, READER_PRAGMAS), errorFormat: 'minimal' })
  const connections: Connections = {
    writer,
    reader,
    async [Symbol.asyncDispose]() {
      await reader.$disconnect()
      // Last, so that it takes the write-ahead log with it.
      await writer[Symbol.asyncDispose]()
    },
  }
  try {
    await reader.$connect()
  } catch (error) {
    await connections[Symbol.asyncDispose]()
    throw error
  }
  return connections
}

async function openConnection(file: string): Promise<Connection> {
  const adapter = await withPragmas(file, WRITER_PRAGMAS).connect()
  return {
    execute: (statement) => adapter.executeRaw(toQuery(statement)),
    async query<R extends object>(statement: Prisma.Sql) {
      const { columnNames, rows } = await adapter.queryRaw(toQuery(statement))
      return rows.map(
        (row) => Object.fromEntries(columnNames.map((name, column) => [name, row[column]])) as R,
      )
    },
    // The adapter throws at once instead of rejecting.
    async script(sql) {
      await adapter.executeScript(sql)
    },
    [Symbol.asyncDispose]: () => adapter.dispose(),
  }
}

// The values are what the driver takes as it is: texts, integers and null.
const ARGUMENT: ArgType = { scalarType: 'unknown', arity: 'scalar' }

function toQuery({ sql, values }: Prisma.Sql): SqlQuery {
  return { sql, args: values, argTypes: values.map(() => ARGUMENT) }
}

/** Prisma has no setting for pragmas, so each connection is given them as it is made. */
function withPragmas(file: string, pragmas: readonly string[]): SqlMigrationAwareDriverAdapterFactory {
  const factory = connectionFactory(file)
  return {
    provider: factory.provider,
    adapterName: factory.adapterName,
    async connect() {
      const connection = await factory.connect()
      await connection.executeScript(pragmas.join(';'))
      return connection
    },
    connectToShadowDb: () => factory.connectToShadowDb(),
  }
}
