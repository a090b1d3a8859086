import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import type { NewAuditEntry, TaskId } from '@gpu-service/tasks'
import type { AuditTrail } from './audit-trail.ts'
import type { Connection, Transaction } from './connection.ts'
import { Prisma } from './generated/client.ts'
import { indexTasks } from './search-index.ts'
import { isBusy, isOutage } from './store-error.ts'

/** How long a write waits for another program to give the database's lock back. */
const BUSY_LIMIT_MS = 5_000

/** When a transaction has taken so long, what still waits is left to the next one: nothing else runs in the process meanwhile. */
const MAX_TRANSACTION_MS = 10

/** After so many transactions the write-ahead log is looked at. */
const LOOK_EVERY = 4
/** A log of so many pages of 4 KiB is emptied before anything else is written. */
const MAX_LOG_PAGES = 10_000
const LOG_WAIT_MS = 20
/** A reader that never lets go must not stop all writing. */
const LOG_LIMIT_MS = 2_000

/** What a change is made with. */
export interface Change extends Transaction {
  /** Adds an entry to the audit log: written with the change, or not at all. */
  readonly record: (entry: NewAuditEntry) => void
  /** Brings what lists find of the task up to date with the change, which has created, ended or removed it or changed its contents. */
  readonly index: (id: TaskId) => void
}

/** Makes changes one after the other, in the order of the calls. */
export interface Writer {
  /**
   * Makes the change in a transaction, together with others that wait: what one costs is mostly its beginning and its end. Resolves when it
   * is committed; where `change` rejects, nothing of it is written and nothing else is harmed. `change` must await nothing but the
   * database, and do nothing but in the database: it runs anew where another one of its transaction has failed.
   */
  change<T>(change: (transaction: Change) => Promise<T>): Promise<T>
}

interface Waiting {
  /** Makes the change; gives what tells the caller that it is committed. */
  readonly make: (transaction: Change) => Promise<() => void>
  readonly reject: (error: unknown) => void
}

/**
 * `checkFile` throws where the database must not be written.
 *
 * The transactions are begun and ended here rather than by the driver adapter, which never lets go of its lock after a BEGIN that failed.
 */
export function createWriter(connection: Connection, trail: AuditTrail, checkFile: () => void): Writer {
  const waiting: Waiting[] = []
  let draining = false
  let sinceLook = 0

  /**
   * The thread of `startCheckpoints` keeps the log short. Where it gets no turn, or writes come faster than it can follow, they wait for it
   * here: by itself SQLite lets the log of a writer that never pauses grow without end.
   */
  async function holdBack(): Promise<void> {
    if (++sinceLook < LOOK_EVERY) return
    sinceLook = 0
    if ((await checkpoint('NOOP')) <= MAX_LOG_PAGES) return
    const start = performance.now()
    while ((await checkpoint('RESTART')) > 0 && performance.now() - start < LOG_LIMIT_MS)
      await sleep(LOG_WAIT_MS)
  }

  /** Gives the pages that are left in the log: for NOOP all that it has, else those that could not be moved. */
  async function checkpoint(mode: 'NOOP' | 'RESTART'): Promise<number> {
    const [row] = await connection.query<{ busy: number; log: number; checkpointed: number }>(
      mode === 'NOOP' ? Prisma.sql`PRAGMA wal_checkpoint(NOOP)` : Prisma.sql`PRAGMA wal_checkpoint(RESTART)`,
    )
    if (row === undefined) return 0
    if (mode === 'NOOP') return row.log
    return row.busy === 0 ? 0 : Math.max(1, row.log - row.checkpointed)
  }

  async function begin(): Promise<void> {
    const start = performance.now()
    for (let waitMs = 10; ; waitMs = Math.min(waitMs * 2, 200)) {
      try {
        // IMMEDIATE: a transaction that turns from reading to writing halfway can fail in its middle.
        await connection.script('BEGIN IMMEDIATE')
        return
      } catch (error) {
        if (!isBusy(error) || performance.now() - start > BUSY_LIMIT_MS) throw error
        await sleep(waitMs)
      }
    }
  }

  /** Makes the changes that `next` gives in one transaction. Throws, with nothing written, the failure of the first that fails. */
  async function transaction(next: () => Waiting | undefined): Promise<void> {
    checkFile()
    await begin()
    const committed: (() => void)[] = []
    const entries: NewAuditEntry[] = []
    const indexed = new Set<TaskId>()
    const transaction: Change = {
      ...connection,
      record: (entry) => entries.push(entry),
      index: (id) => indexed.add(id),
    }
    try {
      for (let change = next(); change !== undefined; change = next())
        committed.push(await change.make(transaction))
      if (indexed.size > 0) await indexTasks(connection, indexed)
      await trail.write(connection, entries)
      await connection.script('COMMIT')
      trail.settled(true)
    } catch (error) {
      trail.settled(false)
      // SQLite has rolled back by itself after some failures, and then refuses this.
      await connection.script('ROLLBACK').catch(() => undefined)
      throw error
    }
    for (const tell of committed) tell()
  }

  async function drain(): Promise<void> {
    if (draining) return
    draining = true
    while (waiting.length > 0) {
      // A transaction happens within one turn of the event loop, since the driver never waits: without this a queue of them would keep
      // everyone else out.
      await nextTurn()
      const taken: Waiting[] = []
      let start = 0
      try {
        // What is wrong with the database is told by the transaction itself.
        await holdBack().catch(() => undefined)
        await transaction(() => {
          if (taken.length === 0) start = performance.now()
          else if (performance.now() - start > MAX_TRANSACTION_MS) return undefined
          const change = waiting.shift()
          if (change !== undefined) taken.push(change)
          return change
        })
      } catch (error) {
        // None taken: the transaction could not begin.
        const failed = taken.length === 0 ? waiting.splice(0) : taken
        if (failed.length > 1 && !isOutage(error)) await oneByOne(failed)
        else for (const { reject } of failed) reject(error)
      }
    }
    draining = false
  }

  /** So that only those that fail by themselves do. */
  async function oneByOne(changes: readonly Waiting[]): Promise<void> {
    for (const change of changes) {
      await nextTurn()
      try {
        const next = [change].values()
        await transaction(() => next.next().value)
      } catch (error) {
        change.reject(error)
      }
    }
  }

  return {
    change: (change) =>
      new Promise((resolve, reject) => {
        waiting.push({
          reject,
          async make(transaction) {
            const result = await change(transaction)
            return () => {
              resolve(result)
            }
          },
        })
        void drain()
      }),
  }
}
