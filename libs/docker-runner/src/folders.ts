import { createHash } from 'node:crypto'
import { constants, existsSync } from 'node:fs'
import { chmod, mkdir, open, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { PresetId, RunOrder, Secret, WorkerName, WorkerOrder } from '@gpu-service/tasks'
import { userOf } from './container.ts'
import { removeFolder } from './remove-folder.ts'
import { readSecrets, writeSecrets } from './secret-files.ts'

const PREVIOUS = '.previous'

/** A worker's files on the host. */
export interface WorkerFolder {
  readonly inputFile: string
  /** Holds its secrets, one file each; not there where it has none. */
  readonly secrets: string
  /** Holds one folder per run that was given files, with these, and one per run before which attempts have left some. */
  readonly files: string
  /** Holds one folder per run. */
  readonly runs: string
  /** Shared by all workers of the preset. */
  readonly cache: string
}

/** A container that was about to be started. */
export interface NotedStart {
  readonly containerId: string
  /** Milliseconds since 1970. */
  readonly at: number
}

export interface Folders {
  /** Makes what the worker needs; harmless where it is there. `fresh`: nothing was there. */
  prepare(order: WorkerOrder): Promise<{ readonly folder: WorkerFolder; readonly fresh: boolean }>
  /** Makes the folders of a run, with the files that it is given. */
  prepareRun(name: WorkerName, run: RunOrder): Promise<void>
  /** Notes that the worker's container is about to be started. */
  noteStart(name: WorkerName, start: NotedStart): Promise<void>
  /** The last that was noted; `null`: none was, so that nothing of the worker can have run. */
  notedStart(name: WorkerName): Promise<NotedStart | null>
  run(name: WorkerName, runId: string): string
  has(name: WorkerName): boolean
  /** The secrets that the worker was given. */
  secrets(name: WorkerName): Promise<readonly Secret[]>
  /** The names of all workers that have files. */
  names(): Promise<readonly string[]>
  /** The runs of a worker that have folders. */
  runs(name: WorkerName): Promise<readonly string[]>
  remove(name: WorkerName): Promise<void>
  removeRun(name: WorkerName, runId: string): Promise<void>
}

/** Everything below `dataDir`, which only the service's own user can enter; what lies deeper may be written by the workers' user. */
export function createFolders(dataDir: string): Folders {
  const workers = resolve(dataDir, 'workers')
  const caches = resolve(dataDir, 'cache')
  const pathOf = (name: WorkerName) => join(workers, name)
  const secretsOf = (name: WorkerName) => join(pathOf(name), 'secrets')
  const filesOf = (name: WorkerName) => join(pathOf(name), 'files')
  const runsOf = (name: WorkerName) => join(pathOf(name), 'runs')
  const startOf = (name: WorkerName) => join(pathOf(name), 'start')

  return {
    async prepare(order) {
      const folder = {
        inputFile: join(pathOf(order.name), 'input.json'),
        secrets: secretsOf(order.name),
        files: filesOf(order.name),
        runs: runsOf(order.name),
        cache: join(caches, cacheName(order.spec.presetId)),
      }
      await makeFolder(workers, 0o700)
      await makeFolder(caches, 0o700)
      const fresh = await makeFolder(folder.runs, 0o755)
      await makeFolder(folder.cache, 0o777)
      // Nobody can look into it for the runs of others.
      if (mayHaveFiles(order)) await makeFolder(folder.files, 0o711)
      if (order.secrets.length > 0) await writeSecrets(folder.secrets, order.secrets, userOf(order))
      if (order.run) {
        await this.prepareRun(order.name, order.run)
        await rm(folder.inputFile, { force: true })
        await writeFile(folder.inputFile, JSON.stringify(order.run.input))
        await chmod(folder.inputFile, 0o444)
      }
      return { folder, fresh }
    },
    async prepareRun(name, { runId, files, previous }) {
      await makeRunFolder(join(runsOf(name), runId))
      await placeFiles(join(filesOf(name), runId), files)
      await placeFiles(join(filesOf(name), previousName(runId)), previous)
    },
    noteStart: (name, { containerId, at }) => writeFile(startOf(name), `${at} ${containerId}`),
    async notedStart(name) {
      const [at = '', containerId] = (await textOf(startOf(name))).split(' ')
      return containerId === undefined ? null : { containerId, at: Number(at) }
    },
    run: (name, runId) => join(runsOf(name), runId),
    has: (name) => existsSync(pathOf(name)),
    secrets: (name) => readSecrets(secretsOf(name)),
    names: () => entriesOf(workers),
    runs: async (name) => [
      ...new Set([...(await entriesOf(runsOf(name))), ...(await entriesOf(filesOf(name))).map(runIdOfName)]),
    ],
    remove: (name) => removeFolder(pathOf(name)),
    async removeRun(name, runId) {
      await removeFolder(join(filesOf(name), runId))
      await removeFolder(join(filesOf(name), previousName(runId)))
      await removeFolder(join(runsOf(name), runId))
    },
  }
}

async function placeFiles(folder: string, files: RunOrder['files']): Promise<void> {
  if (files.length === 0) return
  // Not with the folder around it: a session worker that was started before there were files does not have it mounted.
  await orIfThere(mkdir(folder))
  await chmod(folder, 0o755)
  for (const file of files) await file.placeAt(join(folder, file.name))
}

/** The folder, among those of a worker's files, of what was left before a run. */
export function previousName(runId: string): string {
  return `${runId}${PREVIOUS}`
}

function runIdOfName(name: string): string {
  return name.endsWith(PREVIOUS) ? name.slice(0, -PREVIOUS.length) : name
}

function entriesOf(folder: string): Promise<readonly string[]> {
  return orIfMissing(readdir(folder), [])
}

/** Empty where there is no such file. */
function textOf(file: string): Promise<string> {
  return orIfMissing(readFile(file, 'utf8'), '')
}

async function orIfMissing<T>(read: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await read
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return otherwise
    throw error
  }
}

/** Tells whether it was not there before. The mode is set afterwards, for the process's umask would take from it. */
async function makeFolder(path: string, mode: number): Promise<boolean> {
  const made = await mkdir(path, { recursive: true })
  await chmod(path, mode)
  return made !== undefined
}

/**
 * The folder around it may be the worker's own, where the preset has it run as the service's user: a link that it has put there under this
 * name would have the service change the mode of something else.
 */
async function makeRunFolder(path: string): Promise<void> {
  await orIfThere(mkdir(path))
  await using folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW)
  await folder.chmod(0o777)
}

async function orIfThere(making: Promise<unknown>): Promise<void> {
  try {
    await making
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
}

/** Whether the worker's task was given files, or was left some, or may one be that a session worker will get. */
export function mayHaveFiles({ run }: Pick<WorkerOrder, 'run'>): boolean {
  return run === null || run.files.length + run.previous.length > 0
}

/** Readable, and different for every preset also where only punctuation differs. */
function cacheName(preset: PresetId): string {
  const hash = createHash('sha256').update(preset).digest('hex').slice(0, 8)
  return `${preset.replace(/[^A-Za-z0-9._-]+/g, '-').slice(0, 80)}-${hash}`
}
