import {
  createEventParser,
  createLineReader,
  type EventParser,
  type LineReader,
  type ProtocolFault,
  type WorkerEvent,
} from '@gpu-service/event-parser'
import type { Taken } from './artifact-files.ts'
import { labelArtifact } from './artifact-label.ts'
import type { Artifact, TaskEventBody } from './event.ts'
import type { ArtifactId } from './ids.ts'
import { createOutputBuilder } from './output.ts'
import type { OutputStream } from './runner.ts'
import type { TaskFinish, TaskOutput } from './task.ts'

const MAX_STDERR_CHARACTERS = 16 * 1024 * 1024
const MAX_STDERR_LINE_BYTES = 16 * 1024
const LAST_WORDS_LINES = 10
const LAST_WORDS_LINE_LENGTH = 500

type ArtifactEvent = Extract<WorkerEvent, { type: 'artifact' }>

/** Where what a worker says goes. */
export interface InterpreterSink {
  write(body: TaskEventBody): void
  /** Its first complete line on stdout, before the event of that line. */
  onSignOfLife(): void
  /** Its first piece of text, before the event. */
  onFirstText(): void
  /** Its first `finish`, before the event. */
  onFinish(finish: TaskFinish): void
  /** An artifact whose bytes have been taken, before the event. */
  onArtifact(artifact: Artifact): void
}

export interface InterpreterOptions {
  /** The `task_id` of the one run that the worker has. */
  readonly runId: string
  readonly sink: InterpreterSink
  readonly newArtifactId: () => ArtifactId
  /** Takes the bytes of an artifact; what it throws is the service's trouble, not the worker's. */
  readonly takeArtifact: (id: ArtifactId, source: ArtifactEvent['source']) => Promise<Taken>
  /** What earlier processes have seen already. */
  readonly seen: { readonly signOfLife: boolean; readonly text: boolean; readonly finish: TaskFinish | null }
  /** The worker's own count of its events so far: 0 at its first byte; `null` where it is not known. */
  readonly eventSeq: number | null
}

/**
 * Makes a one-off worker's output into the events of its task, by the protocol: what counts, what is a fault, what has been lost. Keeps
 * what the end of the attempt needs to know of them.
 */
export class Interpreter {
  readonly #options: InterpreterOptions
  readonly #parser: EventParser
  readonly #stderr: LineReader
  readonly #output = createOutputBuilder()
  #signOfLife: boolean
  #text: boolean
  #finish: TaskFinish | null
  #outputLost = false
  #lastSeq: number | null
  /** Lines that could not be read and may each have held one of the worker's counted events. */
  #unreadable = 0
  #stderrCharacters = 0
  readonly #lastWords: string[] = []
  /** An artifact whose file is to be taken, and all that was said behind it, in order. */
  #deferred: (() => Promise<void> | void)[] = []

  constructor(options: InterpreterOptions) {
    this.#options = options
    const { seen } = options
    this.#signOfLife = seen.signOfLife
    this.#text = seen.text
    this.#finish = seen.finish
    this.#lastSeq = options.eventSeq
    this.#parser = createEventParser({
      event: (event, runId, seq) => {
        this.#onEvent(event, runId, seq)
      },
      log: (line) => {
        this.#onSignOfLife()
        this.#writeInOrder({ type: 'log', stream: 'STDOUT', level: null, line })
      },
      fault: (fault, _runId, seq) => {
        this.#onFault(fault, seq)
      },
    })
    this.#stderr = createLineReader(
      {
        line: (text, truncated) => {
          this.#onStderr(text, truncated)
        },
      },
      { maxLineBytes: MAX_STDERR_LINE_BYTES },
    )
  }

  /** The first `finish`. */
  get finish(): TaskFinish | null {
    return this.#finish
  }

  /** Some of the output is missing. */
  get outputLost(): boolean {
    return this.#outputLost
  }

  /** The worker's own count of its events by now; `null` where it does not count. */
  get eventSeq(): number | null {
    return this.#lastSeq === 0 ? null : this.#lastSeq
  }

  /** The last lines of stderr, oldest first. */
  get lastWords(): readonly string[] {
    return this.#lastWords
  }

  /** What the events so far come to. */
  output(): TaskOutput {
    return this.#output.build()
  }

  /** Takes the next bytes of one stream. `bytes` is read during the call only, artifacts are taken before it resolves. */
  feed(stream: OutputStream, bytes: Uint8Array): Promise<void> | void {
    if (stream === 'stderr') {
      this.#stderr.feed(bytes)
      return
    }
    this.#parser.feed(bytes)
    if (this.#deferred.length > 0) return this.#takeDeferred()
  }

  /** Both streams are over: a last line without a newline counts. */
  async end(): Promise<void> {
    this.#parser.end()
    await this.#takeDeferred()
    this.#stderr.end()
  }

  /** Some output can never be read any more. */
  gap(detail: string): void {
    this.#write({ type: 'gap', detail })
  }

  /** Takes note of an event that an earlier process has stored. */
  recall(body: TaskEventBody): void {
    this.#output.add(body)
    if (body.type === 'gap') this.#outputLost = true
    if (body.type !== 'log' || body.stream !== 'STDERR') return
    this.#stderrCharacters += body.line.length + 1
    this.#lastWords.push(body.line.slice(0, LAST_WORDS_LINE_LENGTH))
    if (this.#lastWords.length > LAST_WORDS_LINES) this.#lastWords.shift()
  }

  #write(body: TaskEventBody): void {
    this.#options.sink.write(body)
    this.recall(body)
  }

  #onEvent(event: WorkerEvent, runId: string | null, seq: number | null): void {
    this.#onSignOfLife()
    if (seq !== null) this.#checkSeq(seq)
    const { runId: own } = this.#options
    if (runId !== null && runId !== own) {
      const detail = `The event's task_id is ${JSON.stringify(runId.slice(0, 200))}, but the worker's task is "${own}".`
      this.#writeInOrder({ type: 'fault', kind: 'FOREIGN_TASK', line: startOf(event), detail })
    } else if (event.type === 'artifact') {
      this.#deferred.push(() => this.#takeArtifact(event))
    } else {
      this.#inOrder(() => {
        this.#take(event)
      })
    }
  }

  #onFault(fault: ProtocolFault, seq: number | null): void {
    this.#onSignOfLife()
    if (seq !== null) this.#checkSeq(seq)
    else if (fault.kind === 'INVALID_JSON' || fault.kind === 'TOO_DEEP' || fault.kind === 'LINE_TOO_LONG')
      this.#unreadable++
    this.#writeInOrder({ type: 'fault', ...fault })
  }

  /** A line that could not be read may have had the count that is missing. */
  #checkSeq(seq: number): void {
    const last = this.#lastSeq ?? seq - 1
    const missing = seq - last - 1
    const explained = Math.max(0, Math.min(missing, this.#unreadable))
    this.#unreadable = 0
    this.#lastSeq = Math.max(seq, last)
    if (missing <= explained) return
    const detail = `The worker's own count jumps from ${last} to ${seq}: ${missing - explained} of its events are missing.`
    this.#writeInOrder({ type: 'gap', detail })
  }

  #onStderr(text: string, truncated: boolean): void {
    if (this.#stderrCharacters > MAX_STDERR_CHARACTERS) return
    const line = truncated ? `${text} [cut: the line is longer than ${MAX_STDERR_LINE_BYTES} bytes]` : text
    this.#write({ type: 'log', stream: 'STDERR', level: null, line })
    if (this.#stderrCharacters <= MAX_STDERR_CHARACTERS) return
    const cut = `[cut: more than ${MAX_STDERR_CHARACTERS} characters on stderr; the rest is not kept]`
    this.#write({ type: 'log', stream: 'STDERR', level: 'warning', line: cut })
  }

  #onSignOfLife(): void {
    if (this.#signOfLife) return
    this.#signOfLife = true
    this.#options.sink.onSignOfLife()
  }

  #inOrder(action: () => void): void {
    if (this.#deferred.length > 0) this.#deferred.push(action)
    else action()
  }

  #writeInOrder(body: TaskEventBody): void {
    this.#inOrder(() => {
      this.#write(body)
    })
  }

  #take(event: Exclude<WorkerEvent, ArtifactEvent>): void {
    if (this.#isAfterFinish(event)) return
    switch (event.type) {
      case 'text_delta':
      case 'text':
        if (!this.#text) {
          this.#text = true
          this.#options.sink.onFirstText()
        }
        this.#write(event)
        return
      case 'finish': {
        const { status } = event
        const error = event.error && {
          code: event.error.code ?? 'WORKER_FAILED',
          message: event.error.message,
        }
        this.#finish = { status, error }
        this.#options.sink.onFinish(this.#finish)
        this.#write({ type: 'finish', status, error })
        return
      }
      case 'log':
        this.#write({ type: 'log', stream: 'STDOUT', level: event.level, line: event.message })
        return
      default:
        this.#write(event)
    }
  }

  #isAfterFinish(event: WorkerEvent): boolean {
    if (this.#finish === null) return false
    const detail = 'The worker said this after its finish event.'
    this.#write({ type: 'fault', kind: 'AFTER_FINISH', line: startOf(event), detail })
    return true
  }

  /** Artifacts' files are taken one after the other, and what was said behind them waits. */
  async #takeDeferred(): Promise<void> {
    for (const action of this.#deferred) await action()
    this.#deferred = []
  }

  async #takeArtifact(event: ArtifactEvent): Promise<void> {
    if (this.#isAfterFinish(event)) return
    const { newArtifactId, takeArtifact, sink } = this.#options
    const id = newArtifactId()
    const { source, name, mediaType } = event
    const taken = await takeArtifact(id, source)
    if (taken.status === 'refused') {
      this.#write({ type: 'fault', kind: 'INVALID_ARTIFACT', line: startOf(event), detail: taken.message })
      return
    }
    const path = source.kind === 'path' ? source.path : null
    const label = labelArtifact({ name, mediaType, path })
    const artifact: Artifact = { id, ...label, bytes: taken.bytes, sha256: taken.sha256 }
    sink.onArtifact(artifact)
    this.#write({ type: 'artifact', artifact })
  }
}

/** An event that is not kept, as a fault quotes it. */
function startOf(event: WorkerEvent): string {
  return JSON.stringify(event).slice(0, 1_000)
}
