import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type AssignedGpu, runCommand, type TextMap, workerEnvironment } from '@gpu-service/tasks'
import Dockerode from 'dockerode'
import { Hearing } from './hearing.ts'
import { type Examination, seconds } from './one-off.ts'
import { programOf, specOf, type Subject } from './subject.ts'

export interface BareExamination extends Examination {
  readonly subject: Exclude<Subject, { kind: 'preset' }>
  readonly env: TextMap
  /** `null`: an empty one. */
  readonly modelsDir: string | null
  readonly gpus: readonly AssignedGpu[]
  readonly signal: AbortSignal
}

/** A worker whose standard input is in our hands. The runners never end that of a session, and say only what the protocol has. */
interface BareWorker {
  readonly hearing: Hearing
  readonly stdin: NodeJS.WritableStream
  remove(): Promise<void>
}

const RUN_ID = 'bare.1'
/** Where a container finds its models. */
const MODELS = '/models'

/** Grades what a session worker does with commands that it does not know, and with the end of its input. */
export async function examineBareInput(examination: BareExamination): Promise<void> {
  const { notebook, limits, subject, env, input, modelsDir, gpus, signal } = examination
  await notebook.check('session: passes over commands that it does not know', async () => {
    return withWorker(async ({ hearing, stdin }) => {
      stdin.write('{"command":"conformance","task_id":"none.1"}\n\n{"colour":"blue"}\n')
      const [line] = runCommand(
        { runId: RUN_ID, attempt: 1, input, files: [], previous: [] },
        { output: tmpdir(), input: tmpdir(), previous: tmpdir() },
      ).split('}\n')
      hearing.give(RUN_ID)
      stdin.write(`${String(line)},"colour":"blue"}\n`)
      if (!(await hearing.until(limits.taskMs, () => hearing.finished.has(RUN_ID)))) {
        const how = hearing.exit === null ? 'it does not do the task that follows' : 'it ends'
        notebook.find(
          'DIES_ON_UNKNOWN_COMMAND',
          `After a command that does not exist ${how}.${hearing.evidence}`,
        )
      }
    })
  })
  await notebook.check('session: ends with its input', async () => {
    return withWorker(async ({ hearing, stdin }) => {
      stdin.end()
      if (!(await hearing.ended(limits.stopMs)))
        notebook.find(
          'IGNORES_END_OF_INPUT',
          `${seconds(limits.stopMs)} after the end of its standard input it still runs.`,
        )
    })
  })

  /** Gives why nothing can be said of it, or `null`. */
  async function withWorker(look: (worker: BareWorker) => Promise<void>): Promise<string | null> {
    signal.throwIfAborted()
    const folder = await mkdtemp(join(tmpdir(), 'conformance-'))
    try {
      const worker = await (subject.kind === 'image'
        ? startContainer(subject)
        : startProcess(subject, folder))
      const remove = (): void => {
        worker.remove().catch(() => undefined)
      }
      signal.addEventListener('abort', remove)
      try {
        const { hearing } = worker
        if (!(await hearing.until(limits.taskMs, () => hearing.isReady)))
          return `it does not become ready when it is started once more.${hearing.evidence}`
        await look(worker)
        return null
      } finally {
        signal.removeEventListener('abort', remove)
        await worker.remove()
      }
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  }

  function environment(home: string, models: string): TextMap {
    const spec = specOf(subject, 'SESSION', env, 1)
    const paths = {
      models,
      inputFile: null,
      inputDir: null,
      previousDir: null,
      outputDir: null,
      home,
      secrets: null,
      cache: home,
    }
    return workerEnvironment({ spec, gpus, run: null }, paths)
  }

  function startProcess({ command, cwd }: Subject & { kind: 'command' }, home: string): Promise<BareWorker> {
    const [program = '', ...args] = programOf(command)
    const child = spawn(program, args, {
      cwd,
      env: { PATH: process.env['PATH'], ...environment(home, modelsDir ?? home) },
      detached: true,
    })
    const hearing = new Hearing(Date.now())
    for (const stream of ['stdout', 'stderr'] as const)
      child[stream].on('data', (bytes: Buffer) => {
        hearing.hear(stream, bytes, Date.now())
      })
    // One that has ended reads no more.
    child.stdin.on('error', () => undefined)
    const closed = new Promise<void>((resolve) => {
      child.on('close', (code) => {
        hearing.over({ exitCode: code, oomKilled: false, finishedAt: Date.now() })
        resolve()
      })
    })
    return Promise.resolve({
      hearing,
      stdin: child.stdin,
      async remove() {
        // With all that it has started.
        if (hearing.exit === null && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
        await closed
      },
    })
  }

  async function startContainer({ image, command }: Subject & { kind: 'image' }): Promise<BareWorker> {
    const docker = new Dockerode()
    const container = await docker.createContainer({
      Image: image,
      ...(command.length > 0 && { Cmd: [...command] }),
      Env: Object.entries(environment('/tmp', modelsDir === null ? '/tmp' : MODELS)).map(
        ([name, value]) => `${name}=${value}`,
      ),
      User: '65534:65534',
      OpenStdin: true,
      StdinOnce: true,
      HostConfig: {
        NetworkMode: 'none',
        CapDrop: ['ALL'],
        Init: true,
        ...(modelsDir !== null && { Binds: [`${modelsDir}:${MODELS}:ro`] }),
        ...(gpus.length > 0 && {
          DeviceRequests: [
            { Driver: 'nvidia', DeviceIDs: gpus.map(({ id }) => id), Capabilities: [['gpu']] },
          ],
        }),
      },
    })
    const connection = await container.attach({
      stream: true,
      stdin: true,
      stdout: true,
      stderr: true,
      hijack: true,
    })
    const hearing = new Hearing(Date.now())
    connection.on('error', () => undefined)
    readFrames(connection, (stream, bytes) => {
      hearing.hear(stream, bytes, Date.now())
    })
    await container.start()
    const ended = container.wait().then((answer: { StatusCode: number }) => {
      hearing.over({ exitCode: answer.StatusCode, oomKilled: false, finishedAt: Date.now() })
    })
    return {
      hearing,
      stdin: connection,
      async remove() {
        await container.remove({ force: true })
        await ended
      },
    }
  }
}

/** The frames of an attached container: one byte for the stream, three of nothing, four for the length, and so many bytes. */
function readFrames(
  connection: NodeJS.ReadableStream,
  take: (stream: 'stdout' | 'stderr', bytes: Buffer) => void,
): void {
  let held = Buffer.alloc(0)
  connection.on('data', (bytes: Buffer) => {
    held = Buffer.concat([held, bytes])
    while (held.length >= 8) {
      const end = 8 + held.readUInt32BE(4)
      if (held.length < end) return
      take(held[0] === 2 ? 'stderr' : 'stdout', held.subarray(8, end))
      held = held.subarray(end)
    }
  })
}
