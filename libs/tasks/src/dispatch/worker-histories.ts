import type { Spread, WorkerFacts } from '../planner/index.ts'
import type { WorkerHistory } from '../store.ts'

/** How many figures of each kind are kept per spec. */
export const HISTORY_LENGTH = 20
/** A claim is learned from no fewer workers. */
const MIN_PEAKS = 3
const PEAK_PERCENTILE = 0.95
const HOUR_MS = 3_600_000
const MAX_SPECS = 2_000

type Measured = 'loadMs' | 'runMs' | 'handOverMs' | 'peakMemoryMb'
type Facts = Omit<WorkerFacts, 'tasksPerHour'>

const NOTHING_KNOWN: Facts = { learnedMemoryMb: null, loadMs: null, runMs: null, handOverMs: null }

interface History {
  readonly loadMs: number[]
  readonly runMs: number[]
  readonly handOverMs: number[]
  readonly peakMemoryMb: number[]
  /** When tasks asked for it in the last hour, oldest first. */
  readonly askedAt: number[]
  facts: Facts | null
}

/** What was measured of the last workers and tasks of each spec: how long they load and run, how much GPU memory they take, how often they are asked for. */
export class WorkerHistories {
  readonly #histories = new Map<string, History>()

  /** Takes over what the store knows of earlier times. */
  constructor(stored: readonly WorkerHistory[]) {
    for (const { specHash, loadMs, runMs, peakMemoryMb } of stored) {
      const history = this.#of(specHash)
      history.loadMs.push(...loadMs.toReversed())
      history.runMs.push(...runMs.toReversed())
      history.peakMemoryMb.push(...peakMemoryMb.toReversed())
    }
  }

  loaded(specHash: string, ms: number): void {
    this.#note(specHash, 'loadMs', ms)
  }

  ran(specHash: string, ms: number): void {
    this.#note(specHash, 'runMs', ms)
  }

  /** A warm worker had a task RUNNING so long after it was claimed for it. */
  handedOver(specHash: string, ms: number): void {
    this.#note(specHash, 'handOverMs', ms)
  }

  peaked(specHash: string, memoryMb: number): void {
    this.#note(specHash, 'peakMemoryMb', memoryMb)
  }

  asked(specHash: string, at: number): void {
    const { askedAt } = this.#of(specHash)
    askedAt.push(at)
    // One in a thousand is exact enough for a likelihood.
    if (askedAt.length > 2_000) askedAt.splice(0, 1_000)
  }

  facts(specHash: string, now: number): WorkerFacts {
    const history = this.#histories.get(specHash)
    if (history === undefined) return { ...NOTHING_KNOWN, tasksPerHour: 0 }
    const { askedAt, peakMemoryMb, loadMs, runMs, handOverMs } = history
    const isOld = (at: number): boolean => at < now - HOUR_MS
    if (askedAt[0] !== undefined && isOld(askedAt[0])) askedAt.splice(0, askedAt.findLastIndex(isOld) + 1)
    history.facts ??= {
      learnedMemoryMb:
        peakMemoryMb.length < MIN_PEAKS ? null : Math.ceil(percentile(peakMemoryMb, PEAK_PERCENTILE)),
      loadMs: spreadOf(loadMs),
      runMs: spreadOf(runMs),
      handOverMs: spreadOf(handOverMs),
    }
    return { ...history.facts, tasksPerHour: askedAt.length }
  }

  #note(specHash: string, kind: Measured, value: number): void {
    const history = this.#of(specHash)
    const values = history[kind]
    // A clock that was set may make it less than nothing.
    values.push(Math.max(0, value))
    if (values.length > HISTORY_LENGTH) values.shift()
    history.facts = null
  }

  #of(specHash: string): History {
    const known = this.#histories.get(specHash)
    if (known !== undefined) return known
    const history: History = {
      ...{ loadMs: [], runMs: [], handOverMs: [], peakMemoryMb: [], askedAt: [] },
      facts: null,
    }
    this.#histories.set(specHash, history)
    // Presets are edited for years; those that nobody asks for are forgotten first.
    const [oldest] = this.#histories.keys()
    if (this.#histories.size > MAX_SPECS && oldest !== undefined) this.#histories.delete(oldest)
    return history
  }
}

function spreadOf(values: readonly number[]): Spread | null {
  if (values.length === 0) return null
  return { low: percentile(values, 0.1), middle: percentile(values, 0.5), high: percentile(values, 0.9) }
}

/** The nearest-rank percentile. */
function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0
}
