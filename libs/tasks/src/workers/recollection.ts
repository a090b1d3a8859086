import type { TaskEventBody } from '../event.ts'
import { createOutputBuilder } from '../output.ts'
import type { TaskOutput } from '../task.ts'

/** What is kept of each stream's end for the evidence of a failure. */
export const LAST_WORDS_LINES = 10
export const LAST_WORDS_LINE_LENGTH = 500

/** What is remembered of a stretch of an attempt's events: what they come to, their last lines, and whether something is missing. */
export class Recollection {
  readonly #output = createOutputBuilder()
  readonly #lastWords: string[] = []
  readonly #lastSaid: TaskEventBody[] = []
  #outputLost = false

  add(body: TaskEventBody): void {
    this.#output.add(body)
    switch (body.type) {
      // What the service itself says of the task stands in its events only.
      case 'status':
        return
      case 'gap':
        this.#outputLost = true
        return
      case 'log':
        if (body.stream === 'STDERR') {
          this.#lastWords.push(body.line.slice(0, LAST_WORDS_LINE_LENGTH))
          if (this.#lastWords.length > LAST_WORDS_LINES) this.#lastWords.shift()
          return
        }
        break
      default:
    }
    this.#lastSaid.push(body)
    if (this.#lastSaid.length > LAST_WORDS_LINES) this.#lastSaid.shift()
  }

  /** `earlier` is of the events before the first of this one's. */
  output(earlier: Recollection): TaskOutput {
    return this.#output.build(earlier.#output)
  }

  /** Some of the output is missing. */
  get outputLost(): boolean {
    return this.#outputLost
  }

  /** The last lines of stderr, oldest first. */
  get lastWords(): readonly string[] {
    return this.#lastWords
  }

  /** The last that was said on stdout, oldest first: as it was kept, one JSON object each, or a line of a log as it was printed. */
  get lastSaid(): readonly string[] {
    return this.#lastSaid.map((body) => lineOf(body).slice(0, LAST_WORDS_LINE_LENGTH))
  }
}

function lineOf(body: TaskEventBody): string {
  switch (body.type) {
    case 'log':
    case 'fault':
      return body.line
    case 'custom':
      return JSON.stringify({ event: body.name, ...body.payload })
    default: {
      const { type, ...fields } = body
      return JSON.stringify({ event: type, ...fields })
    }
  }
}
