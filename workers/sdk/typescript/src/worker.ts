import { readFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { setImmediate } from 'node:timers/promises'
import { readCommands } from './commands.ts'
import { createEvents } from './events.ts'
import { failureOf, InvalidInput, isCancellation } from './failure.ts'
import { readFiles } from './files.ts'
import type { JsonValue } from './json.ts'
import { note } from './note.ts'
import { Task, type TaskOptions } from './task.ts'

/** Tells how far loading has come: from 0 to 1. */
export type ReportLoading = (share: number, message?: string) => void

/**
 * What a task comes to. A text is the whole output text, other JSON the result; the pieces of a stream are those of the output text, and
 * what a generator returns at its end is like what a function returns.
 */
export type Output =
  | AsyncIterator<string, unknown>
  | Iterator<string, unknown>
  | AsyncIterable<string>
  | Promise<unknown>
  | JsonValue
  | undefined

export interface WorkerDefinition<Model> {
  /** Called once, before the first task. What it gives is `task.model`. */
  readonly load?: (progress: ReportLoading) => Promise<Model> | Model
  /** Does a task. What it throws fails the task, and the worker goes on. */
  readonly run: (task: Task<Model>) => Output
  /** How many tasks run at a time; what comes beyond that waits. 1 unless told. */
  readonly slots?: number
}

/** One task without a name is what a worker does that was started by hand. */
type TaskKey = string | null

const BY_SIGNAL = 128 + constants.signals.SIGTERM

/** Serves one task or many, as the environment says; gives the exit code. */
export async function runWorker<Model>(
  { load, run, slots = 1 }: WorkerDefinition<Model>,
  descriptor: number,
): Promise<number> {
  const running = new Map<TaskKey, { readonly task: Task<Model>; readonly done: Promise<void> }>()
  const waiting = new Map<TaskKey, Task<Model>>()
  const stopping = new AbortController()
  const events = createEvents(descriptor, stop)
  const { TASK_ID, INPUT_FILE, TASK_INPUT, OUTPUT_DIR } = process.env
  const isOneOff = [TASK_ID, INPUT_FILE, TASK_INPUT].some(Boolean)
  const ownTask = TASK_ID ?? null
  let isLoading = true
  let hasFailed = false

  heedSignals()
  events.emit('connection', null, { status: 'connected' })
  const code = isOneOff ? await serveOne() : await serveAll()
  return events.isBroken ? 1 : code

  async function serveOne(): Promise<number> {
    try {
      const given = await readTask()
      const model = await loaded()
      start(new Task(events, { ...given, id: ownTask, outputDir: OUTPUT_DIR ?? null, model }))
    } catch (error) {
      events.emit('finish', ownTask, failureOf(error))
      return 1
    }
    await workOff()
    return hasFailed ? 1 : 0
  }

  async function serveAll(): Promise<number> {
    let model: Model
    try {
      model = await loaded()
    } catch (error) {
      const { message } = failureOf(error).error
      events.emit('log', null, { level: 'error', message: `The model could not be loaded: ${message}` })
      return 1
    }
    events.emit('worker', null, { status: 'ready' })
    for await (const command of readCommands(process.stdin, stopping.signal)) {
      if (command.kind === 'cancel') cancel(command.taskId)
      else if (command.kind === 'shutdown') stop()
      else {
        const { taskId: id } = command
        accept(id, new Task(events, { ...command, id, model }))
      }
    }
    await workOff()
    return 0
  }

  async function loaded(): Promise<Model> {
    const progress: ReportLoading = (share, message) => {
      const progress = Math.min(Math.max(share, 0), 1)
      events.emit('worker', ownTask, { status: 'loading', progress, message })
    }
    if (load) progress(0)
    // Where there is nothing to load, `Model` is `undefined`.
    const model = (await load?.(progress)) as Model
    isLoading = false
    return model
  }

  function accept(id: string, task: Task<Model>): void {
    if (running.has(id) || waiting.has(id)) note(`the task ${id} is here already`)
    else if (running.size < slots) start(task)
    else {
      // The acknowledgement: whoever sent the task waits for it.
      task.emit('worker', { status: 'waiting', message: `All ${slots} slots are taken` })
      waiting.set(id, task)
    }
  }

  function start(task: Task<Model>): void {
    running.set(task.id, { task, done: perform(task) })
  }

  async function perform(task: Task<Model>): Promise<void> {
    let finish: { readonly status: string } = { status: 'completed' }
    try {
      task.emit('worker', { status: 'working' })
      const value = await valueOf(task)
      if (typeof value === 'string') task.text(value)
      else if (value !== undefined && value !== null) task.result(value)
      // One that has returned early because it is cancelled is not completed.
      task.signal.throwIfAborted()
    } catch (error) {
      finish =
        task.signal.aborted && isCancellation(error, task.signal) ? { status: 'cancelled' } : failureOf(error)
    }
    hasFailed ||= finish.status === 'failed'
    task.finish(finish)
    // What follows must find the task among those that run, also where nothing of it was waited for.
    await setImmediate()
    running.delete(task.id)
    for (const [id, next] of waiting) {
      if (running.size >= slots) break
      waiting.delete(id)
      start(next)
    }
  }

  async function valueOf(task: Task<Model>): Promise<unknown> {
    const output: unknown = await run(task)
    const stream = streamOf(output)
    if (stream === null) return output
    try {
      for (;;) {
        const next = await stream.next()
        if (next.done === true) return next.value
        task.delta(next.value)
        // A model that never waits for anything would keep a cancel from being heard.
        await setImmediate()
      }
    } finally {
      await stream.return?.()
    }
  }

  function cancel(id: TaskKey): void {
    waiting.get(id)?.finish({ status: 'cancelled' })
    waiting.delete(id)
    running.get(id)?.task.cancel()
  }

  /** No more tasks are taken; those that are here are cancelled. */
  function stop(): void {
    if (!stopping.signal.aborted) events.emit('worker', null, { status: 'cleaning_up' })
    stopping.abort()
    for (const id of [...waiting.keys(), ...running.keys()]) cancel(id)
  }

  async function workOff(): Promise<void> {
    // One that waits is started by the end of another.
    while (running.size > 0) await Promise.all([...running.values()].map(({ done }) => done))
  }

  function heedSignals(): void {
    process.on('SIGTERM', onSignal)
    process.once('SIGINT', () => {
      onSignal()
      // A second one, from a person who waits at a terminal, ends it at once.
      process.once('SIGINT', () => process.exit(BY_SIGNAL))
    })
    process.on('uncaughtException', (error) => {
      const failure = failureOf(error)
      for (const { task } of running.values()) task.finish(failure)
      if (isLoading && isOneOff) events.emit('finish', ownTask, failure)
      process.exit(1)
    })
  }

  function onSignal(): void {
    stop()
    if (!isLoading) return
    if (isOneOff) events.emit('finish', ownTask, { status: 'cancelled' })
    process.exit(BY_SIGNAL)
  }
}

/** The task of a one-off worker; its input is `null` where there is none. */
async function readTask(): Promise<Pick<TaskOptions<unknown>, 'input' | 'files' | 'previous'>> {
  const { INPUT_FILE: file, TASK_INPUT: text, INPUT_DIR, TASK_FILES } = process.env
  const { PREVIOUS_DIR, PREVIOUS_FILES } = process.env
  try {
    const input = JSON.parse((file ? await readFile(file, 'utf8') : text) || 'null') as JsonValue
    const files = await readFiles(INPUT_DIR, TASK_FILES)
    return { input, files, previous: await readFiles(PREVIOUS_DIR, PREVIOUS_FILES) }
  } catch (error) {
    throw new InvalidInput(`the input cannot be read: ${String(error)}`, { cause: error })
  }
}

/** The pieces of text in what a worker gives; `null` where it is no stream. */
function streamOf(output: unknown): AsyncIterator<string> | Iterator<string> | null {
  if (typeof output !== 'object' || output === null) return null
  if (Symbol.asyncIterator in output) return (output as AsyncIterable<string>)[Symbol.asyncIterator]()
  return 'next' in output && typeof output.next === 'function' ? (output as Iterator<string>) : null
}
