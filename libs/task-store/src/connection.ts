import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import type { SqlMigrationAwareDriverAdapterFactory } from '@prisma/driver-adapter-utils'
import Database from 'better-sqlite3'
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
  // What is deleted or replaced is overwritten: contents that must not be kept are not to be found in free pages.
  'PRAGMA secure_delete=ON',
  'PRAGMA wal_autocheckpoint=8192',
  'PRAGMA journal_size_limit=33554432',
]

/** Of the statements that a task's life takes there are fewer, in all the forms that they have for one and for a few tasks at once. */
const KEPT_STATEMENTS = 200

const READER_PRAGMAS = ['PRAGMA query_only=ON']

export function connectionFactory(file: string): SqlMigrationAwareDriverAdapterFactory {
  return new PrismaBetterSqlite3({ url: `file:${file}`, timeout: BUSY_TIMEOUT_MS })
}

/** SQL with a value for each of its parameters. */
type Statement = Pick<Prisma.Sql, 'sql' | 'values'>

/** What runs SQL. */
export interface Transaction {
  /** Gives the number of rows that the statement changed. */
  readonly execute: (statement: Statement) => Promise<number>
  /** Gives the rows of the statement, which are of the type that the caller says. */
  readonly query: <R extends object>(statement: Statement) => Promise<readonly R[]>
  /** Runs statements without parameters. */
  readonly script: (sql: string) => Promise<void>
}

/**
 * A connection for plain SQL. It goes to the driver itself, which keeps its statements prepared: through Prisma's driver adapter, where each
 * is prepared anew, one costs twice as much, and through the client ten times.
 */
export type Connection = Transaction & Disposable

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
  const writer = openConnection(file)
  const reader = new PrismaClient({ adapter: withPragmas(file, READER_PRAGMAS), errorFormat: 'minimal' })
  const connections: Connections = {
    writer,
    reader,
    async [Symbol.asyncDispose]() {
      await reader.$disconnect()
      // Last, so that it takes the write-ahead log with it.
      writer[Symbol.dispose]()
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

function openConnection(file: string): Connection {
  const database = new Database(file, { timeout: BUSY_TIMEOUT_MS })
  database.exec(WRITER_PRAGMAS.join(';'))
  /** Those that were used last are at the end. */
  const statements = new Map<string, Database.Statement<[values: unknown[]]>>()

  function prepared(sql: string): Database.Statement<[values: unknown[]]> {
    const statement = statements.get(sql) ?? database.prepare<[values: unknown[]]>(sql)
    statements.delete(sql)
    statements.set(sql, statement)
    const [oldest] = statements.keys()
    if (statements.size > KEPT_STATEMENTS && oldest !== undefined) statements.delete(oldest)
    return statement
  }

  return {
    execute: ({ sql, values }) => settled(() => prepared(sql).run(values).changes),
    query: <R extends object>({ sql, values }: Statement) => settled(() => prepared(sql).all(values) as R[]),
    script: (sql) => settled(() => void database.exec(sql)),
    [Symbol.dispose]() {
      database.close()
    },
  }
}

/** The driver does not wait, and throws at once. */
function settled<T>(work: () => T): Promise<T> {
  return new Promise((resolve) => {
    resolve(work())
  })
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
