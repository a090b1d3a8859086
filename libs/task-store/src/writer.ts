import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { type Prisma, type PrismaClient } from './generated/client.ts'
import { isBusy } from './store-error.ts'

/** How long a write waits for another program to give the database's lock back. */
const BUSY_LIMIT_MS = 5_000

/** Runs a statement in the transaction under way and gives the number of rows that it changed. */
export type Execute = (statement: Prisma.Sql) => Promise<number>

/** Runs transactions one after the other, in the order of the calls. */
export interface Writer {
  /** Commits when `work` resolves, rolls back when it rejects. `work` must await nothing but the database. */
  transaction<T>(work: (execute: Execute, client: PrismaClient) => Promise<T>): Promise<T>
}

/**
 * The transactions are begun and ended here rather than by Prisma's `$transaction`: that costs half as much again, ends a transaction that takes
 * longer than a timer allows, and its driver adapter never lets go of its lock after a BEGIN that failed.
 */
export function createWriter(client: PrismaClient): Writer {
  let last: Promise<unknown> = Promise.resolve()

  const execute: Execute = (statement) => client.$executeRaw(statement)

  async function begin(): Promise<void> {
    const start = performance.now()
    for (let waitMs = 10; ; waitMs = Math.min(waitMs * 2, 200)) {
      try {
        // IMMEDIATE: a transaction that turns from reading to writing halfway can fail in its middle.
        await client.$executeRawUnsafe('BEGIN IMMEDIATE')
        return
      } catch (error) {
        if (!isBusy(error) || performance.now() - start > BUSY_LIMIT_MS) throw error
        await sleep(waitMs)
      }
    }
  }

  async function run<T>(work: (execute: Execute, client: PrismaClient) => Promise<T>): Promise<T> {
    // Everything below happens within one turn of the event loop, since the driver never waits: without this a queue of transactions
    // would keep everyone else out.
    await nextTurn()
    await begin()
    try {
      const result = await work(execute, client)
      await client.$executeRawUnsafe('COMMIT')
      return result
    } catch (error) {
      // SQLite has rolled back by itself after some failures, and then refuses this.
      await client.$executeRawUnsafe('ROLLBACK').catch(() => undefined)
      throw error
    }
  }

  return {
    transaction(work) {
      const result = last.then(() => run(work))
      last = result.catch(() => undefined)
      return result
    },
  }
}
