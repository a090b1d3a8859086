import type { SeenEvent } from './api.ts'
import { marksOf } from './marks.ts'
import type { Script } from './script.ts'

/** How long ago a line may have come for its stream to count as live. */
const LIVE_MS = 1_500

export const STREAMS = ['one-off stdout', 'one-off stderr', 'session stdout', 'session stderr'] as const
export type StreamName = (typeof STREAMS)[number]

/** A task under way, as its first subscriber sees it. */
export class WatchedTask {
  readonly id: string
  readonly script: Script
  readonly submittedAt = Date.now()
  lastSeq = 0
  attempt = 0
  /** Its worker has said its totals: what follows is the end. */
  readonly atTheEnd: Promise<void>
  #reachEnd: () => void = () => undefined
  /** When the last line of each stream came, in milliseconds since 1970. */
  readonly heardAt = { o: 0, e: 0 }

  constructor(id: string, script: Script) {
    this.id = id
    this.script = script
    this.atTheEnd = new Promise((resolve) => {
      this.#reachEnd = resolve
    })
  }

  take(events: readonly SeenEvent[]): void {
    for (const event of events) {
      this.lastSeq = event.seq
      this.attempt = Math.max(this.attempt, event.attempt)
      for (const { stream } of marksOf(event)) this.heardAt[stream] = Date.now()
      if (event.__typename === 'ResultEvent') this.#reachEnd()
    }
  }

  /** Its streams from which lines are coming. */
  get live(): readonly StreamName[] {
    const { mode } = this.script
    const since = Date.now() - LIVE_MS
    const streams: StreamName[] = []
    if (this.heardAt.o > since) streams.push(`${mode} stdout`)
    if (this.heardAt.e > since) streams.push(`${mode} stderr`)
    return streams
  }
}
