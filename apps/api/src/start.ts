import { randomUUID } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { makeExecutableSchema } from '@graphql-tools/schema'
import { openArtifactFiles } from '@gpu-service/artifacts'
import { createDockerRunner } from '@gpu-service/docker-runner'
import { openGpuInventory } from '@gpu-service/gpus'
import { createSecretSources, openPresetCatalog } from '@gpu-service/presets'
import { createProcessRunner, createWorkerPackages } from '@gpu-service/process-runner'
import { openTaskStore } from '@gpu-service/task-store'
import {
  actorOf,
  isAtLeast,
  maySee,
  openDispatcher,
  type ArtifactId,
  type DispatcherOptions,
  type Logger,
  type PresetIssue,
  type TaskId,
  type WorkerRunner,
} from '@gpu-service/tasks'
import { v7 as uuidv7 } from 'uuid'
import packageJson from '../package.json' with { type: 'json' }
import { type Caller, createAuthenticator } from './access/authenticator.ts'
import { firstKeyOf } from './access/first-key.ts'
import { openKeyRing } from './access/key-ring.ts'
import { createMeters } from './access/meters.ts'
import { createRefusalLog, unknownActor } from './access/refusal-log.ts'
import { artifactsFolderOf, databaseFileOf, type Config } from './config.ts'
import { actionOf } from './graphql/audited.ts'
import type { Context } from './graphql/context.ts'
import type { ContextRequest } from './graphql/operations.ts'
import { resolvers } from './graphql/resolvers.ts'
import typeDefs from './graphql/schema.graphql'
import { diskCheck, roomIn, watchRoom } from './disk-space.ts'
import { openSigningKey } from './export/signing-key.ts'
import { gpusCheck, gpusText } from './gpu-facts.ts'
import { confinementText } from './confinement-text.ts'
import { callerOf } from './http/caller.ts'
import { chooseRunner } from './runner-choice.ts'
import { startServer } from './server.ts'
import { systemClock } from './system-clock.ts'
import { createUploadIntake } from './uploads.ts'

const MAX_QUEUED = 10_000
/** Between two looks at the room on the disk. */
const ROOM_LOOK_MS = 2_000
/** Of the socket in the data folder by which this machine's owner is always let in. */
export const LOCAL_SOCKET = 'admin.sock'
const MAX_ARTIFACT_BYTES = 10 * 1024 ** 3

/** The files that come with the service. */
export interface InstalledFiles {
  readonly presetsFile: string
  readonly workersDir: string
}

/** What the domain acts on the world through. */
export type Ports = Pick<DispatcherOptions, 'store' | 'runner' | 'gpus' | 'presets' | 'artifactFiles'>

/** Puts something between the domain and its ports. */
export type DecoratePorts = (ports: Ports) => Ports

/** A service that answers. */
export interface RunningService extends AsyncDisposable {
  /** Of the GraphQL endpoint. */
  readonly url: string
  /** What it runs with, for people: label and sentence. */
  readonly facts: readonly (readonly [label: string, text: string])[]
  /** The first API key, where this start has made it: it is to be shown once, and kept nowhere. */
  readonly firstKey: string | null
  /** What is wrong with the presets file; empty where all is well. */
  readonly presetIssues: readonly PresetIssue[]
}

/**
 * Puts the service together and starts it: database first, then presets, GPUs and the runner, then the dispatcher, which takes up the
 * workers of the process before, and last the server. Disposal goes the other way round: new tasks are refused, sockets closed, and the
 * workers let go of (or stopped) before the database closes.
 */
export async function startService(
  config: Config,
  files: InstalledFiles,
  logger: Logger,
  decorate: DecoratePorts,
): Promise<RunningService> {
  const started: AsyncDisposable[] = []
  const own = <T extends AsyncDisposable>(resource: T): T => {
    started.push(resource)
    return resource
  }
  const stop = async (): Promise<void> => {
    for (const resource of started.splice(0).reverse()) {
      try {
        await resource[Symbol.asyncDispose]()
      } catch (error) {
        // One that cannot be let go of must not keep the others open, the database least of all.
        logger.error({ err: error }, 'A part of the service could not be stopped cleanly.')
      }
    }
  }
  try {
    return await start(config, files, logger, decorate, own, stop)
  } catch (error) {
    await stop()
    throw error
  }
}

async function start(
  config: Config,
  files: InstalledFiles,
  logger: Logger,
  decorate: DecoratePorts,
  own: <T extends AsyncDisposable>(resource: T) => T,
  stop: () => Promise<void>,
): Promise<RunningService> {
  const { dataDir, modelsDir, dockerHost } = config
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  await mkdir(modelsDir, { recursive: true })
  const databaseFile = databaseFileOf(config)
  const store = own(await openTaskStore({ url: `file:${databaseFile}`, logger }))
  const keys = own(await openKeyRing(store, systemClock, logger))
  const meters = createMeters(keys.limitsOf, systemClock)
  const firstKey = await firstKeyOf(keys, config)
  const presetsFile = config.presetsFile ?? files.presetsFile
  const { volumeRoots, secretRoots, secretEnvPrefix } = config
  const secretOptions = { secretRoots, secretEnvPrefix, env: process.env }
  const presets = own(
    await openPresetCatalog({ file: presetsFile, modelsDir, volumeRoots, ...secretOptions, logger }),
  )
  const gpus = own(
    await openGpuInventory({ source: config.gpus, sampleIntervalMs: config.gpuSampleMs, logger }),
  )
  const signingKey = await openSigningKey(dataDir)
  const artifacts = await openArtifactFiles({
    folder: artifactsFolderOf(config),
    maxBytes: MAX_ARTIFACT_BYTES,
  })
  const choice = chooseRunner({
    setting: config.runner,
    dataDir,
    dockerHost,
    hasWorkers: (await store.liveWorkers()).length > 0,
  })
  const { installation } = store
  const workersDir = config.workersDir ?? files.workersDir
  const runner: WorkerRunner = own(
    choice.kind === 'docker'
      ? createDockerRunner({
          ...(dockerHost !== null && { docker: { dockerHost } }),
          installation,
          dataDir,
          modelsDir,
          logger,
        })
      : createProcessRunner({
          installation,
          dataDir,
          modelsDir,
          packages: createWorkerPackages({ workersDir, logger }),
          logger,
        }),
  )
  const room = own(await watchRoom(dataDir, ROOM_LOOK_MS))
  const ports = decorate({ store, runner, gpus, presets, artifactFiles: artifacts })
  const dispatcher = own(
    await openDispatcher({
      ...ports,
      room,
      secrets: createSecretSources(secretOptions),
      clock: systemClock,
      logger,
      newId: uuidv7,
      maxWorkers: config.maxWorkers,
      maxQueued: MAX_QUEUED,
      maxPassMs: config.maxPassMs,
      housekeepingMs: config.housekeepingMs,
      retention: config.retention,
      scrubAfterMs: config.scrubAfterMs,
      shutdown: config.shutdown,
      limitsOf: keys.limitsOf,
    }),
  )
  const service = {
    version: packageJson.version,
    instanceId: randomUUID(),
    startedAt: systemClock.now(),
    runner: choice.kind,
    signingKey,
  }
  const createContext = ({ signal, caller: { principal, meter, address } }: ContextRequest): Context => ({
    ...{ dispatcher, store: ports.store, presets, gpus, service, keys, meters },
    ...{ principal, meter, actor: actorOf(principal, address), signal },
  })
  const refusals = own(createRefusalLog(ports.store, logger))
  const authenticator = createAuthenticator({
    ...{ keys, meters },
    required: config.auth === 'required',
    clock: systemClock,
    onWrongKey(address) {
      const actor = unknownActor(address)
      refusals.note({ actor, action: 'key.use', target: 'key', result: 'UNAUTHENTICATED' })
    },
  })
  function onForbidden(mutations: ReadonlySet<string>, { principal, address }: Caller): void {
    for (const mutation of mutations)
      refusals.note({ actor: actorOf(principal, address), ...actionOf(mutation), result: 'FORBIDDEN' })
  }
  let stopping = false
  const server = own(
    await startServer({
      config,
      schema: makeExecutableSchema({ typeDefs, resolvers }),
      // What an event says depends on nothing but the event: its many readers share the work of answering.
      sharedSubscriptions: new Set(['taskEvents']),
      createContext,
      localSocket: join(dataDir, LOCAL_SOCKET),
      ...{ authenticator, onForbidden },
      artifacts: {
        async open(id, principal) {
          const row = await store.artifact(id as ArtifactId)
          const task = row === null ? null : await store.task(row.taskId)
          if (row === null || task === null || !maySee(principal, task)) return null
          const file = await artifacts.find(row.id)
          return file === null ? null : { ...row, path: file.path }
        },
        async openInput(taskId, index, principal) {
          const task = await store.task(taskId as TaskId)
          const given = task !== null && maySee(principal, task) ? task.files[index] : undefined
          const file = given === undefined ? null : await artifacts.find(given.id)
          return given === undefined || file === null ? null : { ...given, path: file.path }
        },
      },
      uploads: createUploadIntake({
        ...{ store, files: artifacts, limits: config.uploads, newId: uuidv7 },
        room: () => roomIn(dataDir),
        now: () => systemClock.now(),
      }),
      exports: {
        ...{ ...ports, version: service.version, signingKey },
        mayRead: (request, what) => {
          const { principal } = callerOf(request)
          return what === 'audit' ? isAtLeast(principal.role, 'admin') : maySee(principal, what)
        },
      },
      health: async () => {
        const [database, disk, engine] = await Promise.all([
          store.health(),
          diskCheck(dataDir),
          runner.health(),
        ])
        return {
          ready: !stopping && database.ok && disk.ok,
          checks: {
            service: { ok: !stopping, detail: stopping ? 'stopping' : 'serving' },
            database,
            disk,
            runner: dispatcher.blocked === null ? engine : { ok: false, detail: dispatcher.blocked },
            gpus: gpusCheck(gpus.list()),
            presets: {
              ok: presets.issues().length === 0,
              detail: `${presets.presets().length} in force, ${presets.issues().length} problem(s) in the file`,
            },
          },
        }
      },
      logger,
    }),
  )

  return {
    url: server.url,
    firstKey,
    presetIssues: presets.issues(),
    facts: [
      ['runner', `${choice.kind} (${choice.why})`],
      ['GPUs', gpusText(gpus)],
      ['database', `SQLite, ${shown(databaseFile)}`],
      ['presets', `${presets.presets().length} from ${shown(presetsFile)}`],
      ['workers', confinementText(choice.kind, presets.presets())],
      ['data', shown(dataDir)],
      [
        'access',
        config.auth === 'required' ? 'with API keys only' : 'API keys; none is needed on this machine',
      ],
    ],
    async [Symbol.asyncDispose]() {
      stopping = true
      dispatcher.refuse()
      await stop()
    },
  }
}

/** A path as short as it can be said. */
function shown(path: string): string {
  const short = relative(process.cwd(), path)
  return short.startsWith('..') || short === '' ? path : short
}
