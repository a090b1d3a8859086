import type { TaskLimits } from '../access.ts'
import { chargeOf, DAY_MS, dayStartOf, type Charge } from '../charge.ts'
import type { KeyUse } from '../dispatcher.ts'
import type { KeyCap } from '../planner/index.ts'
import type { Task } from '../task.ts'
import type { TaskQueue } from './task-queue.ts'

/** What each API key uses, against what it may. */
export class KeyUsage {
  readonly #limitsOf: (keyId: string) => TaskLimits
  readonly #queue: TaskQueue
  /** The tasks that have a worker. */
  readonly #running: () => readonly Task[]
  #dayStart: number
  /** Of the attempts that ended on the day. */
  readonly #gpuMs = new Map<string, number>()

  /** `charges`: of the day of `now`. */
  constructor(options: {
    readonly limitsOf: (keyId: string) => TaskLimits
    readonly queue: TaskQueue
    readonly running: () => readonly Task[]
    readonly charges: readonly Charge[]
    readonly now: number
  }) {
    this.#limitsOf = options.limitsOf
    this.#queue = options.queue
    this.#running = options.running
    this.#dayStart = dayStartOf(options.now)
    for (const { keyId, gpuMs } of options.charges) this.#gpuMs.set(keyId, gpuMs)
  }

  /** An attempt ended at `at`. */
  charge({ keyId, gpuMs }: Charge, at: number): void {
    this.#begin(at)
    this.#gpuMs.set(keyId, (this.#gpuMs.get(keyId) ?? 0) + gpuMs)
  }

  of(keyId: string, now: number): KeyUse {
    this.#begin(now)
    const tasks = this.#running().filter((task) => task.keyId === keyId)
    const runningMs = tasks.reduce((sum, task) => sum + (chargeOf(task, now)?.gpuMs ?? 0), 0)
    return {
      queuedTasks: this.#queue.countOf(keyId),
      runningTasks: tasks.length,
      gpuSeconds: ((this.#gpuMs.get(keyId) ?? 0) + runningMs) / 1_000,
    }
  }

  limitsOf(keyId: string): TaskLimits {
    return this.#limitsOf(keyId)
  }

  /** Whether the key has used its GPU time of the day. */
  spent(keyId: string, now: number): KeyCap['spent'] {
    const { gpuSecondsPerDay: gpuSeconds } = this.#limitsOf(keyId)
    if (gpuSeconds === null || this.of(keyId, now).gpuSeconds < gpuSeconds) return null
    return { gpuSeconds, until: this.#dayStart + DAY_MS }
  }

  /** Of the keys whose tasks wait. */
  caps(now: number): ReadonlyMap<string, KeyCap> {
    const caps = new Map<string, KeyCap>()
    for (const keyId of this.#queue.keyIds()) {
      const maxRunning = this.#limitsOf(keyId).runningTasks
      const spent = this.spent(keyId, now)
      if (maxRunning !== null || spent !== null) caps.set(keyId, { maxRunning, spent })
    }
    return caps
  }

  /** A clock that was set back does not give a day's time twice. */
  #begin(now: number): void {
    const dayStart = dayStartOf(now)
    if (dayStart <= this.#dayStart) return
    this.#dayStart = dayStart
    this.#gpuMs.clear()
  }
}
