import { mkdirSync, realpathSync, statSync, writeFileSync } from 'node:fs'
import { dirname, relative, resolve, sep } from 'node:path'
import type { Events } from './events.ts'
import type { TaskFile } from './files.ts'
import type { JsonValue } from './json.ts'
import { note } from './note.ts'

/** Of text in one event, in UTF-16 code units. One takes up to 6 bytes of JSON. */
const MAX_PIECE_LENGTH = 40_000
const MAX_INLINE_BYTES = 512 * 1024

export type LogLevel = 'debug' | 'info' | 'warning' | 'error'

/** What people see of a file. */
export interface ArtifactLabel {
  readonly name?: string
  readonly mediaType?: string
}

export interface TaskOptions<Model> {
  /** `null`: the task of a worker that was started by hand, which needs no name. */
  readonly id: string | null
  readonly input: JsonValue
  readonly files: readonly TaskFile[]
  readonly previous: readonly TaskFile[]
  readonly outputDir: string | null
  readonly model: Model
}

/**
 * One task, as its worker has it.
 *
 * Once somebody has cancelled it, `signal` is aborted, a `yield` ends the generator as `return()` does, and `delta`, `text`, `progress`,
 * `status` and `result` throw the signal's reason.
 */
export class Task<Model = unknown> {
  readonly id: string | null
  /** Parse it: nobody has looked at it. */
  readonly input: JsonValue
  /** What it was given, in the order of its submission. */
  readonly files: readonly TaskFile[]
  /** What earlier attempts at it have left, such as a checkpoint to go on from: of each name the latest. */
  readonly previous: readonly TaskFile[]
  /** Where its files go; `null` where it was started by hand, without a folder. */
  readonly outputDir: string | null
  /** What `load` gave. */
  readonly model: Model
  readonly #events: Events
  readonly #cancelling = new AbortController()
  #hasDeltas = false
  #isOver = false

  constructor(events: Events, { id, input, files, previous, outputDir, model }: TaskOptions<Model>) {
    this.id = id
    this.input = input
    this.files = files
    this.previous = previous
    this.outputDir = outputDir
    this.model = model
    this.#events = events
  }

  /** Aborted when somebody has asked for the task's end. */
  get signal(): AbortSignal {
    return this.#cancelling.signal
  }

  /** The next piece of the output text; `yield piece` does the same. */
  delta(piece: string): void {
    this.signal.throwIfAborted()
    if (typeof piece !== 'string') {
      throw new TypeError(
        `a worker yields pieces of text, not ${typeof piece}; a result is returned, or given to task.result()`,
      )
    }
    for (let start = 0; start < piece.length;) {
      const end = start + MAX_PIECE_LENGTH
      const part = piece.slice(start, isHighSurrogate(piece.charCodeAt(end - 1)) ? end - 1 : end)
      this.#hasDeltas = true
      this.emit('text_delta', { delta: part })
      start += part.length
    }
  }

  /** The whole output text, in the place of all pieces; returning it does the same. */
  text(content: string): void {
    this.signal.throwIfAborted()
    if (content.length > MAX_PIECE_LENGTH && !this.#hasDeltas) this.delta(content)
    else this.emit('text', { content })
  }

  /** How far long work has come: steps, epochs, seconds of audio. */
  progress(completed: number, more: { total?: number; unit?: string; message?: string } = {}): void {
    this.signal.throwIfAborted()
    this.emit('progress', { completed, ...more })
  }

  /** What it is doing: any word; `progress` is from 0 to 1. */
  status(status: string, more: { message?: string; progress?: number } = {}): void {
    this.signal.throwIfAborted()
    this.emit('worker', { status, ...more })
  }

  /** The structured output: whatever JSON can say. */
  result(value: unknown): void {
    this.signal.throwIfAborted()
    this.emit('result', { value })
  }

  /** Announces a file in the output folder; `path` may be relative to that. */
  artifact(path: string, { name, mediaType }: ArtifactLabel = {}): void {
    if (this.outputDir === null) throw new Error('there is no output folder: OUTPUT_DIR is not set')
    const folder = realpathSync(this.outputDir)
    const file = realpathSync(resolve(folder, path))
    if (!file.startsWith(folder + sep)) throw new Error(`${path} is not in the output folder ${folder}`)
    if (!statSync(file).isFile()) throw new Error(`${path} is no file in the output folder ${folder}`)
    this.emit('artifact', { path: relative(folder, file), name, media_type: mediaType })
  }

  /** Writes a file into the output folder and announces it. */
  save(name: string, content: string | Uint8Array, { mediaType }: { mediaType?: string } = {}): void {
    if (this.outputDir === null) {
      // Started by hand: small ones travel in the event.
      const raw = Buffer.from(content)
      if (raw.length > MAX_INLINE_BYTES)
        throw new RangeError(`${name} is too large without an output folder: OUTPUT_DIR is not set`)
      this.emit('artifact', { data: raw.toString('base64'), name, media_type: mediaType })
      return
    }
    const file = resolve(this.outputDir, name)
    if (!file.startsWith(resolve(this.outputDir) + sep))
      throw new Error(`${name} is not in the output folder ${this.outputDir}`)
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, content)
    this.artifact(name, { name, ...(mediaType !== undefined && { mediaType }) })
  }

  /** What it has used, under any names (`prompt_tokens`, `gpu_memory_mb`); the latest under each name counts. */
  usage(numbers: Readonly<Record<string, number>>): void {
    this.emit('usage', numbers)
  }

  /** What was measured on the way (`{ step: 10, loss: 0.3 }`), as a custom event. */
  metrics(values: object): void {
    this.emit('metrics', values)
  }

  /** A line for its log. */
  log(message: string, level: LogLevel = 'info'): void {
    this.emit('log', { level, message })
  }

  /** An event that is not among these, delivered whole. */
  emit(event: string, fields: object = {}): void {
    if (this.#isOver) note(`not said, for task ${this.id ?? ''} has ended: ${event}`)
    else this.#events.emit(event, this.id, fields)
  }

  /** @internal */
  cancel(): void {
    this.#cancelling.abort(new DOMException('the task was cancelled', 'AbortError'))
  }

  /** @internal Ends it with what its `finish` says; only the first call counts. */
  finish(fields: object): void {
    if (!this.#isOver) this.#events.emit('finish', this.id, fields)
    this.#isOver = true
  }
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit < 0xdc00
}
