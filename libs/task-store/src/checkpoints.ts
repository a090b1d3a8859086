import { once } from 'node:events'
import { createRequire } from 'node:module'
import { Worker } from 'node:worker_threads'
import Database from 'better-sqlite3'
import type { Logger } from '@gpu-service/tasks'

/** How often the write-ahead log is looked at. */
const INTERVAL_MS = 250
/** From so many pages of 4 KiB on that are in the log only, they are put into the database. */
const CHECKPOINT_PAGES = 1_000
/** A log of so many pages is emptied, while writers wait: the one that never pauses would let it grow. */
const MAX_PAGES = 4_000

/** How long it may hold up the process. */
const TRUNCATE_TIMEOUT_MS = 20

// Plain JavaScript in a text, so that it needs no file of its own: the program may be one bundle.
const THREAD = `
  const { parentPort, workerData } = require('node:worker_threads')
  const Database = require(workerData.driver)
  const database = new Database(workerData.file, { timeout: 100 })
  const checkpoint = (mode) => database.pragma('wal_checkpoint(' + mode + ')')[0]
  function look() {
    const { log, checkpointed } = checkpoint('NOOP')
    if (log - checkpointed < workerData.checkpointPages) return
    checkpoint('PASSIVE')
    if (log >= workerData.maxPages) checkpoint('RESTART')
  }
  const timer = setInterval(() => {
    // A disk that is full or fails is told by the writers. Here the next time may be better.
    try { look() } catch {}
  }, workerData.intervalMs)
  parentPort.once('message', () => {
    clearInterval(timer)
    database.close()
    parentPort.close()
  })
`

/** Empties the write-ahead log down to no byte. Whether it did: a reader that is at work keeps its part. */
export function truncateLog(file: string): boolean {
  const database = new Database(file, { timeout: TRUNCATE_TIMEOUT_MS })
  try {
    const [row] = database.pragma('wal_checkpoint(TRUNCATE)') as { readonly busy: number }[]
    return row?.busy === 0
  } finally {
    database.close()
  }
}

/**
 * Moves the write-ahead log into the database from a thread of its own. SQLite would do it within a commit, where waiting for the disk,
 * often for tens of milliseconds, holds up the whole process. Should the thread end, it is SQLite that does it, from a longer log on.
 */
export function startCheckpoints(file: string, logger: Logger): AsyncDisposable {
  const driver = createRequire(import.meta.url).resolve('better-sqlite3')
  const thread = new Worker(THREAD, {
    eval: true,
    workerData: {
      driver,
      file,
      intervalMs: INTERVAL_MS,
      checkpointPages: CHECKPOINT_PAGES,
      maxPages: MAX_PAGES,
    },
  })
  thread.unref()
  const ended = once(thread, 'exit').catch((error: unknown) => {
    logger.warn(
      { error, file },
      'The checkpoint thread has ended; checkpoints hold up the service from now on',
    )
  })
  return {
    async [Symbol.asyncDispose]() {
      thread.ref()
      thread.postMessage('close')
      await ended
    },
  }
}
