import { createRedactor, type Redactor } from '@gpu-service/event-parser'
import type { ArtifactSource, Taken } from '../artifact-files.ts'
import type { TaskEvent } from '../event.ts'
import type { ArtifactId } from '../ids.ts'
import { insist } from '../insist.ts'
import type { OutputStream, WorkerExit } from '../runner.ts'
import type { Secret } from '../secrets.ts'
import type { Worker } from '../worker.ts'
import type { EventWriter } from './event-writer.ts'
import { Interpreter, type WorkerSink } from './interpreter.ts'
import type { AttemptEnd } from './outcome.ts'
import type { Run } from './run.ts'
import type { ArtifactEvent, Transcript } from './transcript.ts'
import type { WorkerContext } from './worker-life.ts'

/** How a worker's output ended; `detached`: the service let go of the worker, which goes on. */
export type OutputEnd =
  Extract<AttemptEnd['end'], { kind: 'exited' | 'lost' }> | { readonly kind: 'detached' }

export const DETACHED = { kind: 'detached' } as const satisfies OutputEnd

export interface ReadingOptions {
  readonly context: WorkerContext
  /** As it is when its reading begins. */
  readonly worker: Worker
  /** Its row has just been written: nothing of the worker can be there yet. */
  readonly isFresh: boolean
  readonly writer: EventWriter
  /** What it works on, by run id, as that is at the moment. */
  readonly runs: ReadonlyMap<string, Run>
  /** Those of them that it has got. */
  readonly handed: ReadonlyMap<string, Transcript>
  /** Whether the run was one of this worker's, and has ended since its reading began. */
  readonly isPast: (runId: string) => boolean
  readonly sink: Omit<WorkerSink, 'write' | 'onReady'> & {
    /** A session worker has said at `at` that it can take its first task, and that is written, not stored. */
    onReady(at: number): void
    /** It has exited, and all that it said has been read. */
    onExit(exit: WorkerExit): void
    /** So many bytes more have been read. */
    onBytes(bytes: number): void
  }
}

/** Reads a worker's output from where it was left to its end, and makes it into stored events. */
export class Reading {
  readonly #options: ReadingOptions
  readonly #interpreter: Interpreter
  /** What an earlier process began, while the events that it stored of it have not been read. */
  readonly #unread: Set<Run>
  /** Hides the worker's secrets; read when its reading begins. */
  #redactor: Redactor | null = null
  #recalling: Promise<void> | null = null
  #becameReady = false
  #isBehind = false

  constructor(options: ReadingOptions) {
    const { context, worker, isFresh, writer, runs, handed, sink } = options
    this.#options = options
    this.#unread = new Set(isFresh ? [] : runs.values())
    this.#interpreter = new Interpreter({
      mode: worker.mode,
      ...{ runs, handed, newArtifactId: context.newArtifactId },
      takeArtifact: (runId, id, source) => this.#takeArtifact(runId, id, source),
      // An earlier process knew which runs the worker has had; nothing is made of it here.
      isPast: (runId) => options.isPast(runId) || !isFresh,
      isReady: worker.readyAt !== null,
      beforeFinish: () => (this.#unread.size === 0 ? null : () => this.recall()),
      redactor: () => this.#redactor,
      eventSeq: worker.eventSeq ?? (worker.cursor.stdout === '' ? 0 : null),
      sink: {
        ...sink,
        write: (body) => {
          writer.writeWorker(body)
        },
        onReady: () => {
          this.#becameReady = true
        },
      },
    })
  }

  /** What was read is not dealt with yet, and nothing more is read meanwhile: a worker's silence is not its own. */
  get isBehind(): boolean {
    return this.#isBehind
  }

  /** The last lines that a session worker wrote on stderr while no single task could be told to be theirs, oldest first. */
  get lastWords(): readonly string[] {
    return this.#interpreter.lastWords
  }

  /** To be called once. What the end of the output adds is stored with what is written then, and `close` ends it. */
  async read(): Promise<OutputEnd> {
    const { context, worker, writer, sink } = this.#options
    const { runner, detach, clock } = context
    const signal = AbortSignal.any([detach, writer.broken])
    if (worker.spec.secrets.length > 0) {
      const given = await this.#insist("read the worker's secrets", signal, () => runner.secrets(worker.name))
      // What it says must not be read without them.
      if (given === null) return DETACHED
      this.#redactor = redactorOf(given.value)
    }
    for await (const item of runner.output(worker.name, { after: writer.cursor, signal })) {
      switch (item.kind) {
        case 'data': {
          writer.beginStretch(item.at)
          await this.#dealing(this.#interpreter.feed(item.stream, item.bytes))
          // Something of it could not be kept: the next start reads it again.
          if (detach.aborted) return DETACHED
          if (this.#becameReady) {
            this.#becameReady = false
            sink.onReady(item.at)
          }
          const cursor: Record<OutputStream, string> = { ...writer.cursor }
          cursor[item.stream] = item.cursor
          writer.endStretch(cursor, item.bytes.length, this.#interpreter.eventSeq)
          sink.onBytes(item.bytes.length)
          await this.#dealing(writer.ready())
          break
        }
        case 'gap':
          writer.aside(clock.now(), () => {
            this.#interpreter.gap(item.detail, item.certain)
          })
          break
        case 'notice':
          writer.aside(clock.now(), () => {
            this.#interpreter.notice(item.detail, item.mayLack)
          })
          break
        case 'end':
          sink.onExit(item.exit)
          await this.#endAt(item.exit.finishedAt)
          return { kind: 'exited', exit: item.exit, cause: item.cause }
        case 'lost':
          await this.#endAt(clock.now())
          return { kind: 'lost', detail: item.detail }
      }
    }
    return DETACHED
  }

  /** Ends what the end of the output has left open. */
  close(): void {
    const { writer } = this.#options
    writer.endStretch(writer.cursor, 0, this.#interpreter.eventSeq)
  }

  /**
   * Reads what earlier processes have stored of its attempts: only their ends need it, and the worker is read on meanwhile.
   * @throws the reason of `detach`, where that comes first.
   */
  recall(): Promise<void> {
    this.#recalling ??= this.#recallUnread().finally(() => {
      this.#recalling = null
    })
    return this.#recalling
  }

  async #recallUnread(): Promise<void> {
    const { store, detach } = this.#options.context
    for (const run of this.#unread) {
      const { id, attempt, lastSeq } = run.task
      for (let after = 0; after < lastSeq;) {
        const from = after
        const read = (): Promise<readonly TaskEvent[]> => store.events(id, from, lastSeq - from)
        const found = await this.#insist('read the events', detach, read)
        detach.throwIfAborted()
        for (const event of found?.value ?? [])
          if (event.attempt === attempt) run.transcript.recall(event.body)
        after = found?.value.at(-1)?.seq ?? lastSeq
      }
      this.#unread.delete(run)
    }
  }

  /** The stretch stays open: a last line without a newline moves no cursor, so only the settlement may store what it says. */
  async #endAt(at: number): Promise<void> {
    const { writer } = this.#options
    writer.beginStretch(Math.max(writer.at, at))
    await this.#interpreter.end()
  }

  async #takeArtifact(runId: string, id: ArtifactId, source: ArtifactEvent['source']): Promise<Taken> {
    const { context, worker, writer, runs } = this.#options
    const { artifactFiles, runner, detach } = context
    const folder = runner.outputFolder(worker.name, runId)
    const from: ArtifactSource = source.kind === 'path' ? { kind: 'file', folder, path: source.path } : source
    const left = AbortSignal.any([detach, writer.broken])
    const unwanted = runs.get(runId)?.unwanted ?? left
    const take = (): Promise<Taken> => artifactFiles.take(id, from)
    // A disk that is full or fails is waited for, as long as the task may run: it is not complete without what it has made.
    const kept = await this.#insist('keep an artifact', AbortSignal.any([left, unwanted]), take)
    if (kept !== null) return kept.value
    // What it leaves while it is being stopped, a checkpoint perhaps, is kept as well, if that can be done at once.
    const last = left.aborted ? null : await take().catch(() => null)
    return last ?? { status: 'refused', message: 'The service could not keep the file in time.' }
  }

  async #dealing(work: Promise<void> | void): Promise<void> {
    if (work === undefined) return
    this.#isBehind = true
    try {
      await work
    } finally {
      this.#isBehind = false
    }
  }

  #insist<T>(
    what: string,
    signal: AbortSignal,
    action: () => Promise<T>,
  ): Promise<{ readonly value: T } | null> {
    const { context, worker } = this.#options
    return insist(context, what, { workerId: worker.id }, signal, action)
  }
}

function redactorOf(secrets: readonly Secret[]): Redactor | null {
  return createRedactor(
    secrets.map((secret) => ({ name: secret.name, text: Buffer.from(secret.reveal()).toString() })),
  )
}
