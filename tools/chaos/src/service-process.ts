import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, type WriteStream } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const ROOT = join(import.meta.dirname, '../../..')
const MAX_OUTPUT = 20_000

export interface ServiceProcessOptions {
  readonly dataDir: string
  readonly env: Readonly<Record<string, string>>
  /** Gets all that the service prints. */
  readonly logFile: string
  /** Called where the process ends though nobody has asked it to. */
  readonly onUnexpectedExit: (how: string) => void
  /** For Node.js itself, before the program. */
  readonly nodeArgs?: readonly string[]
}

/** The bundled service as a child process that is started, killed and stopped as often as one likes. */
export class ServiceProcess {
  readonly #options: ServiceProcessOptions
  readonly #log: WriteStream
  #child: ChildProcess | null = null
  #url: URL | null = null
  /** The last that it has printed. */
  output = ''
  /** How many processes there have been. */
  starts = 0

  constructor(options: ServiceProcessOptions) {
    this.#options = options
    this.#log = createWriteStream(options.logFile, { flags: 'a' })
  }

  /** Where it listens; `null` while it is not ready. */
  get port(): number | null {
    return this.#url === null ? null : Number(this.#url.port)
  }

  get pid(): number | null {
    return this.#child?.pid ?? null
  }

  /**
   * Starts it; `true` once it is ready, `false` where it ended (or was ended) before. What is in `more` is for this start alone.
   */
  async up(more: Readonly<Record<string, string>> = {}): Promise<boolean> {
    const { dataDir, env, onUnexpectedExit, nodeArgs = [] } = this.#options
    const program = join(ROOT, 'apps/api/dist/main.js')
    const child = spawn(process.execPath, [...nodeArgs, '--enable-source-maps', program], {
      env: {
        PATH: process.env['PATH'],
        HOME: process.env['HOME'],
        NODE_ENV: 'production',
        PORT: '0',
        DATA_DIR: dataDir,
        GPUS: 'none',
        LOG_LEVEL: 'info',
        ...env,
        ...more,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    this.starts++
    this.#keep(`--- start ${this.starts}, process ${child.pid} at ${new Date().toISOString()}\n`)
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#keep(text)
    })
    child.once('exit', (code, signal) => {
      this.#keep(`--- process ${child.pid} ended with ${code ?? signal} at ${new Date().toISOString()}\n`)
      if (this.#child !== child) return
      this.#child = null
      this.#url = null
      onUnexpectedExit(`it ended with ${code ?? signal}: ${this.output.slice(-2_000)}`)
    })
    return await new Promise<boolean>((resolve) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        this.#keep(`${line}\n`)
        const url = /^Ready: (http:\S+\/graphql)$/.exec(line)?.[1]
        if (url === undefined || this.#child !== child) return
        this.#url = new URL(url)
        resolve(true)
      })
      child.once('exit', () => {
        resolve(false)
      })
    })
  }

  /** Sends a signal that does not end it. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child?.kill(signal)
  }

  /** Ends it with a signal, and resolves when it has ended. Gives its exit code, `null` where the signal itself has ended it. */
  async down(signal: 'SIGTERM' | 'SIGKILL'): Promise<number | null> {
    const child = this.#child
    this.#child = null
    this.#url = null
    if (child === null) return null
    const ended =
      child.exitCode === null && child.signalCode === null ? once(child, 'exit') : Promise.resolve()
    child.kill(signal)
    await ended
    return child.exitCode
  }

  #keep(text: string): void {
    this.output = (this.output + text).slice(-MAX_OUTPUT)
    this.#log.write(text)
  }
}
