import { mkdir, mkdtemp, readdir, readFile, rm, chmod } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import {
  CHAOS_WORKER_IMAGE,
  ensureTestImage,
  type PrivateEngine,
  startPrivateEngine,
} from '@gpu-service/test-engine'
import Docker from 'dockerode'
import { type CuttingProxy, openCuttingProxy } from './cutting-proxy.ts'
import { writePresets } from './presets.ts'
import { ServiceProcess } from './service-process.ts'
import type { Violation } from './violation.ts'

export interface SiteOptions {
  readonly runner: 'docker' | 'process'
  /** Between the clients and the service. */
  readonly networks: number
  readonly onViolation: (violation: Violation) => void
  readonly env?: Readonly<Record<string, string>>
  readonly nodeArgs?: readonly string[]
}

/** A service with all that it needs, each part of which can be broken. */
export interface Site extends AsyncDisposable {
  readonly runner: 'docker' | 'process'
  readonly folder: string
  readonly databaseFile: string
  readonly service: ServiceProcess
  /** `null` with the process runner. */
  readonly engine: EngineSite | null
  readonly networks: readonly CuttingProxy[]
  /** Of the service, through one of the networks. */
  url(network: number): string
  /** A file of this name ends the tasks whose `until` it is. */
  readonly markers: string
  /** Runs that have begun more than once, with the workers that began them. */
  begunTwice(): Promise<readonly string[]>
  /** Workers whose process lives, whatever the engine knows of it. */
  liveProcesses(): Promise<readonly string[]>
  /** Leaves the folder where it is when the site is closed. */
  keep(): void
}

export interface EngineSite {
  readonly daemon: PrivateEngine
  /** Straight to the engine, past what is between it and the service. */
  readonly docker: Docker
  /** Between the service and the engine. */
  readonly line: CuttingProxy
  /** All containers, in whatever state. */
  readonly containers: () => Promise<
    readonly {
      readonly id: string
      readonly name: string
      readonly workerId: string
      readonly state: string
    }[]
  >
}

export async function openSite(options: SiteOptions): Promise<Site> {
  const { runner, onViolation, env, nodeArgs = [] } = options
  const folder = await mkdtemp(join(tmpdir(), 'gpu-service-chaos-'))
  const markers = join(folder, 'markers')
  const dataDir = join(folder, 'data')
  const presetsFile = join(folder, 'presets.yaml')
  await mkdir(markers)
  // Workers in containers are nobody.
  await chmod(markers, 0o777)
  await writePresets(presetsFile, { runner, image: CHAOS_WORKER_IMAGE, markers })
  const engine = runner === 'docker' ? await openEngine(folder) : null
  const service = new ServiceProcess({
    dataDir,
    logFile: join(folder, 'service.log'),
    nodeArgs,
    env: {
      RUNNER: runner,
      PRESETS_FILE: presetsFile,
      VOLUME_ROOTS: markers,
      MAX_WORKERS: '8',
      ...(engine !== null && { DOCKER_HOST: `unix://${engineSocket(folder)}` }),
      ...env,
    },
    onUnexpectedExit: (how) => {
      onViolation({ rule: 'service ended', taskId: null, detail: how })
    },
  })
  const networks: CuttingProxy[] = []
  const toService = () => (service.port === null ? null : { host: '127.0.0.1', port: service.port })
  for (let n = 0; n < options.networks; n++)
    networks.push(await openCuttingProxy({ host: '127.0.0.1', port: 0 }, toService))
  let isKept = false

  return {
    runner,
    folder,
    databaseFile: join(dataDir, 'gpu-service.db'),
    service,
    engine,
    networks,
    markers,
    url: (network) => `http://127.0.0.1:${networks[network % networks.length]?.port}/graphql`,
    async begunTwice() {
      const found: string[] = []
      for (const name of await readdir(markers)) {
        const lines = (await readFile(join(markers, name), 'utf8')).trim().split('\n')
        if (lines.length > 1) found.push(`${name}: ${lines.join(', ')}`)
      }
      return found
    },
    async liveProcesses() {
      const found: string[] = []
      for (const pid of await readdir('/proc')) {
        const read = (name: string) => readFile(join('/proc', pid, name), 'utf8').catch(() => '')
        if (!/^\d+$/.test(pid) || !(await read('cmdline')).includes('worker.py')) continue
        // A container has the folder of the markers among its mounts, a process in its environment.
        const surroundings = (await read('mountinfo')) + (await read('environ'))
        if (surroundings.includes(basename(folder))) found.push(`process ${pid}`)
      }
      return found
    },
    keep() {
      isKept = true
    },
    async [Symbol.asyncDispose]() {
      await service.down('SIGKILL')
      for (const network of networks) await network[Symbol.asyncDispose]()
      await engine?.line[Symbol.asyncDispose]()
      await engine?.daemon[Symbol.asyncDispose]()
      if (!isKept) await rm(folder, { recursive: true, force: true })
    },
  }
}

function engineSocket(folder: string): string {
  return join(folder, 'engine.sock')
}

async function openEngine(folder: string): Promise<EngineSite> {
  const daemon = await startPrivateEngine({ liveRestore: true })
  await ensureTestImage(daemon.dockerHost, CHAOS_WORKER_IMAGE)
  const socketPath = daemon.dockerHost.slice('unix://'.length)
  const line = await openCuttingProxy({ path: engineSocket(folder) }, () => ({ path: socketPath }))
  const docker = new Docker({ socketPath, timeout: 20_000 })
  return {
    daemon,
    docker,
    line,
    async containers() {
      const found = await docker.listContainers({ all: true })
      return found.map(({ Id, Names, State, Labels }) => ({
        id: Id,
        name: Names[0]?.slice(1) ?? Id,
        workerId: Labels['gpu-service.worker'] ?? '',
        state: State,
      }))
    },
  }
}
