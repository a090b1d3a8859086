import { randomUUID } from 'node:crypto'
import { readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import {
  type ListedWorker,
  type Logger,
  type OutputCursor,
  runCommand,
  type RunFolders,
  RunnerError,
  type RunOrder,
  type StartFailure,
  type StartResult,
  type TextMap,
  type WorkerName,
  type WorkerOrder,
  type WorkerRunner,
  type WorkerState,
  type WorkerInput,
  type WorkerOutput,
  workerEnvironment,
} from '@gpu-service/tasks'
import { findProgram, hostEnvironment } from './command.ts'
import { makePipe, openPipe } from './input-pipe.ts'
import { launch } from './launcher.ts'
import { readOutputFiles } from './output-files.ts'
import {
  MARKER,
  markedProcesses,
  type ProcessIdentity,
  runs,
  send,
  workerProcesses,
} from './process-table.ts'
import {
  examine,
  type Finding,
  isMissing,
  makeFolder,
  readSecrets,
  recordLaunch,
  type WorkerFolder,
  workerFolder,
  writeWhole,
} from './worker-folder.ts'
import type { WorkerPackages } from './worker-packages.ts'

export interface ProcessRunnerOptions {
  /** The installation whose workers these are. */
  readonly installation: string
  /** Where workers' files are kept, below `workers` and `cache`. */
  readonly dataDir: string
  readonly modelsDir: string
  readonly packages: WorkerPackages
  readonly logger: Logger
}

/** How long a process may take to vanish after SIGKILL: longer, and it hangs in the kernel. */
const KILL_DEADLINE_MS = 10_000
/** Folders that are being removed; they are no workers any more. */
const REMOVED = '.removed-'

/**
 * The runner for machines without Docker: workers are plain processes with the rights of the service, neither confined nor limited. Of a
 * spec, the image is looked up among the worker packages; volumes, limits, the network and relaxations have no effect.
 */
export function createProcessRunner(options: ProcessRunnerOptions): WorkerRunner {
  const { installation, packages, logger } = options
  const dataDir = resolve(options.dataDir)
  const modelsDir = resolve(options.modelsDir)
  const workersDir = join(dataDir, 'workers')
  const prefix = `gpu-${installation}-`
  const readings = new Set<AbortController>()

  function folderOf(name: string): WorkerFolder {
    return workerFolder(join(workersDir, asEntry(name)), name)
  }

  function runFolders(folder: WorkerFolder, runId: string): RunFolders {
    const entry = asEntry(runId)
    return {
      input: join(folder.files, entry),
      previous: join(folder.previous, entry),
      output: join(folder.output, entry),
    }
  }

  /** Makes the folders of a run, with the files that it is given. */
  async function prepareRun(folder: WorkerFolder, { runId, files, previous }: RunOrder): Promise<RunFolders> {
    const folders = runFolders(folder, runId)
    await makeFolder(folders.output)
    await placeFiles(folders.input, files)
    await placeFiles(folders.previous, previous)
    return folders
  }

  const look = (folder: WorkerFolder): Promise<Finding> => examine(folder, logger)

  async function start(order: WorkerOrder): Promise<StartResult> {
    const folder = folderOf(order.name)
    const before = await look(folder)
    if (before.phase === 'running' || before.phase === 'exited') return startedAs(before)
    if (before.phase === 'unknown' && before.remains) {
      await remove(folder)
      return refusal(`A worker of this name was there before and is lost. ${before.detail}`)
    }
    const program = await resolveProgram(order, folder)
    if ('status' in program) {
      await remove(folder)
      return program
    }
    try {
      await prepare(order, folder)
      await launch({ folder, ...program, session: order.run === null })
    } catch (error) {
      await remove(folder)
      return refusal(error instanceof Error ? error.message : String(error))
    }
    const after = await look(folder)
    if (after.phase === 'running' || after.phase === 'exited') return startedAs(after)
    await remove(folder)
    return refusal("The worker's launcher ended before it could start the worker.")
  }

  /** What is to be run for an order, where and with which environment. */
  async function resolveProgram(
    { name, spec, gpus, secrets, run }: WorkerOrder,
    folder: WorkerFolder,
  ): Promise<{ command: readonly string[]; cwd: string; env: TextMap } | StartFailure> {
    const found = await packages.find(spec.image)
    const command = spec.localCommand ?? found?.localCommand
    const [word] = command ?? []
    if (!command || word === undefined) {
      return {
        status: 'failed',
        code: 'NO_LOCAL_COMMAND',
        message: found
          ? `The worker package ${found.name} cannot be run without Docker: its manifest has no local command.`
          : `No worker package is made for the image ${spec.image}, so it cannot be run without Docker.`,
        hint: found
          ? `Add \`local: {command: [...]}\` to worker.yaml in ${found.folder}, or run the service with Docker.`
          : `Give the preset a \`local\` command, add a worker package whose worker.yaml says \`image: ${spec.image}\`, or run the service with Docker.`,
      }
    }
    const cwd = found?.folder ?? folder.home
    const env: TextMap = {
      ...hostEnvironment(gpus),
      ...workerEnvironment(
        { spec, gpus, run },
        {
          models: modelsDir,
          inputFile: run && folder.input,
          inputDir: run !== null && run.files.length > 0 ? runFolders(folder, run.runId).input : null,
          previousDir:
            run !== null && run.previous.length > 0 ? runFolders(folder, run.runId).previous : null,
          outputDir: run && runFolders(folder, run.runId).output,
          home: folder.home,
          secrets: secrets.length > 0 ? folder.secrets : null,
          cache: cachePath(spec.presetId),
        },
      ),
      [MARKER]: name,
    }
    const path = env['PATH'] ?? ''
    const program = await findProgram(word, cwd, path)
    if (program === null) {
      return {
        status: 'failed',
        code: 'COMMAND_NOT_FOUND',
        message: `The worker's program ${word} was not found, or cannot be executed.`,
        hint: word.includes('/')
          ? `It is looked for in ${cwd}. Check that it exists and is executable.`
          : `Install it, or put its folder on the PATH of the service (now ${path}).`,
      }
    }
    return { command: [program, ...command.slice(1)], cwd, env }
  }

  /** Makes all that the launcher needs; the launch record comes last and makes the rest count. */
  async function prepare({ spec, secrets, run }: WorkerOrder, folder: WorkerFolder): Promise<void> {
    for (const path of [workersDir, cachePath(spec.presetId), folder.home, folder.output])
      await makeFolder(path)
    for (const path of [folder.stdout, folder.stderr]) await writeFile(path, '', { flag: 'a', mode: 0o600 })
    if (secrets.length > 0) await makeFolder(folder.secrets)
    for (const secret of secrets)
      await writeWhole(join(folder.secrets, asEntry(secret.name)), secret.reveal(), { mode: 0o400 })
    if (run) {
      const folders = await prepareRun(folder, run)
      await writeWhole(folder.input, JSON.stringify(run.input))
      await writeWhole(folder.stdin, runCommand(run, folders))
    } else {
      await makePipe(folder.stdin)
    }
    await recordLaunch(folder)
  }

  function cachePath(presetId: string): string {
    return join(dataDir, 'cache', encodeURIComponent(presetId))
  }

  /** Kills what runs of a worker: its group, and what has left the group. Resolves when all of it is gone. */
  async function kill(folder: WorkerFolder): Promise<void> {
    const finding = await look(folder)
    if (finding.phase === 'running' && (await runs(finding.identity))) {
      // Said first: the launcher dies with its group and records nothing.
      await writeFile(folder.forced, '', { flag: 'a', mode: 0o600 })
      send(-finding.identity.pid, 'SIGKILL')
    }
    const oldest = 'identity' in finding ? finding.identity : null
    await killMarked(folder.name, oldest, async () => (await look(folder)).phase !== 'running')
  }

  /** Kills the processes that carry the worker's name until there are none and `isOver`. */
  async function killMarked(
    name: string,
    oldest: ProcessIdentity | null,
    isOver: () => Promise<boolean>,
  ): Promise<void> {
    const gone = await comesTrue(KILL_DEADLINE_MS, async () => {
      const left = await markedProcesses(name, oldest)
      for (const pid of left) send(pid, 'SIGKILL')
      return left.length === 0 && (await isOver())
    })
    if (!gone) throw new RunnerError('ENGINE_REFUSED', `Processes of ${name} still run after SIGKILL.`)
  }

  async function stop(folder: WorkerFolder, graceMs: number): Promise<void> {
    const finding = await look(folder)
    if (finding.phase === 'running' && (await runs(finding.identity))) {
      send(-finding.identity.pid, 'SIGTERM')
      await comesTrue(graceMs, async () => (await look(folder)).phase !== 'running')
    }
    await kill(folder)
  }

  async function processes(folder: WorkerFolder): Promise<readonly number[]> {
    const finding = await look(folder)
    return finding.phase === 'running' ? workerProcesses(folder.name, finding.identity) : []
  }

  /** The renaming is what makes the worker unknown; a launcher on its way finds no folder to record itself in. */
  async function remove(folder: WorkerFolder): Promise<void> {
    const removed = join(workersDir, `${REMOVED}${folder.name}.${randomUUID()}`)
    try {
      await rename(folder.path, removed)
    } catch (error) {
      if (!isMissing(error)) throw error
      // Somebody has removed the folder; what runs of the worker carries its name still.
      await killMarked(folder.name, null, () => Promise.resolve(true))
      return
    }
    await discard(workerFolder(removed, folder.name))
  }

  async function discard(removed: WorkerFolder): Promise<void> {
    await kill(removed)
    await rm(removed.path, { recursive: true, force: true, maxRetries: 3 })
  }

  async function removeRuns(folder: WorkerFolder, isNeeded: (runId: string) => boolean): Promise<void> {
    const { output, files, previous } = folder
    const runIds = (await Promise.all([output, files, previous].map(entriesOf))).flat()
    for (const runId of new Set(runIds)) {
      if (isNeeded(runId)) continue
      const folders = runFolders(folder, runId)
      for (const path of [folders.input, folders.previous, folders.output])
        await rm(path, { recursive: true, force: true })
    }
  }

  async function list(): Promise<readonly ListedWorker[]> {
    const listed: ListedWorker[] = []
    for (const entry of await entriesOf(workersDir)) {
      if (entry.startsWith(prefix)) {
        const folder = folderOf(entry)
        listed.push({ name: entry as WorkerName, state: stateOf(await look(folder)) })
      } else if (entry.startsWith(REMOVED + prefix)) {
        await finishRemoval(entry)
      }
    }
    return listed
  }

  /** A removal that a crash or a refusal cut short. */
  async function finishRemoval(entry: string): Promise<void> {
    const name = entry.slice(REMOVED.length, entry.lastIndexOf('.'))
    try {
      await discard(workerFolder(join(workersDir, entry), name))
    } catch (error) {
      logger.warn({ worker: name, error }, 'What is left of a removed worker cannot be removed now')
    }
  }

  async function* output(
    folder: WorkerFolder,
    { after, signal }: { after: OutputCursor; signal: AbortSignal },
  ): AsyncGenerator<WorkerOutput, void> {
    const reading = new AbortController()
    const end = (): void => {
      reading.abort()
    }
    if (signal.aborted) return
    signal.addEventListener('abort', end, { once: true })
    readings.add(reading)
    try {
      yield* readOutputFiles(folder, () => look(folder), { after, signal: reading.signal, logger })
    } finally {
      readings.delete(reading)
      signal.removeEventListener('abort', end)
    }
  }

  return {
    kind: 'process',
    start: (order) => refusing(() => start(order)),
    output: (name, reading) => output(folderOf(name), reading),
    openInput: (name) => refusing(() => openInput(folderOf(name))),
    stop: (name, { graceMs }) => refusing(() => stop(folderOf(name), graceMs)),
    inspect: async (name) => stateOf(await refusing(() => look(folderOf(name)))),
    processes: (name) => refusing(() => processes(folderOf(name))),
    list: () => refusing(list),
    remove: (name) => refusing(() => remove(folderOf(name))),
    removeRuns: (name, isNeeded) => refusing(() => removeRuns(folderOf(name), isNeeded)),
    secrets: (name) => refusing(() => readSecrets(folderOf(name))),
    health: () => Promise.resolve({ ok: true, detail: 'process' }),

    outputFolder(name, runId) {
      const path = runFolders(folderOf(name), runId).output
      return { host: path, worker: path }
    },
    [Symbol.asyncDispose]() {
      for (const reading of readings) reading.abort()
      return Promise.resolve()
    },
  }

  function openInput(folder: WorkerFolder): Promise<WorkerInput> {
    return openPipe(folder.stdin, (run) => prepareRun(folder, run))
  }
}

type Begun = Extract<Finding, { phase: 'running' | 'exited' }>

function startedAs({ identity, startedAt }: Begun): StartResult {
  return { status: 'started', containerId: String(identity.pid), imageDigest: null, startedAt }
}

function refusal(message: string): StartFailure {
  return {
    status: 'failed',
    code: 'ENGINE_REFUSED',
    message,
    hint: "See the service's log, and check the free space and the rights of its data folder.",
  }
}

function stateOf(finding: Finding): WorkerState {
  switch (finding.phase) {
    case 'created':
      return { phase: 'created' }
    case 'running':
      return { phase: 'running', containerId: String(finding.identity.pid), startedAt: finding.startedAt }
    case 'exited':
      return { phase: 'exited', containerId: String(finding.identity.pid), exit: finding.exit }
    case 'unknown':
      return { phase: 'unknown' }
  }
}

/** Asks again and again, ever more slowly, until it is so (true) or the time is over (false). */
async function comesTrue(withinMs: number, isSo: () => Promise<boolean>): Promise<boolean> {
  const deadline = performance.now() + withinMs
  for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 1.5, 50)) {
    if (await isSo()) return true
    const leftMs = deadline - performance.now()
    if (leftMs <= 0) return false
    await setTimeout(Math.min(pauseMs, leftMs))
  }
}

/** Whatever the system refuses becomes the port's error; a name that cannot be one stays what it is, a mistake of the caller. */
async function refusing<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof RunnerError || error instanceof RangeError) throw error
    const message = error instanceof Error ? error.message : String(error)
    throw new RunnerError('ENGINE_REFUSED', message, { cause: error })
  }
}

/** Names and run ids become names of folders; one that would lead elsewhere is refused. */
function asEntry(name: string): string {
  if (/^[\w-][\w.-]{0,199}$/.test(name)) return name
  throw new RangeError(`${JSON.stringify(name)} cannot be the name of a folder`)
}

async function placeFiles(folder: string, files: RunOrder['files']): Promise<void> {
  if (files.length > 0) await makeFolder(folder)
  for (const file of files) await file.placeAt(join(folder, file.name))
}

async function entriesOf(folder: string): Promise<string[]> {
  try {
    return await readdir(folder)
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}
