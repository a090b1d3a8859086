import { execFile, spawnSync } from 'node:child_process'
import { chownSync } from 'node:fs'
import { chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import {
  BUSYBOX_IMAGE,
  clientOf,
  ensureTestImage,
  SERVICE_IMAGE,
  startPrivateEngine,
  type PrivateEngine,
} from '@gpu-service/test-engine'
import { vi } from 'vitest'
import type { PresetSource } from './service.ts'

const run = promisify(execFile)
const DEPLOY = join(import.meta.dirname, '../../../../deploy')
/** The user and group of `compose.yaml`. */
const USER = 65_534
export const NAME = 'gpu-service'
/** Nobody else's, so that it is this one that opens the socket. */
export const SOCKET_GROUP = 4_711

/** Docker Compose, the newer one as a plug-in of Docker's client; `null` where neither is installed. */
export const compose = [['docker-compose'], ['docker', 'compose']].find(
  ([program = '', ...args]) => spawnSync(program, [...args, 'version']).status === 0,
)

/** The service as `deploy/compose.yaml` starts it, on an engine of its own, with the folders of a server. */
export class ComposedService implements AsyncDisposable {
  readonly engine: PrivateEngine
  readonly folder: string
  /** The one that its first start has shown. */
  #key = ''

  private constructor(engine: PrivateEngine, folder: string) {
    this.engine = engine
    this.folder = folder
  }

  static async start(presets: Readonly<Record<string, PresetSource>>): Promise<ComposedService> {
    const engine = await startPrivateEngine()
    const service = new ComposedService(engine, await mkdtemp(join(tmpdir(), 'gpu-service-server-')))
    chownSync(engine.dockerHost.slice('unix://'.length), 0, SOCKET_GROUP)
    await ensureTestImage(engine.dockerHost, BUSYBOX_IMAGE)
    await ensureTestImage(engine.dockerHost, SERVICE_IMAGE)
    for (const name of ['config', 'models']) await mkdir(service.pathOf(name))
    for (const name of ['data', 'backup']) {
      await mkdir(service.pathOf(name), { mode: 0o700 })
      await chown(service.pathOf(name), USER, USER)
    }
    await writeFile(
      service.pathOf('config/model_presets.yaml'),
      JSON.stringify({ models: { test: presets } }),
      { mode: 0o644 },
    )
    await service.compose('up', '-d')
    service.#key = await vi.waitFor(
      async () => {
        const [key] = /\bgpu_\w+/.exec(await service.log()) ?? []
        if (key === undefined) throw new Error('no key has been shown')
        return key
      },
      { timeout: 60_000, interval: 250 },
    )
    return service
  }

  pathOf(name: string): string {
    return join(this.folder, name)
  }

  /** Runs a command of Docker Compose and gives what it prints. */
  async compose(...command: readonly string[]): Promise<string> {
    const [program = '', ...args] = compose ?? []
    const files = ['-f', join(DEPLOY, 'compose.yaml')]
    const { stdout } = await run(program, [...args, '-p', 'server', ...files, ...command], {
      env: {
        PATH: process.env['PATH'],
        HOME: process.env['HOME'],
        DOCKER_HOST: this.engine.dockerHost,
        DOCKER_SOCKET: this.engine.dockerHost.slice('unix://'.length),
        DOCKER_ROOT: this.engine.dataRoot,
        DOCKER_GID: String(SOCKET_GROUP),
        GPU_SERVICE_IMAGE: SERVICE_IMAGE,
        DATA_DIR: this.pathOf('data'),
        MODELS_DIR: this.pathOf('models'),
        CONFIG_DIR: this.pathOf('config'),
        BACKUP_DIR: this.pathOf('backup'),
      },
    })
    return stdout
  }

  get container() {
    return clientOf(this.engine.dockerHost).getContainer(NAME)
  }

  async log(): Promise<string> {
    return this.compose('logs', '--no-color', '--no-log-prefix')
  }

  /** Runs a program inside the container, as its user. */
  async exec(...command: readonly string[]): Promise<{ exitCode: number | null; output: string }> {
    const exec = await this.container.exec({
      Cmd: [...command],
      AttachStdout: true,
      AttachStderr: true,
      Tty: true,
    })
    const output = await text(await exec.start({ Tty: true }))
    return { exitCode: (await exec.inspect()).ExitCode, output }
  }

  /** Asks from inside: the engine's network has no way in. */
  async query<T>(query: string, variables: Readonly<Record<string, unknown>> = {}): Promise<T> {
    const request = {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${this.#key}` },
      body: JSON.stringify({ query, variables }),
    }
    const program = `fetch('http://127.0.0.1:4000/graphql', ${JSON.stringify(request)}).then((response) => response.text()).then(console.log)`
    const { exitCode, output } = await this.exec('node', '-e', program)
    if (exitCode !== 0) throw new Error(output)
    const { data, errors } = JSON.parse(output) as { data?: T; errors?: unknown }
    if (errors !== undefined || data === undefined) throw new Error(output)
    return data
  }

  async submit(kind: string, input: Readonly<Record<string, unknown>> = {}): Promise<string> {
    const { submitTask } = await this.query<{ submitTask: { task?: { id: string } } }>(
      `mutation ($input: SubmitTaskInput!) { submitTask(input: $input) {
        ... on SubmitTaskSuccess { task { id } } ... on Problem { message } } }`,
      { input: { presetId: `test/${kind}`, ...input } },
    )
    if (submitTask.task === undefined) throw new Error(JSON.stringify(submitTask))
    return submitTask.task.id
  }

  async task(id: string): Promise<ComposedTask> {
    const { task } = await this.query<{ task: ComposedTask | null }>(
      `query ($id: ID!) { task(id: $id) { status text error { message } attempts { workerId } artifacts { name } } }`,
      { id },
    )
    if (task === null) throw new Error(`there is no task ${id}`)
    return task
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.engine[Symbol.asyncDispose]()
    await rm(this.folder, { recursive: true, force: true })
  }
}

export interface ComposedTask {
  readonly status: string
  readonly text: string | null
  readonly error: { readonly message: string } | null
  readonly attempts: readonly { readonly workerId: string }[]
  readonly artifacts: readonly { readonly name: string }[]
}
