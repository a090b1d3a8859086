import type { WorkerExit, WorkerState } from '@gpu-service/tasks'
import { LABELS } from './container.ts'

/** What we read of an engine's answer about one container. */
export interface ContainerInfo {
  readonly id: string
  /** Whose worker it is and what that was named, as its labels say; `null`: it is no worker. */
  readonly worker: LabelledWorker | null
  readonly phase: 'created' | 'running' | 'exited'
  readonly exitCode: number
  readonly oomKilled: boolean
  /** In bytes; 0: none. */
  readonly memoryLimit: number
  readonly paused: boolean
  /** Milliseconds since 1970; 0: never. */
  readonly startedAt: number
  readonly finishedAt: number
  /** The image's digest. */
  readonly image: string
  /** The program that is run, with its arguments. */
  readonly path: string
  readonly args: readonly string[]
  readonly env: readonly string[]
  readonly workingDir: string
  readonly logDriver: string
  readonly logOptions: Readonly<Record<string, unknown>>
  readonly autoRemove: boolean
}

/** A worker by its container's labels. */
export interface LabelledWorker {
  readonly installation: string
  /** As it was named when it was made, whatever its container is called now; by its container's name where no label tells. */
  readonly name: string
}

/** Throws a `TypeError` where the answer is not of the API's form. */
export function parseContainer(answer: unknown): ContainerInfo {
  const whole = recordOf(answer)
  const state = recordOf(whole['State'])
  const config = recordOf(whole['Config'])
  const host = recordOf(whole['HostConfig'])
  const log = recordOf(host['LogConfig'])
  const status = textOf(state['Status'])
  return {
    id: textOf(whole['Id']),
    worker: workerOf(config['Labels'], textOf(whole['Name'])),
    phase: status === 'created' ? 'created' : state['Running'] === true ? 'running' : 'exited',
    exitCode: typeof state['ExitCode'] === 'number' ? state['ExitCode'] : -1,
    oomKilled: state['OOMKilled'] === true,
    memoryLimit: typeof host['Memory'] === 'number' ? host['Memory'] : 0,
    paused: state['Paused'] === true,
    startedAt: timeOf(state['StartedAt']),
    finishedAt: timeOf(state['FinishedAt']),
    image: textOf(whole['Image']),
    path: textOf(whole['Path']),
    args: textsOf(whole['Args']),
    env: textsOf(config['Env']),
    workingDir: typeof config['WorkingDir'] === 'string' ? config['WorkingDir'] : '',
    logDriver: textOf(log['Type']),
    logOptions: log['Config'] === null ? {} : recordOf(log['Config']),
    autoRemove: host['AutoRemove'] === true,
  }
}

/** A worker's container in the answer to a listing. */
export interface ListedContainer extends LabelledWorker {
  readonly id: string
}

/** Those that bear our labels. */
export function parseListing(answer: unknown): ListedContainer[] {
  if (!Array.isArray(answer)) throw new TypeError('the engine listed no containers')
  return answer.flatMap((each: unknown) => {
    const listed = recordOf(each)
    const worker = workerOf(listed['Labels'], textsOf(listed['Names'])[0] ?? '')
    return worker === null ? [] : [{ id: textOf(listed['Id']), ...worker }]
  })
}

/** The engine puts a slash before a container's name. */
function workerOf(labels: unknown, containerName: string): LabelledWorker | null {
  if (!isRecord(labels)) return null
  const { [LABELS.installation]: installation, [LABELS.worker]: id } = labels
  if (typeof installation !== 'string') return null
  const name = typeof id === 'string' ? `gpu-${installation}-${id}` : containerName.replace(/^\//, '')
  return { installation, name }
}

/** What we read of an engine's answer about itself. */
export interface EngineInfo {
  /** Where it keeps images, containers and their logs, on its own host. */
  readonly dataRoot: string
  /** Its containers go on while it is away. */
  readonly liveRestore: boolean
}

export function parseInfo(answer: unknown): EngineInfo {
  const { DockerRootDir, LiveRestoreEnabled } = recordOf(answer)
  return { dataRoot: textOf(DockerRootDir), liveRestore: LiveRestoreEnabled === true }
}

/** The process ids in the answer to `top`, whose only column they are. */
export function parseProcesses(answer: unknown): number[] {
  const rows = recordOf(answer)['Processes']
  // An engine whose container ends meanwhile may name none.
  if (rows === null || rows === undefined) return []
  if (!Array.isArray(rows)) throw new TypeError('the engine listed no processes')
  return rows.map((row: unknown) => {
    const pid = Number(textsOf(row)[0])
    if (!Number.isSafeInteger(pid) || pid < 1) throw new TypeError('the engine listed what is no process')
    return pid
  })
}

export function exitOf(info: ContainerInfo): WorkerExit {
  return { exitCode: info.exitCode, oomKilled: info.oomKilled, finishedAt: info.finishedAt }
}

export function stateOf(info: ContainerInfo): WorkerState {
  switch (info.phase) {
    case 'created':
      return { phase: 'created' }
    case 'running':
      return { phase: 'running', containerId: info.id, startedAt: info.startedAt }
    case 'exited':
      return { phase: 'exited', containerId: info.id, exit: exitOf(info) }
  }
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  if (!isRecord(value)) throw new TypeError('the engine answered in an unknown form')
  return value
}

function textOf(value: unknown): string {
  if (typeof value !== 'string') throw new TypeError('the engine answered in an unknown form')
  return value
}

function textsOf(value: unknown): string[] {
  if (value === null || value === undefined) return []
  if (!Array.isArray(value)) throw new TypeError('the engine answered in an unknown form')
  return value.map(textOf)
}

/** The engine says `0001-01-01T00:00:00Z` for never. */
function timeOf(value: unknown): number {
  return Math.max(0, Date.parse(textOf(value)) || 0)
}
