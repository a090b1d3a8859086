import { mkdir } from 'node:fs/promises'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type Dockerode from 'dockerode'
import {
  environmentBytes,
  type ListedWorker,
  type Logger,
  MAX_ENVIRONMENT_BYTES,
  runCommand,
  RunnerError,
  type StartFailure,
  type StartOptions,
  type StartResult,
  type WorkerInput,
  type WorkerName,
  type WorkerOrder,
  type WorkerRunner,
} from '@gpu-service/tasks'
import { containerBody, runFolders } from './container.ts'
import { type ContainerInfo, stateOf } from './container-info.ts'
import { createContainers } from './containers.ts'
import { createCredentials, defaultCredentialsFile } from './credentials.ts'
import { createEngineDisk } from './disk.ts'
import { connectDocker, createEngine, EngineError, runnerError } from './engine.ts'
import {
  commandNotFound,
  environmentTooLarge,
  failureOf,
  kernelFolder,
  nameTaken,
  otherLog,
  startAbandoned,
  startLost,
} from './failures.ts'
import { createFolders } from './folders.ts'
import { engineHealth } from './health.ts'
import { createImages } from './images.ts'
import { readOutput } from './output.ts'
import { createProgramCheck } from './program.ts'
import { createWorkerInput, handOver } from './stdin.ts'

export interface DockerRunnerOptions {
  /** The engine, as a client of one's own or as an address like `unix:///var/run/docker.sock`; omitted: what dockerode finds by itself (`DOCKER_HOST`). */
  readonly docker?: Dockerode | { readonly dockerHost: string }
  /** Told apart from others on the same engine by this; part of every worker's name and a label of it. */
  readonly installation: string
  /** Holds the workers' files and caches. The engine must see it under the same path. */
  readonly dataDir: string
  /** Mounted read-only into every worker. The engine must see it under the same path. */
  readonly modelsDir: string
  /**
   * Holds under `auths` what registries are shown when an image is pulled, in the form of Docker's own `config.json` (at most 1 MiB);
   * `null`: nothing is shown. Omitted: Docker's own (`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`). Credential stores and
   * helpers are not asked.
   */
  readonly credentialsFile?: string | null
  readonly logger: Logger
  /** How long the engine may take to answer a call; four times as long to create or start a container. */
  readonly callTimeoutMs?: number
  /** Between two looks at a container whose output is read. */
  readonly pollMs?: number
}

const RECHECK_MS = 100

/** Runs workers as containers of a Docker engine (API 1.41 and up). */
export function createDockerRunner(options: DockerRunnerOptions): WorkerRunner {
  const { installation, logger, callTimeoutMs = 30_000, pollMs = 2_000 } = options
  const docker =
    options.docker && 'modem' in options.docker ? options.docker : connectDocker(options.docker?.dockerHost)
  const engine = createEngine(docker, callTimeoutMs)
  const containers = createContainers(engine, installation, logger)
  const disk = createEngineDisk(engine)
  const folders = createFolders(options.dataDir)
  const modelsDir = resolve(options.modelsDir)
  const { credentialsFile = defaultCredentialsFile() } = options
  const images = createImages(engine, createCredentials(credentialsFile, logger), logger)
  const programs = createProgramCheck(engine)
  const startTimeoutMs = 4 * callTimeoutMs

  /** Creates the container, or finds that there is one of the name. */
  async function create(
    order: WorkerOrder,
    body: object,
    options: StartOptions,
  ): Promise<'created' | 'exists' | StartFailure> {
    const deadline = performance.now() + callTimeoutMs
    for (let mayEnsure = true; ;) {
      try {
        await engine.call('POST', '/containers/create', {
          query: { name: order.name },
          body,
          timeoutMs: startTimeoutMs,
        })
        return 'created'
      } catch (error) {
        if (!(error instanceof EngineError)) throw error
        // Looked up also for other refusals: a worker may outlive its image.
        if (!error.away && (await containers.find(order.name))) return 'exists'
        if (error.status === 409) {
          // Somebody else's, as the caller finds out.
          if (await engine.inspect(order.name)) return 'exists'
          if (performance.now() > deadline) throw error
          // An earlier call, maybe of an earlier process, is just making it.
          await sleep(RECHECK_MS)
          continue
        }
        if (error.status !== 404 || !mayEnsure) throw error
        mayEnsure = false
        const failure = await images.ensure(order.spec.image, order.spec.pull, options)
        if (failure) return failure
      }
    }
  }

  /** Starts a created container; what it gives is why it cannot be started. */
  async function begin(order: WorkerOrder, container: ContainerInfo): Promise<StartFailure | null> {
    const refusal = otherLog(container) ?? kernelFolder(container)
    if (refusal !== null) return refusal
    const problem = await programs.problemOf(container, JSON.stringify(order.spec.volumes))
    if (problem !== null) return commandNotFound(problem)
    // Before the start: with nobody attached by then, a stdin that is open only once would be over at once.
    const stdin = order.run && (await engine.attachStdin(container.id))
    await folders.noteStart(order.name, { containerId: container.id, at: Date.now() })
    try {
      await engine.call('POST', `/containers/${container.id}/start`, { timeoutMs: startTimeoutMs })
    } catch (error) {
      stdin?.destroy()
      if (error instanceof EngineError && !error.away) return failureOf(error)
      throw error
    }
    if (order.run && stdin) {
      const line = runCommand(order.run, runFolders(order.run.runId))
      handOver(stdin, line, { name: order.name, timeoutMs: order.spec.timeouts.runMs, logger })
    }
    return null
  }

  async function openInput(name: WorkerName): Promise<WorkerInput> {
    const container = await containers.find(name)
    if (container?.phase !== 'running') throw new RunnerError('NOT_FOUND', `${name} does not run`)
    return createWorkerInput(await engine.attachStdin(container.id), {
      timeoutMs: callTimeoutMs,
      async prepareRun(run) {
        await folders.prepareRun(name, run)
        return runFolders(run.runId)
      },
    })
  }

  async function removeContainer(container: string): Promise<void> {
    try {
      await engine.call('DELETE', `/containers/${container}`, { query: { force: '1', v: '1' } })
    } catch (error) {
      if (!(error instanceof EngineError) || (error.status !== 404 && error.status !== 409)) throw error
    }
    // 409: somebody else's removal is under way.
    await settle(container, (info) => info === null)
  }

  /** Waits until a container is as it should be. */
  async function settle(container: string, reached: (info: ContainerInfo | null) => boolean): Promise<void> {
    const deadline = performance.now() + callTimeoutMs
    while (!reached(await engine.inspect(container))) {
      if (performance.now() > deadline)
        throw new EngineError(500, `the engine cannot get rid of ${container}`)
      await sleep(RECHECK_MS)
    }
  }

  async function start(order: WorkerOrder, options: StartOptions): Promise<StartResult> {
    // Files mean that an earlier call may have made the worker already: then it is adopted all the same.
    if (
      options.signal?.aborted === true &&
      !(folders.has(order.name) && (await containers.find(order.name)))
    ) {
      await folders.remove(order.name)
      return startAbandoned()
    }
    const noted = await folders.notedStart(order.name)
    if (noted !== null && (await containers.find(order.name)) === null) {
      // Somebody has removed it before anybody could note that it ran: a second container of the name would run the task again.
      const { containerId, at } = noted
      return { status: 'started', containerId, imageDigest: null, startedAt: at }
    }
    if (environmentBytes(order.spec.env) > MAX_ENVIRONMENT_BYTES)
      return environmentTooLarge(MAX_ENVIRONMENT_BYTES)
    const { folder, fresh } = await folders.prepare(order)
    await mkdir(modelsDir, { recursive: true })
    let made: Awaited<ReturnType<typeof create>>
    try {
      made = await create(order, containerBody(order, installation, folder, modelsDir), options)
    } catch (error) {
      // Whatever may have reached the engine may have made a container: only the next call can tell.
      if (!(error instanceof EngineError) || (error.away && (error.reached || !fresh))) throw error
      made = failureOf(error)
    }
    if (typeof made === 'object') {
      await folders.remove(order.name)
      return made
    }
    let container = await containers.find(order.name)
    if (container === null) {
      await folders.remove(order.name)
      return nameTaken(order.name)
    }
    if (container.phase === 'created') {
      const failure = await begin(order, container)
      if (failure) {
        await removeContainer(container.id)
        await folders.remove(order.name)
        // A container that the engine was starting when it went away can never be started again, but its program may have begun: no
        // second container of the name is made.
        return made === 'exists' && failure.code === 'ENGINE_REFUSED' ? startLost(failure) : failure
      }
      // One that somebody has removed since was started all the same: reading it will tell that it is lost.
      container = (await engine.inspect(container.id)) ?? container
    }
    return {
      status: 'started',
      containerId: container.id,
      imageDigest: container.image,
      startedAt: container.startedAt,
    }
  }

  async function stop(name: WorkerName, graceMs: number): Promise<void> {
    const container = await containers.find(name)
    if (container === null) return
    const { id } = container
    const seconds = Math.ceil(graceMs / 1_000)
    try {
      await engine.call('POST', `/containers/${id}/stop`, {
        query: { t: String(seconds) },
        timeoutMs: seconds * 1_000 + callTimeoutMs,
      })
    } catch (error) {
      if (!(error instanceof EngineError)) throw error
      logger.debug({ worker: name, error }, 'the engine did not stop the worker as it was asked to')
    }
    const runs = (info: ContainerInfo | null) => info?.phase === 'running'
    if (!runs(await engine.inspect(id))) return
    try {
      await engine.call('POST', `/containers/${id}/kill`, { query: { signal: 'SIGKILL' } })
    } catch (error) {
      // 404, 409: it runs no more.
      if (!(error instanceof EngineError) || (error.status !== 404 && error.status !== 409)) throw error
    }
    await settle(id, (info) => !runs(info))
  }

  let processesAreTold = true

  async function processes(name: WorkerName): Promise<number[]> {
    const container = await containers.find(name)
    if (container?.phase !== 'running') return []
    try {
      return await engine.processes(container.id)
    } catch (error) {
      if (!(error instanceof EngineError) || error.away) throw error
      // 404, 409: it runs no more. Else the engine's host may have no ps, or one of another kind.
      if (error.status !== 404 && error.status !== 409 && processesAreTold) {
        processesAreTold = false
        logger.warn({ worker: name, error }, 'the engine does not tell the processes of its containers')
      }
      return []
    }
  }

  /** Those too of which only files are left. */
  async function list(): Promise<ListedWorker[]> {
    // Before the containers: one that is being made has its files first.
    const withFiles = (await folders.names()).filter((name) => name.startsWith(`gpu-${installation}-`))
    const listed = await containers.list()
    const names = new Set<string>(listed.map(({ name }) => name))
    const filesOnly = withFiles.filter((name) => !names.has(name))
    return [
      ...listed,
      ...filesOnly.map((name) => ({ name: name as WorkerName, state: { phase: 'unknown' } as const })),
    ]
  }

  return {
    kind: 'docker',
    start: (order, options = {}) => told(start(order, options)),
    output: (name, { after, signal }) =>
      readOutput({ engine, containers, disk, logger, name, after, signal, pollMs }),

    openInput: (name) => told(openInput(name)),

    stop: (name, { graceMs }) => told(stop(name, graceMs)),

    async inspect(name) {
      const info = await told(containers.find(name))
      return info ? stateOf(info) : { phase: 'unknown' }
    },

    processes: (name) => told(processes(name)),

    list: () => told(list()),

    async remove(name) {
      const container = await told(containers.find(name))
      if (container !== null) await told(removeContainer(container.id))
      try {
        await folders.remove(name)
      } catch (error) {
        if (!isDenied(error)) throw error
        logger.warn(
          { worker: name, error },
          "files of the workers' user could not be removed; remove them as root",
        )
      }
    },

    async removeRuns(name, isNeeded) {
      for (const runId of await folders.runs(name)) {
        if (isNeeded(runId)) continue
        // What is denied here is told when the worker itself is removed.
        await folders.removeRun(name, runId).catch((error: unknown) => {
          if (!isDenied(error)) throw error
        })
      }
    },

    secrets: (name) => folders.secrets(name),

    health: () => engineHealth(engine, disk),

    outputFolder: (name, runId) => ({ host: folders.run(name, runId), worker: runFolders(runId).output }),

    [Symbol.asyncDispose]() {
      engine[Symbol.dispose]()
      return Promise.resolve()
    },
  }
}

/** A service that is not root cannot empty the folders that a worker has made. */
function isDenied(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'EACCES' || error.code === 'EPERM')
}

/** Turns the engine's errors into those of the port. */
async function told<T>(call: Promise<T>): Promise<T> {
  try {
    return await call
  } catch (error) {
    throw runnerError(error)
  }
}
