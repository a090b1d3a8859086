import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import WebSocket from 'ws'
import { createGpuClient, type GpuClient, type GpuClientOptions, type Timing } from '../src/index.ts'

const main = join(import.meta.dirname, '../../../apps/api/dist/main.js')

/** Short enough for tests, in the proportions of the real ones. */
const QUICK: Partial<Timing> = {
  retryBaseMs: 20,
  retryMaxMs: 300,
  connectMs: 1_000,
  livenessMs: 400,
  requestMs: 2_000,
  requestTries: 12,
}

export function connect(url: string, more: Omit<GpuClientOptions, 'url'> = {}): GpuClient {
  return createGpuClient({ url, webSocket: WebSocket, ...more, timing: { ...QUICK, ...more.timing } })
}

/** The bundled service as its own process, with plain processes as workers. It keeps its port over restarts. */
export class Service implements AsyncDisposable {
  readonly #folder: string
  readonly #env: Readonly<Record<string, string>>
  #child: ChildProcess | null = null
  url = ''

  private constructor(folder: string, env: Readonly<Record<string, string>>) {
    this.#folder = folder
    this.#env = env
  }

  /** `scripts`: shell scripts by the kind of their preset, `test/<kind>`. */
  static async start(
    scripts: Readonly<Record<string, string | { readonly script: string; readonly [key: string]: unknown }>>,
    env: Readonly<Record<string, string>> = {},
  ): Promise<Service> {
    const service = new Service(await mkdtemp(join(tmpdir(), 'gpu-client-test-')), env)
    const presets = Object.entries(scripts).map(([kind, given]) => {
      const { script, ...more } = typeof given === 'string' ? { script: given } : given
      const command = ['sh', '-c', script]
      return [kind, { docker_image: 'none', command, local: command, gpus: { count: 0 }, ...more }]
    })
    // JSON is YAML.
    const text = JSON.stringify({ models: { test: Object.fromEntries(presets) as unknown } })
    await writeFile(service.#presetsFile, text)
    await service.up()
    return service
  }

  get #presetsFile(): string {
    return join(this.#folder, 'presets.yaml')
  }

  get port(): number {
    return Number(new URL(this.url).port)
  }

  async up(): Promise<void> {
    const child = spawn(process.execPath, [main], {
      env: {
        PATH: process.env['PATH'],
        NODE_ENV: 'production',
        PORT: this.url === '' ? '0' : String(this.port),
        DATA_DIR: join(this.#folder, 'data'),
        PRESETS_FILE: this.#presetsFile,
        RUNNER: 'process',
        GPUS: 'none',
        LOG_LEVEL: 'error',
        ...this.#env,
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    this.#child = child
    this.url = await new Promise<string>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        const url = /^Ready: (http:\S+\/graphql)$/.exec(line)?.[1]
        if (url !== undefined) resolve(url)
      })
      child.once('exit', (code) => {
        reject(new Error(`the service exited with ${code} before it was ready`))
      })
    })
  }

  async down(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    this.#child = null
    if (child?.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill(signal)
    await ended
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down('SIGTERM')
    await rm(this.#folder, { recursive: true, force: true })
  }
}

const CONNECTED = `echo '{"event":"connection","status":"connected"}'`
const FINISHED = `echo '{"event":"finish","status":"completed"}'`

/** Says that it is there, does something, says that it is done. */
export const worker = (lines: string): string => `${CONNECTED}; ${lines}; ${FINISHED}`

/** Prints `0 `, `1 `, … as pieces of text, some fifty a second. */
export const counting = (count: number): string =>
  worker(
    `i=0; while [ $i -lt ${count} ]; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$i \\"}"; i=$((i+1)); sleep 0.02; done`,
  )

/** Prints as fast as it can. */
export const flooding = (lines: number, characters: number): string =>
  worker(`yes '{"event":"text_delta","delta":"${'x'.repeat(characters)}"}' | head -n ${lines}`)
