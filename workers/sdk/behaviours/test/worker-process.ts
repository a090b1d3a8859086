import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { createEventParser, type WorkerEvent } from '@gpu-service/event-parser'

/** Without it the tests of workers in Python are skipped, which the run says aloud. */
export const noPython = spawnSync('python3', ['--version']).status !== 0

/** An event with the task that it names. */
export type Said = WorkerEvent & { readonly taskId: string | null }

export type Command = Readonly<Record<string, unknown>>

/** A worker as a process, whose output is read as the service reads it. */
export class WorkerProcess {
  readonly child: ChildProcessWithoutNullStreams
  readonly said: Said[] = []
  /** Lines that are no events, and lines that break a rule. */
  readonly strays: string[] = []
  readonly seqs: (number | null)[] = []
  stderr = ''
  readonly #closed: Promise<void>
  #isClosed = false
  #wake: () => void = () => undefined

  constructor(
    [program = '', ...args]: readonly string[],
    options: { readonly cwd: string; readonly env: Readonly<Record<string, string>> },
  ) {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: { PATH: process.env['PATH'], ...options.env },
    })
    this.child = child
    child.stdin.on('error', () => undefined)
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
      this.#wake()
    })
    const parser = createEventParser({
      event: (event, taskId, seq) => {
        this.said.push({ ...event, taskId })
        this.seqs.push(seq)
      },
      log: (line) => this.strays.push(line),
      fault: ({ detail, line }) => this.strays.push(`${detail}: ${line}`),
    })
    child.stdout.on('data', (bytes: Buffer) => {
      parser.feed(bytes)
      this.#wake()
    })
    this.#closed = new Promise((resolve) => {
      child.on('close', () => {
        parser.end()
        this.#isClosed = true
        this.#wake()
        resolve()
      })
    })
  }

  send(...commands: readonly (Command | string)[]): void {
    const lines = commands.map((command) => (typeof command === 'string' ? command : JSON.stringify(command)))
    this.child.stdin.write(lines.map((line) => `${line}\n`).join(''))
  }

  run(taskId: string, input: unknown, outputDir?: string): void {
    this.send({ command: 'run', task_id: taskId, attempt: 1, input, output_dir: outputDir })
  }

  until(holds: (event: Said) => boolean): Promise<Said> {
    return this.#find(() => this.said.find(holds))
  }

  async untilStderr(text: string): Promise<void> {
    await this.#find(() => (this.stderr.includes(text) ? text : undefined))
  }

  async #find<T>(look: () => T | undefined): Promise<T> {
    for (;;) {
      const found = look()
      if (found !== undefined) return found
      if (this.#isClosed) throw new Error(`the worker has ended: ${this.stderr}`)
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  ready(): Promise<Said> {
    return this.until((event) => event.type === 'worker' && event.status === 'ready')
  }

  finished(taskId: string | null): Promise<Said> {
    return this.until((event) => event.type === 'finish' && event.taskId === taskId)
  }

  /** What was said of a task, without its name. */
  of(task: string | null): WorkerEvent[] {
    return this.said.flatMap(({ taskId, ...event }) => (taskId === task ? [event] : []))
  }

  /** Its exit code, or the signal that ended it. */
  async ended(): Promise<number | string | null> {
    await this.#closed
    return this.child.exitCode ?? this.child.signalCode
  }
}
