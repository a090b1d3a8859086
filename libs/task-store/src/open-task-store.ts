import { randomInt } from 'node:crypto'
import { closeSync, existsSync, openSync, realpathSync, statSync } from 'node:fs'
import { resolve } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { KeyStore, Logger, TaskStore } from '@gpu-service/tasks'
import { createAppend } from './append.ts'
import { createAuditLog } from './audit-log.ts'
import { createAuditTrail } from './audit-trail.ts'
import { startCheckpoints } from './checkpoints.ts'
import { connectionFactory, openConnections, type Connections } from './connection.ts'
import { watchFile } from './database-file.ts'
import { lockDatabase } from './database-lock.ts'
import { createDurability, type Durability } from './durability.ts'
import { createEventLog } from './event-log.ts'
import { Prisma } from './generated/client.ts'
import { MIGRATIONS } from './generated/migrations.ts'
import { createKeys } from './keys.ts'
import { createLookup } from './lookup.ts'
import { migrate } from './migrations.ts'
import { createMoves } from './moves.ts'
import { createProbe } from './probe.ts'
import { createRemoval } from './removal.ts'
import { createScrub } from './scrub.ts'
import { fillSearch } from './search-fill.ts'
import { createSearch } from './search.ts'
import { insert } from './statements.ts'
import { StoreError, toStoreError } from './store-error.ts'
import { createUploads } from './uploads.ts'
import { createWriter, type Writer } from './writer.ts'

export interface TaskStoreOptions {
  /** `file:<path>`: an SQLite database, made where there is none. Its folder must be there. */
  readonly url: string
  readonly logger: Logger
}

/**
 * Opens the database, brings its schema up to date, and owns it until disposed: no other process may write to it meanwhile.
 *
 * Throws `StoreError` DATABASE_URL_INVALID, DATABASE_UNAVAILABLE, DATABASE_IN_USE, DATABASE_NEWER, MIGRATION_FAILED or another one of its
 * codes; the database is then as it was. The methods throw `StoreError` too, and `append` the port's `StaleWriteError`.
 */
export async function openTaskStore({ url, logger }: TaskStoreOptions): Promise<TaskStore & KeyStore> {
  const file = databaseFile(url)
  const lock = lockDatabase(file)
  try {
    const isThere = existsSync(file) && statSync(file).size > 0
    if (lock.isMarked && !isThere)
      throw new StoreError(
        'DATABASE_MISSING',
        `The database ${file} was there before and is gone. Put it back; or, to begin with an empty one, remove ${file}.lock too.`,
      )
    // SQLite gives the files that it keeps beside it the same mode.
    if (!existsSync(file)) closeSync(openSync(file, 'a', 0o600))
    await makeShrinkable(connectionFactory(file), file)
    await migrate(connectionFactory(file), MIGRATIONS, logger)
    const connections = await openConnections(file)
    try {
      await expectSound(file, connections)
      const writer = createWriter(connections.writer, createAuditTrail(), watchFile(file))
      const installation = await identify(connections, writer)
      await fillSearch(writer, logger)
      lock.mark()
      const durability = createDurability(file)
      return createStore(installation, file, connections, writer, durability, [
        startCheckpoints(file, logger),
        durability,
        connections,
        lock,
      ])
    } catch (error) {
      await connections[Symbol.asyncDispose]()
      throw error
    }
  } catch (error) {
    lock[Symbol.dispose]()
    throw toStoreError(error, `opening ${file}`)
  }
}

/** A database of no more bytes is looked through for damage before it is used: that takes a fraction of a second. */
const MAX_CHECKED_BYTES = 64 * 1024 * 1024

/** Throws `StoreError` DATABASE_CORRUPT where the database is small enough to be looked through, and damaged. */
async function expectSound(file: string, { writer }: Connections): Promise<void> {
  if (statSync(file).size > MAX_CHECKED_BYTES) return
  const [first] = await writer.query<{ quick_check: string }>(Prisma.sql`PRAGMA quick_check(1)`)
  if (first?.quick_check === 'ok') return
  const damage = first?.quick_check ?? 'it does not say how'
  throw new StoreError(
    'DATABASE_CORRUPT',
    `The database ${file} is damaged: ${damage}. Put a copy in its place, or save what there is with SQLite's .recover.`,
  )
}

/** `owned` is let go of in its order. */
function createStore(
  installation: string,
  file: string,
  { reader }: Connections,
  writer: Writer,
  durability: Durability,
  owned: readonly (Disposable | AsyncDisposable)[],
): TaskStore & KeyStore {
  const moves = createMoves(writer)
  const log = createEventLog(reader, writer)
  const search = createSearch(reader)
  const lookup = createLookup(reader)
  const removal = createRemoval(file, reader, writer)
  const uploads = createUploads(reader, writer)
  const scrub = createScrub(file, reader, writer)
  const keys = createKeys(reader, writer)
  const audit = createAuditLog(reader, writer)

  const underWay = new Set<Promise<unknown>>()
  let closing: Promise<void> | null = null

  /** The method with the store's errors, and only while it is open: Prisma would connect anew, without the lock. */
  function guarded<A extends unknown[], R>(
    doing: string,
    method: (...args: A) => Promise<R>,
  ): (...args: A) => Promise<R> {
    return async (...args) => {
      if (closing !== null) throw new StoreError('CLOSED', 'The task store is closed.')
      const result = method(...args)
      underWay.add(result)
      try {
        return await result
      } catch (error) {
        throw toStoreError(error, doing)
      } finally {
        underWay.delete(result)
      }
    }
  }

  async function close(): Promise<void> {
    await Promise.allSettled(underWay)
    for (const resource of owned) {
      if (Symbol.asyncDispose in resource) await resource[Symbol.asyncDispose]()
      else resource[Symbol.dispose]()
    }
  }

  /** Reads too give everyone else a turn first, or a caller that reads in a loop would never let go: the driver does not wait. */
  function read<A extends unknown[], R>(
    doing: string,
    method: (...args: A) => Promise<R>,
  ): (...args: A) => Promise<R> {
    return guarded(doing, async (...args) => {
      await nextTurn()
      return method(...args)
    })
  }

  return {
    kind: 'sqlite',
    installation,
    health: createProbe(writer),
    sync: guarded('making it durable', () => durability.sync()),
    create: guarded('storing tasks', moves.create),
    claim: guarded('claiming tasks', moves.claim),
    createWorker: guarded('storing a worker', moves.createWorker),
    endQueued: guarded('ending a task', moves.endQueued),
    requestCancel: guarded('storing a cancel', moves.requestCancel),
    recordStop: guarded('storing a stop', moves.recordStop),
    recordRelease: guarded('storing the release of a worker', moves.recordRelease),
    append: guarded('storing what a worker said', createAppend(writer)),
    updateWorker: guarded('storing a worker', moves.updateWorker),
    compact: guarded('compacting events', log.compact),
    endedTasks: read('reading tasks', removal.endedTasks),
    lastEnded: read('reading tasks', removal.lastEnded),
    beginRemoval: guarded('removing tasks', removal.beginRemoval),
    removals: read('reading tasks', removal.removals),
    continueRemoval: guarded('removing tasks', removal.continueRemoval),
    removeWorkers: guarded('removing workers', removal.removeWorkers),
    knownArtifacts: read('reading artifacts', removal.knownArtifacts),
    usage: read('reading sizes', removal.usage),
    uploadIds: read('reading uploads', uploads.uploadIds),
    expiredUploads: read('reading uploads', uploads.expiredUploads),
    removeUploads: guarded('removing uploads', uploads.removeUploads),
    unscrubbed: read('reading tasks', scrub.unscrubbed),
    scrub: guarded('removing contents', scrub.scrub),
    giveSpaceBack: guarded('giving space back', removal.giveSpaceBack),
    recordAudit: guarded('writing the audit log', audit.recordAudit),
    auditLog: read('reading the audit log', audit.auditLog),
    verifyAudit: read('reading the audit log', audit.verifyAudit),
    removeAudit: guarded('removing from the audit log', removal.removeAudit),
    task: read('reading a task', lookup.task),
    tasksById: read('reading tasks', search.tasksById),
    submitted: read('reading a task', lookup.submitted),
    activeTasks: read('reading tasks', lookup.activeTasks),
    tasks: read('listing tasks', search.tasks),
    countTasks: read('counting tasks', search.countTasks),
    matching: read('listing tasks', search.matching),
    events: read('reading events', log.events),
    output: read('reading an output', log.output),
    artifacts: read('reading artifacts', lookup.artifacts),
    artifact: read('reading an artifact', lookup.artifact),
    leftBefore: read('reading artifacts', lookup.leftBefore),
    addUpload: guarded('storing an upload', uploads.addUpload),
    uploads: read('reading uploads', uploads.uploads),
    unusedUploadBytes: read('reading uploads', uploads.unusedUploadBytes),
    attempts: read('reading attempts', lookup.attempts),
    liveWorkers: read('reading workers', lookup.liveWorkers),
    worker: read('reading a worker', lookup.worker),
    workerLog: read("reading a worker's log", lookup.workerLog),
    history: read('reading what was measured', lookup.history),
    charges: read('reading what keys have used', lookup.charges),
    drains: read('reading drains', lookup.drains),
    setDrain: guarded('storing a drain', moves.setDrain),
    keys: read('reading API keys', keys.keys),
    addKey: guarded('storing an API key', keys.addKey),
    revokeKey: guarded('revoking an API key', keys.revokeKey),
    setKeyLimits: guarded("storing an API key's limits", keys.setKeyLimits),
    noteKeyUses: guarded('storing the use of API keys', keys.noteKeyUses),
    secret: guarded('making a secret', keys.secret),
    [Symbol.asyncDispose]() {
      closing ??= close()
      return closing
    },
  }
}

/** A database gives space back only where that was said before its first table; one that is there already only uses it again. */
async function makeShrinkable(factory: ReturnType<typeof connectionFactory>, file: string): Promise<void> {
  if (statSync(file).size > 0) return
  const connection = await factory.connect()
  try {
    await connection.executeScript('PRAGMA auto_vacuum=INCREMENTAL; VACUUM')
  } finally {
    await connection.dispose()
  }
}

/** The installation's name, made the first time. */
async function identify({ reader }: Connections, writer: Writer): Promise<string> {
  const row = await reader.installation.findFirst()
  if (row !== null) return row.name
  const name = Array.from({ length: 8 }, () => randomInt(36).toString(36)).join('')
  await writer.change((transaction) => insert(transaction, 'Installation', [{ name, createdAt: Date.now() }]))
  return name
}

/** The path that the URL means, with links followed, so that two names of one database have one lock. */
function databaseFile(url: string): string {
  const invalid = (why: string) =>
    new StoreError(
      'DATABASE_URL_INVALID',
      `The database URL ${JSON.stringify(redacted(url))} cannot be used: ${why}`,
    )
  if (/^postgres(ql)?:/.test(url)) throw invalid('PostgreSQL is not supported yet. Use file:<path>.')
  const [, path] = /^file:(.+)$/.exec(url) ?? []
  if (path === undefined) throw invalid('it is not of the form file:<path>.')
  if (path.includes(':memory:')) throw invalid('what is kept in memory only would be lost.')
  if (path.includes('?')) throw invalid('parameters are not supported.')
  const file = path.startsWith('//') ? fileURLToPath(url) : resolve(path)
  return existsSync(file) ? realpathSync(file) : file
}

/** Without the password that a URL may hold. */
function redacted(url: string): string {
  return url.replace(/\/\/[^@/]*@/, '//***@')
}
