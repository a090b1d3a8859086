import type { Artifact, TaskEventBody } from '../event.ts'
import type { OutputLimits } from '../spec.ts'

const MB = 1024 * 1024
/** What an event takes beside its text, about. */
const EVENT_CHARACTERS = 32

/**
 * Measures what one attempt says and leaves behind, in this process: after a restart of the service it counts anew. Each note gives what the
 * attempt does that it may not, to be put behind "it"; `null`: nothing.
 */
export class OutputMeter {
  readonly #limits: OutputLimits
  #events = 0
  #characters = 0
  #artifacts = 0
  #artifactBytes = 0

  constructor(limits: OutputLimits) {
    this.#limits = limits
  }

  said(body: TaskEventBody): string | null {
    const { events, mb } = this.#limits
    this.#events += 1
    this.#characters += EVENT_CHARACTERS + textOf(body).length
    if (this.#events > events) return `said more than ${events} events (output.events)`
    return this.#characters > mb * MB ? `said more than ${mb} MB (output.size)` : null
  }

  left({ bytes }: Pick<Artifact, 'bytes'>): string | null {
    const { artifacts, artifactsMb } = this.#limits
    this.#artifacts += 1
    this.#artifactBytes += bytes
    if (this.#artifacts > artifacts) return `left more than ${artifacts} artifacts (output.artifacts)`
    return this.#artifactBytes > artifactsMb * MB
      ? `left artifacts of more than ${artifactsMb} MB (output.artifacts_size)`
      : null
  }
}

/** The part of an event that can be long. */
function textOf(body: TaskEventBody): string {
  switch (body.type) {
    case 'text_delta':
      return body.delta
    case 'log':
    case 'fault':
      return body.line
    default:
      return JSON.stringify(body)
  }
}
