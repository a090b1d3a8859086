import {
  createEventParser,
  createLineReader,
  type ProtocolFault,
  type WorkerEvent,
} from '@gpu-service/event-parser'
import type { OutputStream, WorkerExit } from '@gpu-service/tasks'

/** An event as it came. */
export interface Heard {
  readonly event: WorkerEvent
  /** The task that it names. */
  readonly named: string | null
  /** The task that it belongs to: the named one, or the only one that was active; `null`: the worker itself. */
  readonly owner: string | null
  /** No task is named, and several are active. */
  readonly isAmbiguous: boolean
  readonly seq: number | null
  /** When it came, in milliseconds since 1970. */
  readonly at: number
}

const STDERR_LINES = 5

/** All that a worker says in its life, as far as it has been heard. */
export class Hearing {
  readonly heard: Heard[] = []
  readonly faults: ProtocolFault[] = []
  /** Lines of stdout that are no events. */
  readonly strays: string[] = []
  /** Events that came for a task when its finish had been heard. */
  readonly late: Heard[] = []
  /** The last lines of stderr. */
  readonly lastWords: string[] = []
  /** When each task was given, in milliseconds since 1970. */
  readonly given = new Map<string, number>()
  readonly finished = new Map<string, Heard>()
  readonly startedAt: number
  /** How it ended; `null`: it lives. */
  exit: WorkerExit | null = null
  readonly #streams
  #at = 0
  #wake: () => void = () => undefined

  constructor(startedAt: number) {
    this.startedAt = startedAt
    this.#streams = {
      stdout: createEventParser({
        event: (event, named, seq) => {
          this.#take(event, named, seq)
        },
        log: (line) => this.strays.push(line),
        fault: (fault) => this.faults.push(fault),
      }),
      stderr: createLineReader(
        {
          line: (line) => {
            this.lastWords.push(line)
            if (this.lastWords.length > STDERR_LINES) this.lastWords.shift()
          },
        },
        { maxLineBytes: 4_096 },
      ),
    }
  }

  /** A task has been given to the worker. */
  give(runId: string): void {
    this.given.set(runId, Date.now())
  }

  hear(stream: OutputStream, bytes: Uint8Array, at: number): void {
    this.#at = at
    this.#streams[stream].feed(bytes)
    this.#wake()
  }

  over(exit: WorkerExit): void {
    this.#streams.stdout.end()
    this.#streams.stderr.end()
    this.exit = exit
    this.#wake()
  }

  /** Waits until `holds`; `false` where the time is over, or the worker is, before that. */
  async until(withinMs: number, holds: () => boolean): Promise<boolean> {
    const deadline = performance.now() + withinMs
    while (!holds()) {
      const leftMs = deadline - performance.now()
      if (this.exit !== null || leftMs <= 0) return false
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    return true
  }

  async ended(withinMs: number): Promise<boolean> {
    await this.until(withinMs, () => this.exit !== null)
    return this.exit !== null
  }

  of(runId: string): readonly Heard[] {
    return this.heard.filter(({ owner }) => owner === runId)
  }

  get isReady(): boolean {
    return this.heard.some(({ event }) => event.type === 'worker' && event.status === 'ready')
  }

  /** `null`: it lives, or it is not known. */
  get exitCode(): number | null {
    return this.exit?.exitCode ?? null
  }

  /** What stderr ends with, as a further sentence; empty where there is nothing. */
  get evidence(): string {
    return this.lastWords.length === 0 ? '' : ` Its standard error ends with: ${this.lastWords.join(' | ')}`
  }

  #take(event: WorkerEvent, named: string | null, seq: number | null): void {
    const active = [...this.given.keys()].filter((id) => !this.finished.has(id))
    const [only = null] = active.length === 1 ? active : []
    const heard: Heard = {
      ...{ event, named, seq, at: this.#at },
      owner: named ?? only,
      isAmbiguous: named === null && active.length > 1,
    }
    this.heard.push(heard)
    const { owner } = heard
    if (owner !== null && this.finished.has(owner)) this.late.push(heard)
    else if (owner !== null && event.type === 'finish') this.finished.set(owner, heard)
  }
}
