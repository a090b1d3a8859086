import type { Clock } from '../clock.ts'
import { isAway } from '../dispatch/reachability.ts'
import type { WorkerId, WorkerName } from '../ids.ts'
import type { Logger } from '../logger.ts'
import type { WorkerRunner, WorkerState } from '../runner.ts'
import type { TaskStore } from '../store.ts'
import type { Worker } from '../worker.ts'
import type { WorkerLife } from '../workers/worker-life.ts'

/**
 * A worker that nobody follows is removed when it is seen so for the third time: two rounds after the first. Rounds are counted rather than
 * time, so that neither a clock that jumps nor a process that was held up makes it shorter.
 */
const SIGHTINGS = 3

export interface LeftoversOptions {
  readonly runner: Pick<WorkerRunner, 'list' | 'remove' | 'removeRuns'>
  readonly store: Pick<TaskStore, 'installation' | 'liveWorkers' | 'worker' | 'updateWorker'>
  readonly clock: Clock
  readonly logger: Logger
  /** The workers that are followed. */
  readonly lives: () => readonly WorkerLife[]
  /** Whether somebody is removing it already. */
  readonly isBeingRemoved: (name: WorkerName) => boolean
}

interface Orphan {
  readonly name: WorkerName
  /** `null`: the runner knows nothing of it. */
  readonly state: WorkerState | null
  /** `null`: there is none. */
  readonly row: Worker | null
}

/**
 * Removes the workers of this installation that nobody needs, in whatever phase they are, and settles rows of workers that are gone: what a
 * process left that died between two steps, and what somebody has made by hand under our label. Workers of others are not even listed.
 */
export class Leftovers {
  readonly #options: LeftoversOptions
  #sightings = new Map<WorkerName, number>()
  #removed = 0

  constructor(options: LeftoversOptions) {
    this.#options = options
  }

  /** How many workers have been removed since the start of the service. */
  get removed(): number {
    return this.#removed
  }

  /**
   * Looks once at what is there. One that cannot be removed does not keep the others; the next round tries it again.
   * @param ended Workers that need not be seen again: their task is settled, and nobody followed them since the start of the service.
   * @throws RunnerError ENGINE_UNAVAILABLE where the runner's neighbour is away, and what the store throws.
   */
  async round(ended: ReadonlySet<WorkerId> = new Set()): Promise<void> {
    const sightings = new Map<WorkerName, number>()
    for (const orphan of await this.#orphans()) {
      const { name, row } = orphan
      const seen = (this.#sightings.get(name) ?? 0) + 1
      const isCertain = row !== null && (row.status === 'EXITED' || ended.has(row.id))
      const isGone = (isCertain || seen >= SIGHTINGS) && (await this.#remove(orphan))
      if (!isGone) sightings.set(name, seen)
    }
    this.#sightings = sightings
    await this.#removeRuns()
  }

  /** Those that no life follows and no task is under way on. */
  async #orphans(): Promise<readonly Orphan[]> {
    const { runner, store } = this.#options
    const listed = await runner.list()
    const rows = new Map((await store.liveWorkers()).map((row) => [row.name, row]))
    const orphans: Orphan[] = []
    for (const { name, state } of listed) {
      if (this.#isFollowed(name)) continue
      const row = rows.get(name) ?? (await store.worker(this.#idOf(name)))
      rows.delete(name)
      orphans.push({ name, state, row })
    }
    for (const [name, row] of rows) if (!this.#isFollowed(name)) orphans.push({ name, state: null, row })
    return orphans.filter(({ row }) => row === null || row.taskIds.length === 0)
  }

  #isFollowed(name: WorkerName): boolean {
    const { lives, isBeingRemoved } = this.#options
    return isBeingRemoved(name) || lives().some(({ worker }) => worker.name === name)
  }

  /** A name holds the id. Of one that was not given by us this finds nothing, as it should. */
  #idOf(name: WorkerName): WorkerId {
    return name.slice(`gpu-${this.#options.store.installation}-`.length) as WorkerId
  }

  /** Whether it is gone. */
  async #remove({ name, state, row }: Orphan): Promise<boolean> {
    const { runner, store, clock, logger } = this.#options
    if (this.#isFollowed(name)) return false
    try {
      if (state !== null) {
        logger.info({ worker: name, phase: state.phase }, 'Removing a worker that nobody needs.')
        await runner.remove(name)
        this.#removed++
      }
      if (row !== null && row.status !== 'EXITED') {
        const exit = state?.phase === 'exited' ? { exit: state.exit } : {}
        const endReason = row.endReason ?? 'Nobody needed it any more.'
        await store.updateWorker(row.id, { status: 'EXITED', exitedAt: clock.now(), endReason, ...exit })
      }
      return true
    } catch (error) {
      if (isAway(error)) throw error
      logger.error({ err: error, worker: name }, 'A worker that nobody needs could not be removed.')
      return false
    }
  }

  /** A session worker has a folder for each run, which is of no use once the run has ended. */
  async #removeRuns(): Promise<void> {
    const { runner, lives, logger } = this.#options
    for (const life of lives()) {
      if (life.worker.mode !== 'SESSION') continue
      try {
        await runner.removeRuns(life.worker.name, (runId) => life.runs.some(({ id }) => id === runId))
      } catch (error) {
        if (isAway(error)) throw error
        logger.error(
          { err: error, worker: life.worker.name },
          'The files of ended runs could not be removed.',
        )
      }
    }
  }
}
