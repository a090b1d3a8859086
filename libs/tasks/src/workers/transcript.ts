import type { WorkerEvent } from '@gpu-service/event-parser'
import type { Artifact, TaskEventBody } from '../event.ts'
import type { TaskFinish, TaskOutput } from '../task.ts'
import { LAST_WORDS_LINES, Recollection } from './recollection.ts'

/** What is kept of stderr between two starts of the service. */
const MAX_STDERR_CHARACTERS = 16 * 1024 * 1024
export type ArtifactEvent = Extract<WorkerEvent, { type: 'artifact' }>

/** Where what an attempt says goes. */
export interface TranscriptSink {
  write(body: TaskEventBody): void
  /** The worker's first sign of life for the task, before what it says with it. */
  onSignOfLife(): void
  /** Its first piece of text, before the event. */
  onFirstText(): void
  /** Its first `finish`, before the event. */
  onFinish(finish: TaskFinish): void
  /** An artifact whose bytes have been taken, before the event. */
  onArtifact(artifact: Artifact): void
  /** Some of its output is lost (`certain`), or may be. */
  onLoss(certain: boolean): void
}

/** What earlier processes have seen of an attempt. */
export interface Seen {
  readonly signOfLife: boolean
  readonly text: boolean
  readonly finish: TaskFinish | null
}

/**
 * What one attempt has said, by the rules of the protocol that concern one task: what counts after its finish, what its text comes to, what
 * has been lost. It writes events and keeps what the end of the attempt needs to know of them.
 */
export class Transcript {
  readonly #sink: TranscriptSink
  /** What earlier processes have stored, once it has been read, and what this one has written. */
  readonly #earlier = new Recollection()
  readonly #own = new Recollection()
  #signOfLife: boolean
  #text: boolean
  #finish: TaskFinish | null
  #isSuspected = false
  #isDoubtful = false
  #stderrCharacters = 0
  #isCutOff = false

  constructor(sink: TranscriptSink, seen: Seen) {
    this.#sink = sink
    this.#signOfLife = seen.signOfLife
    this.#text = seen.text
    this.#finish = seen.finish
  }

  /** The worker has shown a sign of life for the task. */
  get isAlive(): boolean {
    return this.#signOfLife
  }

  /** It has said too much: nothing more of it is kept. */
  get isCutOff(): boolean {
    return this.#isCutOff
  }

  /** The first `finish`. */
  get finish(): TaskFinish | null {
    return this.#finish
  }

  /** Some of the output is missing. */
  get outputLost(): boolean {
    return this.#earlier.outputLost || this.#own.outputLost
  }

  /** Some of the output is missing, or may be. */
  get isInDoubt(): boolean {
    return this.outputLost || this.#isDoubtful
  }

  /** The last lines of stderr, oldest first. */
  get lastWords(): readonly string[] {
    return [...this.#earlier.lastWords, ...this.#own.lastWords].slice(-LAST_WORDS_LINES)
  }

  /** The last that was said on stdout, oldest first: as it was kept, one JSON object each, or a line of a log as it was printed. */
  get lastSaid(): readonly string[] {
    return [...this.#earlier.lastSaid, ...this.#own.lastSaid].slice(-LAST_WORDS_LINES)
  }

  /** What the events so far come to. */
  output(): TaskOutput {
    return this.#own.output(this.#earlier)
  }

  /** Takes note of an event that an earlier process has stored; in their order, and before the attempt is asked what it comes to. */
  recall(body: TaskEventBody): void {
    this.#earlier.add(body)
  }

  /** The worker lives and has taken the task. */
  signOfLife(): void {
    if (this.#signOfLife) return
    this.#signOfLife = true
    this.#sink.onSignOfLife()
  }

  /** Some of its output may be lost; `true` where that is news. */
  suspect(): boolean {
    const isNews = !this.#isSuspected
    this.#isSuspected = true
    this.doubt()
    return isNews
  }

  /** Some of its output may be lost, though nothing speaks for it. */
  doubt(): void {
    this.#isDoubtful = true
    this.#sink.onLoss(false)
  }

  /** It has said too much: a last line says so, and nothing more is kept but its finish. */
  cutOff(line: string): void {
    this.write({ type: 'log', stream: 'STDOUT', level: 'warning', line })
    this.#isCutOff = true
  }

  /** Something that is kept as it is: a log line, a fault, a gap, or what a worker that comes up says. */
  write(body: TaskEventBody): void {
    if (this.#isCutOff && body.type !== 'finish') return
    this.#sink.write(body)
    this.#own.add(body)
    if (body.type === 'gap') this.#sink.onLoss(true)
  }

  stderr(line: string): void {
    if (this.#stderrCharacters > MAX_STDERR_CHARACTERS) return
    this.#stderrCharacters += line.length + 1
    this.write({ type: 'log', stream: 'STDERR', level: null, line })
    if (this.#stderrCharacters <= MAX_STDERR_CHARACTERS) return
    const cut = `[cut: more than ${MAX_STDERR_CHARACTERS} characters on stderr; the rest is not kept]`
    this.write({ type: 'log', stream: 'STDERR', level: 'warning', line: cut })
  }

  /** An event of the task, artifacts excepted. */
  take(event: Exclude<WorkerEvent, ArtifactEvent>): void {
    if (this.refuseAfterFinish(event)) return
    switch (event.type) {
      case 'text_delta':
      case 'text':
        if (!this.#text) {
          this.#text = true
          this.#sink.onFirstText()
        }
        this.write(event)
        return
      case 'finish': {
        const error = event.error && {
          code: event.error.code ?? 'WORKER_FAILED',
          message: event.error.message,
        }
        this.#finish = { status: event.status, error }
        this.#sink.onFinish(this.#finish)
        this.write({ type: 'finish', status: event.status, error })
        return
      }
      default:
        this.write(bodyOf(event))
    }
  }

  /** An artifact of the task, whose bytes have been taken. */
  takeArtifact(artifact: Artifact): void {
    if (this.#isCutOff) return
    this.#sink.onArtifact(artifact)
    this.write({ type: 'artifact', artifact })
  }

  /** Nothing counts after the finish: it is told as a fault, and `true` given. */
  refuseAfterFinish(event: WorkerEvent): boolean {
    if (this.#finish === null) return false
    const detail = 'The worker said this after its finish event.'
    this.write({ type: 'fault', kind: 'AFTER_FINISH', line: startOf(event), detail })
    return true
  }
}

/** An event as it is kept. */
export function bodyOf(event: Exclude<WorkerEvent, ArtifactEvent>): TaskEventBody {
  switch (event.type) {
    case 'log':
      return { type: 'log', stream: 'STDOUT', level: event.level, line: event.message }
    case 'finish': {
      const { status, error } = event
      return {
        type: 'finish',
        status,
        error: error && { code: error.code ?? 'WORKER_FAILED', message: error.message },
      }
    }
    default:
      return event
  }
}

/** An event that is not kept, as a fault quotes it. */
export function startOf(event: WorkerEvent): string {
  return JSON.stringify(event).slice(0, 1_000)
}
