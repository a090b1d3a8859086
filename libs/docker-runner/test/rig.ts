import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Dockerode from 'dockerode'
import type { RunnerRig, ScriptOptions } from '@gpu-service/tasks/testing'
import { scriptOrder } from '@gpu-service/tasks/testing'
import {
  type Logger,
  type StartFailure,
  type WorkerOrder,
  type WorkerRunner,
  type WorkerSpec,
} from '@gpu-service/tasks'
import { createDockerRunner, type DockerRunnerOptions } from '../src/index.ts'
import { type EngineProxy, openEngineProxy } from './engine-proxy.ts'

/** An image with a static busybox. */
export const IMAGE = 'busybox:test'

export interface DockerRig extends RunnerRig {
  /** The engine, past the runner. */
  readonly docker: Dockerode
  readonly dataDir: string
  /** What the runner has logged as a warning. */
  readonly warnings: { readonly fields: object; readonly message: string }[]
  /** A worker of this installation that runs a script; parts of its spec can be replaced. */
  order(script: string, spec?: Partial<WorkerSpec>, more?: Partial<ScriptOptions>): WorkerOrder
  start(script: string, spec?: Partial<WorkerSpec>, more?: Partial<ScriptOptions>): Promise<WorkerOrder>
  /** Starts a worker that must not start. */
  startFailing(order: WorkerOrder): Promise<StartFailure>
  /** The names of all of this installation's containers. */
  containers(): Promise<string[]>
}

/** One installation on the engine that DOCKER_HOST names; nothing of it is left when it is disposed. */
export async function openRig(options: Partial<DockerRunnerOptions> = {}): Promise<DockerRig> {
  const docker = new Dockerode({ headers: { Connection: 'close' } })
  const installation = `test${randomBytes(4).toString('hex')}`
  const root = await mkdtemp(join(tmpdir(), 'docker-runner-'))
  const dataDir = join(root, 'data')
  const runners: WorkerRunner[] = []
  const warnings: DockerRig['warnings'] = []
  const logger: Logger = {
    debug: () => undefined,
    info: () => undefined,
    warn: (fields, message) => warnings.push({ fields, message }),
    error: (fields, message) => warnings.push({ fields, message }),
  }

  function open(name: string): WorkerRunner {
    const runner = createDockerRunner({
      installation: name,
      dataDir,
      modelsDir: join(root, 'models'),
      logger,
      credentialsFile: null,
      ...options,
    })
    runners.push(runner)
    return runner
  }

  async function containersOf(name: string): Promise<Dockerode.ContainerInfo[]> {
    return docker.listContainers({ all: true, filters: { label: [`gpu-service.installation=${name}`] } })
  }

  const rig: DockerRig = {
    installation,
    docker,
    dataDir,
    warnings,
    runner: open(installation),
    reopen: () => Promise.resolve(open(installation)),
    stranger: () => Promise.resolve(open(`${installation}x`)),
    order(script, spec = {}, more = {}) {
      const order = scriptOrder({ installation, image: IMAGE, script, ...more })
      return { ...order, spec: { ...order.spec, ...spec } }
    },
    async start(script, spec, more) {
      const order = rig.order(script, spec, more)
      const started = await rig.runner.start(order)
      if (started.status === 'failed') throw new Error(`the worker did not start: ${started.message}`)
      return order
    },
    async startFailing(order) {
      const failed = await rig.runner.start(order)
      if (failed.status === 'started') throw new Error('the worker did start')
      return failed
    },
    async containers() {
      return (await containersOf(installation)).flatMap(({ Names }) => Names.map((name) => name.slice(1)))
    },
    async [Symbol.asyncDispose]() {
      for (const runner of runners) await runner[Symbol.asyncDispose]()
      for (const name of [installation, `${installation}x`])
        for (const { Id } of await containersOf(name)) await docker.getContainer(Id).remove({ force: true })
      await rm(root, { recursive: true, force: true })
    },
  }
  return rig
}

export interface ProxiedRig extends AsyncDisposable {
  readonly rig: DockerRig
  readonly proxy: EngineProxy
}

/** A rig whose runner reaches the engine through a proxy only. */
export async function openProxiedRig(options: Partial<DockerRunnerOptions> = {}): Promise<ProxiedRig> {
  const { modem } = new Dockerode()
  const socket: unknown = Reflect.get(modem, 'socketPath')
  if (typeof socket !== 'string')
    throw new Error('these tests need an engine on a Unix socket (DOCKER_HOST=unix://…)')
  const proxy = await openEngineProxy(socket)
  const rig = await openRig({ docker: { dockerHost: proxy.dockerHost }, ...options })
  return {
    rig,
    proxy,
    async [Symbol.asyncDispose]() {
      await rig[Symbol.asyncDispose]()
      await proxy[Symbol.asyncDispose]()
    },
  }
}
