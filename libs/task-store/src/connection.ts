import { PrismaBetterSqlite3 } from '@prisma/adapter-better-sqlite3'
import type { SqlMigrationAwareDriverAdapterFactory } from '@prisma/driver-adapter-utils'
import { PrismaClient } from './generated/client.ts'

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

/**
 * Two clients, each with one connection. On one alone a plain query would see what a transaction under way has not committed, since the
 * driver adapter does not keep them apart.
 */
export interface Clients extends AsyncDisposable {
  /** For the transactions of `createWriter` only, and there for SQL and queries: a write of the model API opens a transaction of its own. */
  readonly writer: PrismaClient
  /** For queries. It refuses to write. */
  readonly reader: PrismaClient
}

export async function openClients(file: string): Promise<Clients> {
  const writer = new PrismaClient({ adapter: withPragmas(file, WRITER_PRAGMAS), errorFormat: 'minimal' })
  const reader = new PrismaClient({ adapter: withPragmas(file, READER_PRAGMAS), errorFormat: 'minimal' })
  const clients: Clients = {
    writer,
    reader,
    async [Symbol.asyncDispose]() {
      await reader.$disconnect()
      // Last, so that it takes the write-ahead log with it.
      await writer.$disconnect()
    },
  }
  try {
    await writer.$connect()
    await reader.$connect()
  } catch (error) {
    await clients[Symbol.asyncDispose]()
    throw error
  }
  return clients
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
