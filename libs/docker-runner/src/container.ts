import { type RunFolders, type WorkerOrder, workerEnvironment } from '@gpu-service/tasks'
import { mayHaveFiles, previousName, type WorkerFolder } from './folders.ts'

export const LABELS = {
  installation: 'gpu-service.installation',
  worker: 'gpu-service.worker',
  preset: 'gpu-service.preset',
} as const

/** Where things are inside of every container. */
export const INSIDE = {
  models: '/models',
  inputFile: '/task/input.json',
  files: '/task/files',
  runs: '/task/runs',
  home: '/home/worker',
  cache: '/cache',
  secrets: '/run/secrets',
} as const

/** The folders of a run, as its worker reaches them. */
export function runFolders(runId: string): RunFolders {
  return {
    input: `${INSIDE.files}/${runId}`,
    previous: `${INSIDE.files}/${previousName(runId)}`,
    output: `${INSIDE.runs}/${runId}`,
  }
}

/** How long an engine that stops, or somebody's `docker stop`, waits for a worker. */
const STOP_SECONDS = 10
const DEFAULT_USER = '65534:65534'
const MIB = 1024 * 1024

/**
 * `logs` loses lines without an error when the log rotates, and a size set for the whole engine would rotate it: so the log has an explicit
 * size that no worker reaches. "No limit" cannot be said explicitly. Whatever else would lose lines, or be refused beside this, is said too, for
 * the engine fills in what its `daemon.json` has under `log-opts`.
 */
export const LOG = {
  driver: 'json-file',
  options: { 'max-size': '1024g', 'max-file': '1', compress: 'false', mode: 'blocking' },
} as const

/** The `uid:gid` that a worker runs as. */
export function userOf({ spec }: WorkerOrder): string {
  return spec.relax.user ?? DEFAULT_USER
}

/** The body of the request that creates a worker's container: confined by default, loosened only where the preset says so. */
export function containerBody(
  order: WorkerOrder,
  installation: string,
  folder: WorkerFolder,
  modelsDir: string,
): object {
  const { spec, run } = order
  const { limits, relax } = spec
  const gpus = order.gpus.filter((gpu) => !gpu.simulated)
  const environment = workerEnvironment(order, {
    models: INSIDE.models,
    inputFile: run && INSIDE.inputFile,
    inputDir: run !== null && run.files.length > 0 ? runFolders(run.runId).input : null,
    previousDir: run !== null && run.previous.length > 0 ? runFolders(run.runId).previous : null,
    outputDir: run && runFolders(run.runId).output,
    home: INSIDE.home,
    cache: INSIDE.cache,
    secrets: order.secrets.length > 0 ? INSIDE.secrets : null,
  })
  const memory = (limits.memoryMb ?? 0) * MIB
  return {
    Image: spec.image,
    ...(spec.command.length > 0 && { Cmd: spec.command }),
    // Where nvidia is the engine's default runtime, an image may ask for every GPU: a worker without a claim sees none.
    Env: Object.entries({ ...(gpus.length === 0 && { NVIDIA_VISIBLE_DEVICES: 'void' }), ...environment }).map(
      ([name, value]) => `${name}=${value}`,
    ),
    User: userOf(order),
    Labels: {
      [LABELS.installation]: installation,
      [LABELS.worker]: order.workerId,
      [LABELS.preset]: spec.presetId,
    },
    Tty: false,
    OpenStdin: true,
    // A one-off worker's stdin ends with the connection that wrote its task; a session's outlives every connection.
    StdinOnce: run !== null,
    StopSignal: 'SIGTERM',
    StopTimeout: STOP_SECONDS,
    // An image's own would be one more program that is run in the container again and again.
    Healthcheck: { Test: ['NONE'] },
    HostConfig: {
      Init: true,
      AutoRemove: false,
      RestartPolicy: { Name: 'no' },
      Privileged: false,
      CapDrop: ['ALL'],
      CapAdd: relax.capabilities,
      SecurityOpt: ['no-new-privileges:true'],
      ReadonlyRootfs: !relax.writableRoot,
      NetworkMode: spec.network,
      IpcMode: 'private',
      CgroupnsMode: 'private',
      PidsLimit: limits.processes,
      Memory: memory,
      MemorySwap: memory,
      NanoCpus: Math.round((limits.cpus ?? 0) * 1e9),
      ShmSize: limits.sharedMemoryMb * MIB,
      OomScoreAdj: 500,
      Ulimits: [
        // An engine that is itself confined cannot raise its own limit, and refuses what is above it.
        { Name: 'nofile', Soft: 16_384, Hard: 16_384 },
        { Name: 'core', Soft: 0, Hard: 0 },
      ],
      Tmpfs: {
        '/tmp': `rw,noexec,nosuid,nodev,size=${limits.tmpMb}m,mode=1777`,
        [INSIDE.home]: `rw,exec,nosuid,nodev,size=${limits.tmpMb}m,mode=1777`,
      },
      LogConfig: { Type: LOG.driver, Config: LOG.options },
      Mounts: [
        bind(modelsDir, INSIDE.models, true),
        bind(folder.cache, INSIDE.cache, false),
        bind(folder.runs, INSIDE.runs, false),
        // Read-only for whoever it runs as: the files are the originals.
        ...(mayHaveFiles(order) ? [bind(folder.files, INSIDE.files, true)] : []),
        ...(run ? [bind(folder.inputFile, INSIDE.inputFile, true)] : []),
        ...(order.secrets.length > 0 ? [bind(folder.secrets, INSIDE.secrets, true)] : []),
        ...spec.volumes.map((volume) => bind(volume.source, volume.target, volume.readOnly)),
      ],
      ...(gpus.length > 0 && {
        DeviceRequests: [
          {
            Driver: 'nvidia',
            DeviceIDs: gpus.map((gpu) => gpu.id),
            Capabilities: [['gpu', 'compute', 'utility']],
          },
        ],
      }),
    },
  }
}

function bind(source: string, target: string, readOnly: boolean): object {
  return {
    Type: 'bind',
    Source: source,
    Target: target,
    ReadOnly: readOnly,
    BindOptions: { Propagation: 'rprivate' },
  }
}
