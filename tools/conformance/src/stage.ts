import { randomBytes, randomUUID } from 'node:crypto'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createDockerRunner } from '@gpu-service/docker-runner'
import { createProcessRunner } from '@gpu-service/process-runner'
import {
  type AssignedGpu,
  type JsonValue,
  type Logger,
  OUTPUT_START,
  type OutputStream,
  RunnerError,
  type RunOrder,
  silentLogger,
  type TextMap,
  type WorkerId,
  type WorkerInput,
  type WorkerMode,
  type WorkerName,
  type WorkerRunner,
} from '@gpu-service/tasks'
import { CannotStart } from './cannot-start.ts'
import { readFiles } from './files.ts'
import { Hearing } from './hearing.ts'
import { LOCAL_IMAGE, specOf, type Subject } from './subject.ts'

export interface StageOptions {
  readonly subject: Subject
  readonly env: TextMap
  /** `null`: an empty one. */
  readonly modelsDir: string | null
  readonly concurrency: number
  /** The files of this machine that its tasks are given. */
  readonly files: readonly string[]
  /** What an image or a command holds. A preset says it itself. */
  readonly gpus: readonly AssignedGpu[]
  /** Shown all that workers print, as it comes. */
  readonly onOutput?: (stream: OutputStream, bytes: Uint8Array) => void
  /** Aborted: the workers are removed, and there are no more. */
  readonly signal: AbortSignal
}

/** A worker as it runs in the service. */
export interface Performer {
  readonly hearing: Hearing
  /** SIGTERM, and SIGKILL after the grace; gives how long it took. */
  stop(graceMs: number): Promise<number>
  /** The folder of a task's artifacts, as it is reached here. */
  outputFolder(runId: string): string
  /** Removes it, whether it still runs or not. */
  remove(): Promise<void>
}

export interface SessionPerformer extends Performer {
  /** Gives it a task, and tells its name. */
  run(input: JsonValue): Promise<string>
  cancel(runId: string): Promise<void>
  shutdown(): Promise<void>
}

/** Where one worker is tried out, by the runner that the service would use. Nothing is left of it when it is disposed. */
export interface Stage extends AsyncDisposable {
  /** Throws a `CannotStart`, or the reason of the signal. */
  startOneOff(input: JsonValue): Promise<Performer & { readonly runId: string }>
  /** Throws a `CannotStart`, or the reason of the signal. */
  startSession(): Promise<SessionPerformer>
}

/** Throws a `CannotStart` where a file that tasks are to be given cannot be read. */
export async function openStage(options: StageOptions): Promise<Stage> {
  const { subject, env, modelsDir, concurrency, onOutput, signal } = options
  const { gpus, secrets } = subject.kind === 'preset' ? subject : { gpus: options.gpus, secrets: [] }
  const files = await readFiles(options.files)
  const root = await mkdtemp(join(tmpdir(), 'conformance-'))
  // Workers in containers are somebody else.
  await chmod(root, 0o755)
  const installation = `conformance${randomBytes(4).toString('hex')}`
  const runner = openRunner(subject, {
    installation,
    dataDir: join(root, 'data'),
    modelsDir: modelsDir ?? join(root, 'models'),
    logger: silentLogger,
  })

  const names = new Set<WorkerName>()
  // What is being heard of them then ends, and with it what waits for it.
  const removeAll = (): void => {
    for (const name of names) runner.remove(name).catch(() => undefined)
  }
  signal.addEventListener('abort', removeAll)

  async function start(mode: WorkerMode, run: RunOrder | null): Promise<Performer & { name: WorkerName }> {
    signal.throwIfAborted()
    const workerId = randomUUID() as WorkerId
    const name = `gpu-${installation}-${workerId}` as WorkerName
    const spec = specOf(subject, mode, env, concurrency)
    names.add(name)
    const started = await runner.start({ name, workerId, spec, gpus, secrets, run })
    // One that was removed while it was being started would be said not to start.
    signal.throwIfAborted()
    if (started.status === 'failed') {
      names.delete(name)
      throw new CannotStart(`${started.message} ${started.hint}`)
    }
    const hearing = new Hearing(started.startedAt)
    if (run !== null) hearing.give(run.runId)
    const reading = new AbortController()
    const read = listen(runner, name, hearing, reading.signal, onOutput)
    return {
      name,
      hearing,
      async stop(graceMs) {
        const from = performance.now()
        await runner.stop(name, { graceMs })
        await read
        return performance.now() - from
      },
      outputFolder: (runId) => runner.outputFolder(name, runId).host,
      async remove() {
        await runner.remove(name)
        names.delete(name)
        reading.abort()
        await read
      },
    }
  }

  return {
    async startOneOff(input) {
      const run = { runId: `${randomUUID()}.1`, attempt: 1, input, files, previous: [] }
      return { ...(await start('ONE_OFF', run)), runId: run.runId }
    },
    async startSession() {
      const performer = await start('SESSION', null)
      const { name, hearing } = performer
      let opened: Promise<WorkerInput> | null = null
      const channel = (): Promise<WorkerInput> => (opened ??= runner.openInput(name))
      return {
        ...performer,
        async run(input) {
          const runId = `${randomUUID()}.1`
          hearing.give(runId)
          await unlessOver(async () =>
            (await channel()).run({ runId, attempt: 1, input, files, previous: [] }),
          )
          return runId
        },
        cancel: (runId) => unlessOver(async () => (await channel()).cancel(runId)),
        shutdown: () => unlessOver(async () => (await channel()).shutdown()),
        async remove() {
          await opened?.then(
            (input) => {
              input.detach()
            },
            () => undefined,
          )
          await performer.remove()
        },
      }
    },
    async [Symbol.asyncDispose]() {
      signal.removeEventListener('abort', removeAll)
      for (const name of names) await runner.remove(name)
      await runner[Symbol.asyncDispose]()
      await rm(root, { recursive: true, force: true })
    },
  }
}

/** A worker that has just ended hears nothing more; that it has ended is heard from itself. */
async function unlessOver(send: () => Promise<void>): Promise<void> {
  try {
    await send()
  } catch (error) {
    if (!(error instanceof RunnerError)) throw error
  }
}

async function listen(
  runner: WorkerRunner,
  name: WorkerName,
  hearing: Hearing,
  signal: AbortSignal,
  onOutput: StageOptions['onOutput'],
): Promise<void> {
  for await (const item of runner.output(name, { after: OUTPUT_START, signal })) {
    if (item.kind === 'data') {
      onOutput?.(item.stream, item.bytes)
      hearing.hear(item.stream, item.bytes, item.at)
    } else if (item.kind === 'end') hearing.over(item.exit)
    else if (item.kind === 'lost') hearing.over({ exitCode: null, oomKilled: false, finishedAt: Date.now() })
  }
}

function openRunner(
  subject: Subject,
  options: { installation: string; dataDir: string; modelsDir: string; logger: Logger },
): WorkerRunner {
  if (subject.kind !== 'command') return createDockerRunner({ ...options, credentialsFile: null })
  // The command is run where the person who grades it is.
  const local = {
    name: 'graded',
    image: LOCAL_IMAGE,
    description: null,
    folder: subject.cwd,
    localCommand: null,
  }
  return createProcessRunner({ ...options, packages: { find: () => Promise.resolve(local) } })
}
