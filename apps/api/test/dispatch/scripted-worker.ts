import {
  RunnerError,
  type Clock,
  type OutputCursor,
  type OutputStream,
  type RunOrder,
  type WorkerExit,
  type WorkerInput,
  type WorkerName,
  type WorkerOrder,
  type WorkerOutput,
  type WorkerState,
} from '@gpu-service/tasks'
import { Deferred } from './deferred.ts'

/** One event as a worker prints it. */
export type Said = Readonly<Record<string, unknown>> & { readonly event: string }

/** A piece of text, of a run or without a name. */
export function delta(text: string, run?: Pick<RunOrder, 'runId'>): Said {
  return { event: 'text_delta', delta: text, ...(run !== undefined && { task_id: run.runId }) }
}

export type Command =
  | { readonly kind: 'run'; readonly order: RunOrder }
  | { readonly kind: 'cancel'; readonly runId: string }
  | { readonly kind: 'shutdown' }

/** A stretch of one stream, by where it begins in it. */
interface Chunk {
  readonly stream: OutputStream
  readonly from: number
  readonly bytes: Uint8Array
  readonly at: number
}

/** The runner has reason to say that something of the output is or may be missing. */
type Gap = Extract<WorkerOutput, { readonly kind: 'gap' }>

const NEWLINE = 10
const encoder = new TextEncoder()

/** A worker whose words and deeds are the test's. */
export class ScriptedWorker {
  readonly order: WorkerOrder
  readonly startedAt: number
  readonly containerId: string
  /** What came in on its stdin, in order. */
  readonly commands: Command[] = []
  /** The grace periods with which it was told to stop. */
  readonly stops: number[] = []
  /** Thrown for the next commands, one after the other, instead of taking them. */
  readonly refusals: RunnerError[] = []
  /** SIGTERM does not end it: it is killed when its grace is over. */
  ignoresStop = false
  /** It ends by itself when it is asked to shut down. */
  heedsShutdown = true
  /** It says `finish cancelled` of a task that it is asked to cancel. */
  heedsCancel = true
  /** Called with each task that it is handed. */
  onRun: ((order: RunOrder) => void) | null = null
  /** Its stdin opens when this resolves. */
  opening: Promise<unknown> = Promise.resolve()
  isLost = false
  readers = 0
  openInputs = 0
  readonly #output: (Chunk | Gap)[] = []
  readonly #length: Record<OutputStream, number> = { stdout: 0, stderr: 0 }
  readonly #clock: Clock
  #exit: WorkerExit | null = null
  readonly #ended = new Deferred<undefined>()
  readonly #wakes = new Set<() => void>()

  constructor(order: WorkerOrder, clock: Clock) {
    this.order = order
    this.#clock = clock
    this.startedAt = clock.now()
    this.containerId = `container-of-${order.name}`
  }

  get name(): WorkerName {
    return this.order.name
  }

  get isRunning(): boolean {
    return this.#exit === null && !this.isLost
  }

  get state(): WorkerState {
    const { containerId, startedAt } = this
    return this.#exit === null
      ? { phase: 'running', containerId, startedAt }
      : { phase: 'exited', containerId, exit: this.#exit }
  }

  /** The tasks that it was handed, in order. */
  get runs(): readonly RunOrder[] {
    return this.commands.flatMap((command) => (command.kind === 'run' ? [command.order] : []))
  }

  /** Prints the events, all of them in one stretch. */
  say(...events: readonly Said[]): void {
    this.print(events.map((event) => `${JSON.stringify(event)}\n`).join(''))
  }

  ready(): void {
    this.say({ event: 'worker', status: 'ready' })
  }

  /** The first word of a run, and with it that it was taken. */
  take({ runId }: RunOrder): void {
    this.say({ event: 'worker', status: 'working', task_id: runId })
  }

  finish({ runId }: RunOrder, status = 'completed'): void {
    this.say({ event: 'finish', status, task_id: runId })
  }

  /** Prints what may be anything, in one stretch. */
  print(text: string, stream: OutputStream = 'stdout'): void {
    const bytes = encoder.encode(text)
    this.#output.push({ stream, from: this.#length[stream], bytes, at: this.#clock.now() })
    this.#length[stream] += bytes.length
    this.#wake()
  }

  /** Some of what it has printed may be missing, and is where that is certain. */
  gap(certain: boolean): void {
    this.#output.push({ kind: 'gap', detail: 'The engine was killed.', certain })
    this.#wake()
  }

  /** Its main process ends. */
  exit(exitCode: number | null = 0, oomKilled = false): void {
    this.#exit ??= { exitCode, oomKilled, finishedAt: this.#clock.now() }
    this.#ended.resolve(undefined)
    this.#wake()
  }

  /** Nothing is known of it any more. */
  lose(): void {
    this.isLost = true
    this.#ended.resolve(undefined)
    this.#wake()
  }

  /** Its output, from the cursor to its end. */
  async *read(after: OutputCursor, signal: AbortSignal): AsyncGenerator<WorkerOutput, void> {
    const read = { stdout: Number(after.stdout), stderr: Number(after.stderr) }
    const lines = { ...read }
    this.readers++
    try {
      for (let next = 0; !signal.aborted;) {
        const chunk = this.#output[next]
        if (chunk !== undefined) {
          next++
          if ('kind' in chunk) {
            yield chunk
            continue
          }
          const { stream, from, at } = chunk
          const bytes = chunk.bytes.subarray(Math.max(0, read[stream] - from))
          if (bytes.length === 0) continue
          const begin = Math.max(from, read[stream])
          const newline = bytes.lastIndexOf(NEWLINE)
          if (newline >= 0) lines[stream] = begin + newline + 1
          // Lent, as the port has it.
          const lent = bytes.slice()
          yield { kind: 'data', stream, bytes: lent, cursor: String(lines[stream]), at }
          lent.fill(0)
        } else if (this.isLost) {
          yield { kind: 'lost', detail: 'It was removed by hand.' }
          return
        } else if (this.#exit !== null) {
          yield { kind: 'end', exit: this.#exit, cause: null }
          return
        } else await this.#woken(signal)
      }
    } finally {
      this.readers--
    }
  }

  async openInput(): Promise<WorkerInput> {
    await this.opening
    this.openInputs++
    let isOpen = true
    const detach = (): void => {
      if (isOpen) this.openInputs--
      isOpen = false
    }
    const send = async (command: Command): Promise<void> => {
      try {
        await this.#receive(command)
      } catch (error) {
        if (error instanceof RunnerError && error.code === 'INPUT_CLOSED') detach()
        throw error
      }
    }
    return {
      run: (order) => send({ kind: 'run', order }),
      cancel: (runId) => send({ kind: 'cancel', runId }),
      shutdown: () => send({ kind: 'shutdown' }),
      detach,
    }
  }

  /** SIGTERM, and SIGKILL after the grace; resolves when it runs no more. */
  async stop(graceMs: number): Promise<void> {
    this.stops.push(graceMs)
    if (!this.isRunning) return
    if (!this.ignoresStop) {
      this.exit(143)
      return
    }
    const killing = this.#clock.after(graceMs, () => {
      this.exit(137)
    })
    await this.#ended.promise
    killing[Symbol.dispose]()
  }

  #receive(command: Command): Promise<void> {
    const refusal = this.refusals.shift()
    if (refusal !== undefined) return Promise.reject(refusal)
    if (!this.isRunning) return Promise.reject(new RunnerError('INPUT_CLOSED', 'Its stdin is closed.'))
    this.commands.push(command)
    switch (command.kind) {
      case 'run':
        this.onRun?.(command.order)
        break
      case 'cancel':
        if (this.heedsCancel) this.say({ event: 'finish', status: 'cancelled', task_id: command.runId })
        break
      case 'shutdown':
        if (this.heedsShutdown) this.exit(0)
        break
    }
    return Promise.resolve()
  }

  #woken(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake)
        this.#wakes.delete(wake)
        resolve()
      }
      this.#wakes.add(wake)
      signal.addEventListener('abort', wake, { once: true })
    })
  }

  #wake(): void {
    for (const wake of [...this.#wakes]) wake()
  }
}
