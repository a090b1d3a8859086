import {
  createEventParser,
  createLineReader,
  type EventParser,
  type EventSink,
  type LineReader,
  type ProtocolFault,
  type Redactor,
  type WorkerEvent,
} from '@gpu-service/event-parser'
import type { Taken } from '../artifact-files.ts'
import { labelArtifact } from '../artifact-label.ts'
import type { TaskEventBody } from '../event.ts'
import type { ArtifactId } from '../ids.ts'
import type { OutputStream } from '../runner.ts'
import type { WorkerMode } from '../spec.ts'
import { LAST_WORDS_LINE_LENGTH, LAST_WORDS_LINES } from './recollection.ts'
import { bodyOf, startOf, type ArtifactEvent, type Transcript } from './transcript.ts'

const MAX_STDERR_LINE_BYTES = 16 * 1024
/** What a worker may say outside of tasks that is kept. */
const MAX_WORKER_LOG_CHARACTERS = 16 * 1024 * 1024

/** Where what a worker says of itself goes. */
export interface WorkerSink {
  /** What belongs to no task. */
  write(body: TaskEventBody): void
  /** A session worker can take its first task. */
  onReady(): void
  /** How far its loading is, 0 to 1. */
  onLoading(progress: number): void
  /** It told of the memory that it uses on each of its GPUs, in MB. */
  onMemory(memoryMb: number): void
  /** A session worker spoke of a run that it was never given; `isFinish`: it said that it has ended. */
  onForeign(runId: string, isFinish: boolean): void
  /** A session worker has said the finish of this attempt, and its event is written. */
  onFinished(run: Transcript): void
}

export interface InterpreterOptions {
  readonly mode: WorkerMode
  /** The attempts that the worker works on, by run id, as they are at the moment. */
  readonly runs: ReadonlyMap<string, { readonly transcript: Transcript }>
  /** Those of them that the worker has been given: only they can be meant by what bears no name. */
  readonly handed: ReadonlyMap<string, Transcript>
  readonly sink: WorkerSink
  readonly newArtifactId: () => ArtifactId
  /** Takes the bytes of an artifact of a run; what it throws is the service's trouble, not the worker's. */
  readonly takeArtifact: (runId: string, id: ArtifactId, source: ArtifactEvent['source']) => Promise<Taken>
  /** Whether the run was one of this worker's, and has ended. */
  readonly isPast: (runId: string) => boolean
  /** A session worker has said before that it is ready. */
  readonly isReady: boolean
  /** What must be done before an attempt can end, and what is said behind its finish waits for; `null`: nothing. */
  readonly beforeFinish: () => (() => Promise<void>) | null
  /** What hides the worker's secrets, as it is at the moment; `null`: it has none. */
  readonly redactor: () => Redactor | null
  /** The worker's own count of its events so far: 0 at its first byte; `null` where it is not known. */
  readonly eventSeq: number | null
}

/**
 * Makes a worker's output into the events of its tasks and of itself, by the protocol: whose an event is, what is a fault, what has been
 * lost.
 *
 * A one-off worker's output belongs to its one task. Of a session worker an event belongs to the task that it names; without a name to the
 * one that it works on, to the worker's own log where there is none. What it says before it is ready goes to its log and to the tasks that
 * wait for it.
 */
export class Interpreter {
  readonly #options: InterpreterOptions
  readonly #parser: EventParser
  readonly #stderr: LineReader
  #ready: boolean
  #lastSeq: number | null
  /** Lines that could not be read and may each have held one of the worker's counted events. */
  #unreadable = 0
  /** Whether the worker counts its events; `null`: it has said none yet. */
  #counts: boolean | null
  /** Output may have been lost, as was told before that was known. */
  #suspicion: string | null = null
  /** The last suspicion that was told. */
  #suspected: string | null = null
  #workerLogCharacters = 0
  readonly #lastWords: string[] = []
  /** What takes its time, such as an artifact whose file is to be taken, and all that was said behind it, in order. */
  #deferred: (() => Promise<void> | void)[] = []

  constructor(options: InterpreterOptions) {
    this.#options = options
    this.#ready = options.isReady
    this.#lastSeq = options.eventSeq
    this.#counts = options.eventSeq === 0 ? null : options.eventSeq !== null
    const { redactor } = options
    const sink: EventSink = {
      event: (event, runId, seq) => {
        this.#learnCounting(seq)
        if (seq !== null) this.#checkSeq(seq)
        this.#onEvent(event, runId)
      },
      log: (line) => {
        this.#inOrder(() => {
          this.#say({ type: 'log', stream: 'STDOUT', level: null, line })
        })
      },
      fault: (fault, runId, seq) => {
        this.#onFault(fault, runId, seq)
      },
    }
    this.#parser = createEventParser(sink, { redactor })
    this.#stderr = createLineReader(
      {
        line: (text, truncated) => {
          this.#onStderr(text, truncated)
        },
      },
      { maxLineBytes: MAX_STDERR_LINE_BYTES, redactor },
    )
  }

  /** The worker's own count of its events by now; `null` where it does not count. */
  get eventSeq(): number | null {
    return this.#lastSeq === 0 ? null : this.#lastSeq
  }

  /** The last lines that a session worker wrote on stderr while no single task could be told to be theirs, oldest first. */
  get lastWords(): readonly string[] {
    return this.#lastWords
  }

  /** Takes the next bytes of one stream. `bytes` is read during the call only, artifacts are taken before it resolves. */
  feed(stream: OutputStream, bytes: Uint8Array): Promise<void> | void {
    if (this.#isUnwanted) return
    if (stream === 'stderr') {
      this.#stderr.feed(bytes)
      return
    }
    this.#parser.feed(bytes)
    if (this.#deferred.length > 0) return this.#takeDeferred()
  }

  /** Its one task has said too much and is being stopped: until it is gone a flood is not worth a look. */
  get #isUnwanted(): boolean {
    const { mode, handed } = this.#options
    const [first] = handed.values()
    return mode === 'ONE_OFF' && first?.isCutOff === true
  }

  /** Both streams are over: a last line without a newline counts. */
  async end(): Promise<void> {
    this.#parser.end()
    this.#learnCounting(null)
    await this.#takeDeferred()
    this.#stderr.end()
  }

  /**
   * Some output can never be read any more: no task of the worker can be complete. Where that is not certain, the worker's own count of its
   * events is believed, if it has one.
   */
  gap(detail: string, certain: boolean): void {
    if (certain) this.#tellAll({ type: 'gap', detail })
    else if (this.#counts === null) this.#suspicion = detail
    else this.#suspect(detail, this.#counts)
  }

  /** Something has happened to the worker that its tasks should know of, and, where it `mayLack` output, that their ends may be lost. */
  notice(detail: string, mayLack: boolean): void {
    this.#tellAll(warning(detail))
    if (mayLack) for (const { transcript } of this.#options.runs.values()) transcript.doubt()
  }

  /** A suspicion that lasts is told each task once. */
  #suspect(detail: string, counts: boolean): void {
    const gap = { type: 'gap', detail } as const
    const harmless = warning(
      counts ? `${detail} The worker numbers its events: if any is missing, that is told.` : detail,
    )
    const { runs } = this.#options
    for (const { transcript } of runs.values()) {
      // Nothing counts after the finish.
      const isHarmless = counts || transcript.finish !== null
      if (transcript.suspect()) transcript.write(isHarmless ? harmless : gap)
    }
    if (runs.size === 0 && this.#suspected !== detail) this.#writeWorker(counts ? harmless : gap)
    this.#suspected = detail
  }

  /** Tells every task, or, where the worker has none, its own log. */
  #tellAll(body: TaskEventBody): void {
    const { runs } = this.#options
    for (const { transcript } of runs.values()) transcript.write(body)
    if (runs.size === 0) this.#writeWorker(body)
  }

  #onEvent(event: WorkerEvent, runId: string | null): void {
    this.#inOrder(() => {
      this.#noteWorkerEvent(event, runId)
    })
    if (event.type !== 'artifact') {
      const before = event.type === 'finish' ? this.#options.beforeFinish() : null
      if (before !== null) this.#deferred.push(before)
      this.#inOrder(() => {
        this.#route(event, runId)
      })
      return
    }
    this.#deferred.push(() => this.#takeArtifact(event, runId))
  }

  #noteWorkerEvent(event: WorkerEvent, runId: string | null): void {
    const { sink } = this.#options
    if (event.type === 'usage') {
      const memoryMb = event.values['gpu_memory_mb'] ?? 0
      if (memoryMb > 0) sink.onMemory(memoryMb)
    }
    if (event.type === 'worker' && runId === null && !this.#ready && event.progress !== null)
      sink.onLoading(event.progress)
  }

  #route(event: Exclude<WorkerEvent, ArtifactEvent>, runId: string | null): void {
    const { mode, sink } = this.#options
    if (mode === 'SESSION' && runId === null && event.type === 'worker' && event.status === 'ready') {
      this.#say(event)
      if (this.#ready) return
      this.#ready = true
      sink.onReady()
      return
    }
    const run = this.#runOf(event, runId)
    if (run === null) return
    if (run === 'nobody') {
      this.#say(bodyOf(event))
      return
    }
    run.signOfLife()
    run.take(event)
    if (mode === 'SESSION' && event.type === 'finish') sink.onFinished(run)
  }

  /** The run that an event belongs to; `nobody`: the worker's own; `null`: it has been told as a fault. */
  #runOf(event: WorkerEvent, runId: string | null): Transcript | 'nobody' | null {
    const { mode, runs, handed, sink, isPast } = this.#options
    const [first, second] = handed.values()
    if (runId !== null) {
      const run = runs.get(runId)?.transcript
      if (run !== undefined) return run
      const own = [...runs.keys()].map((id) => `"${id}"`).join(', ') || 'none'
      const detail = isPast(runId)
        ? `The worker said this of ${JSON.stringify(runId.slice(0, 200))} after its finish event.`
        : `The event's task_id is ${JSON.stringify(runId.slice(0, 200))}, but the worker's task is ${own}.`
      const kind = isPast(runId) ? 'AFTER_FINISH' : 'FOREIGN_TASK'
      this.#fault({ type: 'fault', kind, line: startOf(event), detail })
      if (mode === 'SESSION' && !isPast(runId)) sink.onForeign(runId, event.type === 'finish')
      return null
    }
    if (first === undefined || (mode === 'SESSION' && !this.#ready)) return 'nobody'
    if (second === undefined) return first
    const detail = `The worker works on ${handed.size} tasks, and the event has no task_id.`
    for (const run of handed.values())
      run.write({ type: 'fault', kind: 'AMBIGUOUS_TASK', line: startOf(event), detail })
    return null
  }

  #onFault(fault: ProtocolFault, runId: string | null, seq: number | null): void {
    if (seq !== null) this.#checkSeq(seq)
    else if (fault.kind === 'INVALID_JSON' || fault.kind === 'TOO_DEEP' || fault.kind === 'LINE_TOO_LONG')
      this.#unreadable++
    this.#inOrder(() => {
      const run = runId === null ? undefined : this.#options.runs.get(runId)?.transcript
      if (run === undefined) this.#fault({ type: 'fault', ...fault })
      else run.write({ type: 'fault', ...fault })
    })
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
    this.#inOrder(() => {
      if (this.#options.mode === 'ONE_OFF') for (const run of this.#options.handed.values()) run.signOfLife()
      this.gap(detail, true)
    })
  }

  #learnCounting(seq: number | null): void {
    if (this.#counts !== null) return
    this.#counts = seq !== null
    const suspicion = this.#suspicion
    if (suspicion === null) return
    const counts = this.#counts
    this.#inOrder(() => {
      this.#suspect(suspicion, counts)
    })
  }

  #onStderr(text: string, truncated: boolean): void {
    const line = truncated ? `${text} [cut: the line is longer than ${MAX_STDERR_LINE_BYTES} bytes]` : text
    this.#say({ type: 'log', stream: 'STDERR', level: null, line })
  }

  /** What has no task's name on it: the one task's, or the worker's own. */
  #say(body: TaskEventBody): void {
    const { mode, runs, handed } = this.#options
    const [first, second] = handed.values()
    const isComingUp = mode === 'SESSION' && !this.#ready
    if (mode === 'ONE_OFF') {
      if (body.type === 'log' && body.stream === 'STDERR') first?.stderr(body.line)
      else {
        first?.signOfLife()
        first?.write(body)
      }
    } else if (isComingUp || isReadyEvent(body) || first === undefined || second !== undefined) {
      this.#writeWorker(body)
      // Those who wait for it see what it is at.
      if (isComingUp) for (const { transcript } of runs.values()) transcript.write(body)
    } else if (body.type === 'log' && body.stream === 'STDERR') first.stderr(body.line)
    else first.write(body)
  }

  #fault(body: TaskEventBody): void {
    const { mode, handed } = this.#options
    const [first] = handed.values()
    if (mode === 'ONE_OFF') {
      first?.signOfLife()
      first?.write(body)
    } else this.#writeWorker(body)
  }

  #writeWorker(body: TaskEventBody): void {
    if (body.type === 'log' && body.stream === 'STDERR') {
      this.#lastWords.push(body.line.slice(0, LAST_WORDS_LINE_LENGTH))
      if (this.#lastWords.length > LAST_WORDS_LINES) this.#lastWords.shift()
    }
    if (this.#workerLogCharacters > MAX_WORKER_LOG_CHARACTERS) return
    this.#workerLogCharacters += JSON.stringify(body).length
    const cut = `[cut: more than ${MAX_WORKER_LOG_CHARACTERS} characters outside of tasks; the rest is not kept]`
    this.#options.sink.write(
      this.#workerLogCharacters > MAX_WORKER_LOG_CHARACTERS
        ? { type: 'log', stream: 'STDOUT', level: 'warning', line: cut }
        : body,
    )
  }

  #inOrder(action: () => void): void {
    if (this.#deferred.length > 0) this.#deferred.push(action)
    else action()
  }

  /** Artifacts' files are taken one after the other, and what was said behind them waits. */
  async #takeDeferred(): Promise<void> {
    for (const action of this.#deferred) await action()
    this.#deferred = []
  }

  async #takeArtifact(event: ArtifactEvent, runId: string | null): Promise<void> {
    const run = this.#runOf(event, runId)
    if (run === null) return
    if (run === 'nobody') {
      const detail = 'An artifact belongs to a task, and the worker has none.'
      this.#writeWorker({ type: 'fault', kind: 'INVALID_ARTIFACT', line: startOf(event), detail })
      return
    }
    run.signOfLife()
    if (run.refuseAfterFinish(event)) return
    const { newArtifactId, takeArtifact, handed } = this.#options
    const id = newArtifactId()
    const { source, name, mediaType } = event
    const owner = runId ?? [...handed.keys()][0] ?? ''
    const taken = await takeArtifact(owner, id, source)
    if (taken.status === 'refused') {
      run.write({ type: 'fault', kind: 'INVALID_ARTIFACT', line: startOf(event), detail: taken.message })
      return
    }
    const path = source.kind === 'path' ? source.path : null
    const label = labelArtifact({ name, mediaType, path })
    run.takeArtifact({ id, ...label, bytes: taken.bytes, sha256: taken.sha256 })
  }
}

/** The service's own word; it is none of the worker's last ones, which are taken from stderr. */
function warning(line: string): TaskEventBody {
  return { type: 'log', stream: 'STDOUT', level: 'warning', line }
}

function isReadyEvent(body: TaskEventBody): boolean {
  return body.type === 'worker' && body.status === 'ready'
}
