import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Logger, Secret, type WorkerExit } from '@gpu-service/tasks'
import { bootId, markedProcesses, parseIdentity, type ProcessIdentity, runs } from './process-table.ts'

/** Where the files of one worker are. What is known of it is what stands in this folder: the runner remembers nothing. */
export interface WorkerFolder {
  readonly path: string
  /** The worker's name, also while its folder is being removed. */
  readonly name: string
  /** The boot under which it was launched, written by the service before the launcher is started. */
  readonly launch: string
  /** The launcher of the worker, written by itself before the worker begins. */
  readonly identity: string
  /** The exit code, written by the launcher. */
  readonly exit: string
  /** There once the service has decided to kill the worker, launcher and all. */
  readonly forced: string
  readonly stdin: string
  readonly stdout: string
  readonly stderr: string
  readonly input: string
  /** One file for each secret; not there where it has none. */
  readonly secrets: string
  readonly home: string
  /** All three hold one folder per run. */
  readonly files: string
  readonly previous: string
  readonly output: string
}

export function workerFolder(path: string, name: string): WorkerFolder {
  return {
    path,
    name,
    launch: join(path, 'launch.json'),
    identity: join(path, 'identity'),
    exit: join(path, 'exit'),
    forced: join(path, 'forced'),
    stdin: join(path, 'stdin'),
    stdout: join(path, 'stdout.log'),
    stderr: join(path, 'stderr.log'),
    input: join(path, 'input.json'),
    secrets: join(path, 'secrets'),
    home: join(path, 'home'),
    files: join(path, 'files'),
    previous: join(path, 'previous'),
    output: join(path, 'output'),
  }
}

/** What a folder says of its worker. */
export type Finding =
  | { readonly phase: 'created' }
  | {
      readonly phase: 'running'
      readonly identity: ProcessIdentity
      readonly startedAt: number
      /** Its main process has ended, or is being killed; the rest follows within milliseconds. */
      readonly ending: boolean
    }
  | {
      readonly phase: 'exited'
      readonly identity: ProcessIdentity
      readonly startedAt: number
      readonly exit: WorkerExit
    }
  /** `remains`: its folder is there, but does not tell any more what became of it. */
  | { readonly phase: 'unknown'; readonly remains: boolean; readonly detail: string }

/** Reads a folder and looks at its processes. Damaged files make the worker unknown; they are logged and never thrown. */
export async function examine(folder: WorkerFolder, logger: Logger): Promise<Finding> {
  // The exit is read last: a launcher that is gone by then has written all that it will ever write.
  const launched = await readSmall(folder.launch)
  if (!launched) {
    if (await readStat(folder.path)) return { phase: 'created' }
    return { phase: 'unknown', remains: false, detail: 'There is no such worker.' }
  }
  const boot = parseLaunch(launched.text)
  if (boot === null) return damaged(folder.launch)
  const sameBoot = boot === (await bootId())
  const identityFile = await readSmall(folder.identity)
  if (!identityFile) {
    if (sameBoot) return { phase: 'created' }
    return { phase: 'unknown', remains: true, detail: 'The host was restarted before the worker began.' }
  }
  const identity = parseIdentity(identityFile.text)
  if (!identity) return damaged(folder.identity)

  const startedAt = identityFile.writtenAt
  const running = sameBoot && (await groupRuns(identity, folder.name))
  const [exitFile, forced] = [await readSmall(folder.exit), await readStat(folder.forced)]
  if (running) {
    const ending = exitFile !== null || forced !== null
    return { phase: 'running', identity, startedAt, ending }
  }
  const exit = (exitCode: number | null, finishedAt: number): Finding => ({
    phase: 'exited',
    identity,
    startedAt,
    exit: { exitCode, oomKilled: false, finishedAt },
  })
  if (exitFile) return exit(parseExitCode(exitFile.text), exitFile.writtenAt)
  if (forced) return exit(137, Math.round(forced.mtimeMs))
  if (!sameBoot)
    return { phase: 'unknown', remains: true, detail: 'The host was restarted while the worker ran.' }
  // Only a kill of the launcher itself comes here.
  return exit(null, Math.round((await readStat(folder.stdout))?.mtimeMs ?? startedAt))

  function damaged(file: string): Finding {
    logger.warn({ worker: folder.name, file }, 'A file of a worker is damaged; the worker counts as lost')
    return { phase: 'unknown', remains: true, detail: `${file} is damaged.` }
  }
}

/** Records under which boot a worker is launched. Durable when it resolves. */
export async function recordLaunch(folder: WorkerFolder): Promise<void> {
  await writeWhole(folder.launch, `${JSON.stringify({ version: 1, bootId: await bootId() })}\n`, {
    durable: true,
  })
}

/** Writes a file so that a reader finds all of it or nothing. */
export async function writeWhole(
  path: string,
  content: string | Uint8Array,
  options?: { durable?: boolean; mode?: number },
): Promise<void> {
  const temporary = `${path}.${randomUUID()}`
  {
    await using file = await open(temporary, 'wx', options?.mode ?? 0o600)
    await file.writeFile(content)
    if (options?.durable) await file.sync()
  }
  await rename(temporary, path)
  if (!options?.durable) return
  await using parent = await open(dirname(path), 'r')
  await parent.sync()
}

/** The secrets that a worker was given. */
export async function readSecrets({ secrets }: WorkerFolder): Promise<readonly Secret[]> {
  let names: string[]
  try {
    names = await readdir(secrets)
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
  return Promise.all(names.map(async (name) => new Secret(name, await readFile(join(secrets, name)))))
}

/** Makes a folder that only this user can enter. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 })
}

/** The leader, or what is left of its group where the leader is gone. A number that another process was given is not ours any more. */
async function groupRuns(identity: ProcessIdentity, name: string): Promise<boolean> {
  if (await runs(identity)) return true
  try {
    process.kill(-identity.pid, 0)
  } catch {
    return false
  }
  return (await markedProcesses(name, identity)).length > 0
}

function parseLaunch(text: string): string | null {
  try {
    const value: unknown = JSON.parse(text)
    const parsed = typeof value === 'object' && value !== null && 'bootId' in value ? value.bootId : null
    return typeof parsed === 'string' && parsed !== '' ? parsed : null
  } catch {
    return null
  }
}

function parseExitCode(text: string): number | null {
  return /^\d{1,3}\n$/.test(text) ? Number(text) : null
}

/** The start of a file that is small by right, and when it was written; `null`: there is none. */
async function readSmall(path: string): Promise<{ text: string; writtenAt: number } | null> {
  try {
    await using file = await open(path, 'r')
    const { bytesRead, buffer } = await file.read(Buffer.alloc(4_096), 0, 4_096, 0)
    const { mtimeMs } = await file.stat()
    return { text: buffer.toString('utf8', 0, bytesRead), writtenAt: Math.round(mtimeMs) }
  } catch (error) {
    if (isMissing(error)) return null
    throw error
  }
}

async function readStat(path: string): Promise<{ mtimeMs: number } | null> {
  try {
    return await stat(path)
  } catch (error) {
    if (isMissing(error)) return null
    throw error
  }
}

export function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}
