import type { ArtifactFiles } from '../artifact-files.ts'
import { type Actor, SERVICE } from '../audit.ts'
import { delay, type Clock } from '../clock.ts'
import type { ArtifactId, TaskId } from '../ids.ts'
import type { Logger } from '../logger.ts'
import type { ForgettingStore, TaskRemoval, TaskStore } from '../store.ts'
import { ClockTrust, STEADY_MS } from './clock-trust.ts'

/** What is kept of tasks that have ended, and of the audit log; `null`: there is no such limit. */
export interface RetentionLimits {
  /** How long, from a task's end, in milliseconds. */
  readonly maxAgeMs: number | null
  /** Of all artifacts' files together. */
  readonly maxArtifactBytes: number | null
  /** Of what is stored in the database. */
  readonly maxDatabaseBytes: number | null
  /** How long entries of the audit log are kept, in milliseconds. */
  readonly maxAuditAgeMs: number | null
}

/** What ended so lately is not removed for any limit: somebody may be reading its end. */
const SPARED_MS = 10 * 60_000
/** Tasks that are removed at a time. */
const BATCH = 50
/** A crash cuts off the compaction of those that had just ended, which are among so many. */
const TO_COMPACT = 200
/** Uploads that are looked at at a time. */
const UPLOADS = 500
/** Each removal from the audit log is an entry of it: there must not be one in every round. */
const AUDIT_EVERY_MS = 3_600_000

export interface RetentionOptions {
  readonly store: ForgettingStore & Pick<TaskStore, 'compact'>
  readonly artifactFiles: Pick<ArtifactFiles, 'remove' | 'removeStrays' | 'missing'>
  readonly retention: RetentionLimits
  /** Between two looks for what need not be kept, in milliseconds. */
  readonly housekeepingMs: number
  readonly clock: Clock
  readonly logger: Logger
  /** Aborted when the service stops: what is under way then goes on after the next start. */
  readonly signal: AbortSignal
  readonly scrubAfterMs: number
  /** The task is there no more, or without its contents. */
  readonly changed: (id: TaskId) => void
}

/**
 * Removes ended tasks with all that belongs to them, rows and files: those that a client names, those that were kept long enough, and the
 * oldest ones where a limit of size is exceeded. A removal is begun in one transaction, from which on the task is there for nobody, and then
 * carried out in small steps; one that a crash cuts off is gone on with by the next process.
 */
export class Retention {
  readonly #options: RetentionOptions
  #trust: ClockTrust | null = null
  #isTold = false
  #removed = 0
  #lastRoundAt: number | null = null
  /** Of the monotonic clock. */
  #auditDueAt = 0

  constructor(options: RetentionOptions) {
    this.#options = options
  }

  /** How many tasks have been removed since the start of the service. */
  get removed(): number {
    return this.#removed
  }

  /** When the last round was over. */
  get lastRoundAt(): number | null {
    return this.#lastRoundAt
  }

  /** Removes those of the tasks that have ended; tells how many these were when all of them is gone. */
  async remove(ids: readonly TaskId[], by: Actor, reason: string | null): Promise<number> {
    const { store, changed } = this.#options
    const begun = await store.beginRemoval(ids, by, reason)
    this.#removed += begun.length
    for (const { id } of begun) changed(id)
    await this.#carryOut(begun)
    return begun.length
  }

  /** Looks again and again for what need not be kept, until the service stops. */
  async run(): Promise<void> {
    const { clock, logger, housekeepingMs, signal } = this.#options
    while (!signal.aborted) {
      await this.#round().catch((error: unknown) => {
        logger.error({ err: error }, 'What need not be kept could not be removed; trying again.')
      })
      await delay(clock, housekeepingMs, signal)
    }
  }

  async #round(): Promise<void> {
    const { clock } = this.#options
    if (this.#trust === null) {
      this.#trust = await this.#openTrust()
      await this.#makeUp()
    }
    await this.#goOn()
    await this.#scrub()
    if (this.#trust.isBelieved()) {
      await this.#removeExpired()
      await this.#removeOld()
      await this.#removeExcess()
      await this.#removeAudit()
    }
    await this.#repeat(async () => !(await this.#options.store.giveSpaceBack()))
    this.#lastRoundAt = clock.now()
  }

  /** Whatever the clock says: too early harms less than too late. */
  async #scrub(): Promise<void> {
    const { store, clock, scrubAfterMs, changed } = this.#options
    const before = clock.now() - scrubAfterMs
    await this.#repeat(async () => {
      const due = await store.unscrubbed({ before, limit: BATCH })
      for (const { id, artifacts } of due) {
        // Files first, since the rows are what tells of them.
        await this.#removeFiles(artifacts)
        await this.#removeFiles(await store.scrub(id, clock.now()))
        changed(id)
      }
      return due.length < BATCH
    })
  }

  /** What an earlier process did not come to. None of it is needed by what follows. */
  async #makeUp(): Promise<void> {
    const { store, artifactFiles, logger, signal } = this.#options
    try {
      const strays = await artifactFiles.removeStrays((ids) => store.knownArtifacts(ids), signal)
      if (strays > 0) logger.info({ files: strays }, 'Removed files of artifacts that no task has.')
    } catch (error) {
      logger.error({ err: error }, 'Files of artifacts that no task has could not be removed.')
    }
    await this.#removeLost().catch((error: unknown) => {
      logger.error({ err: error }, 'Uploads without a file could not be looked for.')
    })
    for (const { id } of await store.lastEnded({ before: Number.MAX_SAFE_INTEGER, limit: TO_COMPACT })) {
      if (signal.aborted) return
      await store.compact(id).catch((error: unknown) => {
        logger.error({ err: error, taskId: id }, 'The events of a task could not be compacted.')
      })
    }
  }

  /** Uploads whose file is gone are of no use to anybody; those that a task has are kept with it, to tell of them. */
  async #removeLost(): Promise<void> {
    const { store, artifactFiles, logger } = this.#options
    let after: ArtifactId | null = null
    let count = 0
    await this.#repeat(async () => {
      const ids: readonly ArtifactId[] = await store.uploadIds(after, UPLOADS)
      const lost = await artifactFiles.missing(ids)
      count += lost.length
      if (lost.length > 0) await store.removeUploads(lost, 'Its file was gone.')
      after = ids.at(-1) ?? null
      return ids.length < UPLOADS
    })
    if (count > 0) logger.warn({ uploads: count }, 'The files of some uploads are gone.')
  }

  /** Uploads that no task was given in time. */
  async #removeExpired(): Promise<void> {
    const { store, clock } = this.#options
    const before = clock.now()
    await this.#repeat(async () => {
      const expired = await store.expiredUploads(before, BATCH)
      await this.#removeFiles(await store.removeUploads(expired, 'No task was given it in time.'))
      return expired.length < BATCH
    })
  }

  async #openTrust(): Promise<ClockTrust> {
    const { store, clock, logger } = this.#options
    // What ended since the clock jumped says nothing.
    const [latest] = await store.lastEnded({ before: clock.now() - STEADY_MS, limit: 1 })
    return new ClockTrust(clock, logger, latest?.finishedAt ?? null)
  }

  async #removeOld(): Promise<void> {
    const { store, clock, retention, logger, signal } = this.#options
    if (retention.maxAgeMs === null) return
    const before = clock.now() - Math.max(retention.maxAgeMs, SPARED_MS)
    let count = 0
    await this.#repeat(async () => {
      const old = await store.endedTasks({ before, limit: BATCH, withArtifacts: false })
      count += await this.remove(
        old.map(({ id }) => id),
        SERVICE,
        'It was kept long enough.',
      )
      return old.length < BATCH
    })
    await this.#repeat(() => store.removeWorkers(before))
    if (count > 0 && !signal.aborted)
      logger.info({ tasks: count }, 'Removed tasks that were kept long enough.')
  }

  async #removeExcess(): Promise<void> {
    const { store, clock, logger } = this.#options
    const before = clock.now() - SPARED_MS
    let count = 0
    let upTo = 0
    await this.#repeat(async () => {
      const excess = await this.#excess()
      if (excess === null) {
        this.#isTold = false
        return true
      }
      const oldest = await store.endedTasks({ before, limit: BATCH, withArtifacts: excess === 'artifacts' })
      const [first] = oldest
      if (first === undefined) {
        if (!this.#isTold)
          logger.warn({ limit: excess }, 'A limit of size is exceeded by what may not be removed.')
        this.#isTold = true
        return true
      }
      count += await this.remove(
        oldest.map(({ id }) => id),
        SERVICE,
        'There is no room for more.',
      )
      if (excess === 'database') upTo = Math.max(upTo, ...oldest.map(({ finishedAt }) => finishedAt))
      return false
    })
    if (upTo > 0) await this.#repeat(() => store.removeWorkers(upTo))
    if (count > 0)
      logger.info({ tasks: count }, 'Removed the oldest tasks, because there is no room for more.')
  }

  async #removeAudit(): Promise<void> {
    const { store, clock, retention } = this.#options
    const { maxAuditAgeMs } = retention
    if (maxAuditAgeMs === null || clock.monotonic() < this.#auditDueAt) return
    this.#auditDueAt = clock.monotonic() + AUDIT_EVERY_MS
    const before = clock.now() - maxAuditAgeMs
    await this.#repeat(() => store.removeAudit(before))
  }

  /** Which limit is exceeded. */
  async #excess(): Promise<'artifacts' | 'database' | null> {
    const { store, retention } = this.#options
    const { maxArtifactBytes, maxDatabaseBytes } = retention
    const { artifactBytes, databaseBytes } = await store.usage()
    if (maxDatabaseBytes !== null && databaseBytes > maxDatabaseBytes) return 'database'
    return maxArtifactBytes !== null && artifactBytes > maxArtifactBytes ? 'artifacts' : null
  }

  /** Removals that an earlier process has begun, or that failed. */
  async #goOn(): Promise<void> {
    await this.#repeat(async () => {
      const removals = await this.#options.store.removals(BATCH)
      await this.#carryOut(removals)
      return removals.length < BATCH
    })
  }

  /** Files first, since the rows are what tells of them. */
  async #carryOut(removals: readonly TaskRemoval[]): Promise<void> {
    const { store } = this.#options
    await this.#removeFiles(removals.flatMap(({ artifacts }) => artifacts))
    let left = removals.map(({ id }) => id)
    await this.#repeat(async () => {
      if (left.length > 0) left = left.slice(await store.continueRemoval(left))
      return left.length === 0
    })
  }

  async #removeFiles(ids: readonly ArtifactId[]): Promise<void> {
    const { artifactFiles, logger } = this.#options
    for (const id of ids) {
      await artifactFiles.remove(id).catch((error: unknown) => {
        // The next start finds it as a file that no task has.
        logger.error({ err: error, artifactId: id }, 'The file of an artifact could not be removed.')
      })
    }
  }

  /** Repeats a step until it tells that nothing is left to do, or the service stops. */
  async #repeat(isDone: () => Promise<boolean>): Promise<void> {
    while (!this.#options.signal.aborted) if (await isDone()) return
  }
}
