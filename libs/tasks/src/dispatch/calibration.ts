import type { Calibration } from '../dispatcher.ts'
import type { TaskId } from '../ids.ts'
import type { StartEstimate } from '../planner/index.ts'

const KEPT_RESULTS = 200
const MAX_PREDICTIONS = 1_000

/** How good the estimates of starts were: each task's first one against when it then was RUNNING. */
export class EstimateCalibration {
  readonly #predictions = new Map<TaskId, StartEstimate>()
  readonly #results: boolean[] = []

  /** Notes what was told of a task; its first estimate counts. */
  predicted(id: TaskId, estimate: StartEstimate): void {
    if (this.#predictions.has(id)) return
    this.#predictions.set(id, estimate)
    const [oldest] = this.#predictions.keys()
    if (this.#predictions.size > MAX_PREDICTIONS && oldest !== undefined) this.#predictions.delete(oldest)
  }

  isPredicted(id: TaskId): boolean {
    return this.#predictions.has(id)
  }

  /** The task is RUNNING. */
  started(id: TaskId, at: number): void {
    const estimate = this.#predictions.get(id)
    if (estimate === undefined) return
    this.#predictions.delete(id)
    this.#results.push(at >= estimate.earliest && at <= estimate.latest)
    if (this.#results.length > KEPT_RESULTS) this.#results.shift()
  }

  /** The task ended without ever running. */
  forget(id: TaskId): void {
    this.#predictions.delete(id)
  }

  get result(): Calibration {
    const samples = this.#results.length
    const within = samples === 0 ? null : this.#results.filter(Boolean).length / samples
    return { samples, within }
  }
}
