import type { Mark } from './marks.ts'
import type { Violation } from './violation.ts'

/** What is known of a run once its task has ended. */
export interface RunFacts {
  readonly runId: string
  readonly taskId: string
  /** What the worker says that it has printed; `null` where it did not come to that. */
  readonly totals: { readonly o: number; readonly e: number } | null
  /** Something happened that may cost lines of this stream; then none may be missing without a word of it (`o`), or nothing is asked (`e`). */
  readonly mayLack: { readonly o: boolean; readonly e: boolean }
}

interface Seen {
  readonly numbers: Set<number>
  most: number
}

/**
 * The books over every line that the workers have printed: each must stand exactly once in all that the service tells, wherever it has put
 * it. (A session's words without a task's name may come to stand beside its task.)
 */
export class Ledger {
  readonly #seen = new Map<string, Seen>()
  readonly #runs: RunFacts[] = []
  /** Of which every line has come: each further one is one too many. */
  readonly #complete = new Set<string>()
  #lines = 0

  /** How many lines are in the books. */
  get lines(): number {
    return this.#lines
  }

  /** Enters a line; gives what is wrong with it. */
  enter({ runId, stream, number }: Mark, where: string): Violation[] {
    const key = `${stream} ${runId}`
    if (this.#complete.has(runId))
      return [
        { rule: 'repeated', taskId: taskOf(runId), detail: `line ${number} of ${key} again in ${where}` },
      ]
    const seen = this.#seen.get(key) ?? { numbers: new Set(), most: 0 }
    this.#seen.set(key, seen)
    this.#lines++
    if (seen.numbers.has(number))
      return [
        { rule: 'repeated', taskId: taskOf(runId), detail: `line ${number} of ${key} again in ${where}` },
      ]
    seen.numbers.add(number)
    seen.most = Math.max(seen.most, number)
    return []
  }

  /** A run whose lines have to be in the books by the end. */
  expect(facts: RunFacts): void {
    const { runId, totals } = facts
    const isComplete = (stream: 'o' | 'e'): boolean => {
      const seen = this.#seen.get(`${stream} ${runId}`)
      return (
        totals !== null &&
        (seen?.numbers.size ?? 0) === totals[stream] &&
        (seen?.most ?? 0) === totals[stream]
      )
    }
    if (isComplete('o') && isComplete('e')) {
      this.#complete.add(runId)
      for (const stream of ['o', 'e']) this.#seen.delete(`${stream} ${runId}`)
    } else this.#runs.push(facts)
  }

  /** What is missing, once everything that was told is in the books. */
  missing(): Violation[] {
    return this.#runs.flatMap((facts) =>
      (['o', 'e'] as const).flatMap((stream) => {
        const seen = this.#seen.get(`${stream} ${facts.runId}`)
        const most = Math.max(facts.totals?.[stream] ?? 0, seen?.most ?? 0)
        const lacking = most - (seen?.numbers.size ?? 0)
        const isTooMany = facts.totals !== null && most > facts.totals[stream]
        const whose = `of ${most} on std${stream === 'o' ? 'out' : 'err'} of run ${facts.runId}`
        if (isTooMany)
          return [{ rule: 'invented', taskId: facts.taskId, detail: `more than printed ${whose}` }]
        if (lacking === 0 || facts.mayLack[stream]) return []
        return [{ rule: 'lost', taskId: facts.taskId, detail: `${lacking} lines ${whose}` }]
      }),
    )
  }
}

function taskOf(runId: string): string {
  return runId.slice(0, runId.lastIndexOf('.'))
}
