import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Duplex } from 'node:stream'
import { type ReportLoading, TaskFailed } from '@gpu-service/worker'
import { loadedPercent } from './loading-bar.ts'
import type { Command, Job, Said } from './messages.ts'

/** Of what it has logged, so many of the last errors are told with a failure. */
const MAX_ERRORS = 5
/** A model that is loaded, in a process of its own. It makes one image at a time. */
export interface Engine {
  /**
   * Makes an image; gives a PNG. `onStep` is told of each step that is done, and of how many there are. Where the signal is aborted, it rejects with its
   * reason once the engine has stopped: within one step, and where the prompt is read or the image decoded, at the end of that.
   */
  paint(job: Job, signal: AbortSignal, onStep: (step: number, steps: number) => void): Promise<Buffer>
}

export interface EngineOptions {
  /** The engine's program, with its arguments. */
  readonly program: readonly [string, ...string[]]
  readonly modelFile: string
  /** Computes on a GPU, and fails where there is none that it can use. */
  readonly onGpu: boolean
  readonly threads: number
  /** How long the engine may take to heed a cancel, in milliseconds, before it is killed. */
  readonly cancelMs: number
}

/** Who waits for the end of what the engine does. */
interface Waiting {
  readonly onStep: (step: number, steps: number) => void
  readonly resolve: (png: Buffer | null) => void
  readonly reject: (error: Error) => void
}

/**
 * Starts the engine and loads a model. Rejects where that fails. An engine that ends later, or is killed because it does not heed a cancel, ends this
 * process too: what it worked on is rejected, and then an error is thrown where nobody catches it.
 */
export async function openEngine(options: EngineOptions, report: ReportLoading): Promise<Engine> {
  let waiting: Waiting | null = null
  let errors: string[] = []
  let percent = 0
  let isLoaded = false
  let isLost = false

  const [program, ...args] = options.program
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit', 'pipe'] })
  const pipe = child.stdio[3] as Duplex
  // It has nothing to save, and must not outlive the worker.
  process.once('exit', kill)
  // That it has ended is told by `close`.
  pipe.on('error', () => undefined)
  createInterface({ input: pipe }).on('line', (line) => {
    hear(JSON.parse(line) as Said)
  })
  child.stdout?.setEncoding('utf8').on('data', readBar)
  child.on('error', lose)
  child.on('close', (code, signal) => {
    lose(deathOf(code, signal))
  })

  const { modelFile: model, onGpu, threads, cancelMs } = options
  await ask({ command: 'load', model, onGpu, threads })
  isLoaded = true
  // The bar's end may still be on its way.
  if (percent < 100) report(1)

  return {
    async paint(job, signal, onStep) {
      signal.throwIfAborted()
      let patience: NodeJS.Timeout | undefined
      const onAbort = (): void => {
        send({ command: 'cancel' })
        patience = setTimeout(giveUp, cancelMs)
      }
      signal.addEventListener('abort', onAbort)
      try {
        const png = await ask({ command: 'paint', job }, onStep)
        if (png === null) throw new Error('the engine has made no image')
        return png
      } finally {
        clearTimeout(patience)
        signal.removeEventListener('abort', onAbort)
        // What it says of a job that was cancelled is of no interest.
        signal.throwIfAborted()
      }
    },
  }

  function ask(command: Command, onStep: Waiting['onStep'] = () => undefined): Promise<Buffer | null> {
    errors = []
    return new Promise((resolve, reject) => {
      waiting = { onStep, resolve, reject }
      send(command)
    })
  }

  function send(command: Command): void {
    pipe.write(`${JSON.stringify(command)}\n`)
  }

  function hear(message: Said): void {
    switch (message.said) {
      case 'log':
        console.error(message.text)
        if (message.isError) errors = [...errors, message.text].slice(-MAX_ERRORS)
        return
      case 'step':
        waiting?.onStep(message.step, message.steps)
        return
      case 'loaded':
        waiting?.resolve(null)
        return
      case 'painted':
        waiting?.resolve(Buffer.from(message.png, 'base64'))
        return
      case 'failed':
        waiting?.reject(new Error([message.message, ...errors].join('; ')))
    }
  }

  function readBar(text: string): void {
    const now = loadedPercent(text)
    if (isLoaded || now === null || now <= percent) return
    percent = now
    report(percent / 100, 'Reading weights')
  }

  function giveUp(): void {
    lose(new Error(`the engine has not heeded a cancel for ${cancelMs / 1000} s, and was killed`))
    kill()
  }

  function lose(error: Error): void {
    if (isLost) return
    isLost = true
    waiting?.reject(error)
    if (!isLoaded) return
    // Once whoever waited has heard of it.
    setImmediate(() => {
      throw error
    })
  }

  function kill(): void {
    child.kill('SIGKILL')
  }

  function deathOf(code: number | null, signal: NodeJS.Signals | null): Error {
    const what = [`the engine has ended by itself (${signal ?? `exit code ${code ?? ''}`})`, ...errors]
    // Nobody but the kernel does that, and where there is a limit to the container's memory it is the engine that is chosen.
    if (signal === 'SIGKILL')
      return new TaskFailed('the engine was killed, for want of memory as it seems', 'OUT_OF_MEMORY')
    return new TaskFailed(what.join('; '), 'ENGINE_ENDED')
  }
}
