import { randomUUID } from 'node:crypto'
import type { WorkerId, WorkerName } from '../ids.ts'
import type { JsonValue, TextMap } from '../json.ts'
import {
  type AssignedGpu,
  type InputFile,
  OUTPUT_START,
  type OutputCursor,
  type OutputStream,
  type RunOrder,
  type WorkerExit,
  type WorkerOrder,
  type WorkerRunner,
} from '../runner.ts'
import type { Secret } from '../secrets.ts'
import type { WorkerMode } from '../spec.ts'
import { EXAMPLE_SESSION, EXAMPLE_SPEC } from './example-spec.ts'

/** A worker that is a small program of the POSIX shell. */
export interface ScriptOptions {
  readonly installation: string
  /** An image with a `/bin/sh` and the usual small tools. */
  readonly image: string
  readonly script: string
  /** What is run instead of the shell with the script. */
  readonly command?: readonly string[]
  readonly mode?: WorkerMode
  /** The input of its task; one-off workers only. */
  readonly input?: JsonValue
  readonly env?: TextMap
  readonly modelPath?: string
  readonly gpus?: readonly AssignedGpu[]
  readonly secrets?: readonly Secret[]
  /** Those that its task is given; one-off workers only. */
  readonly files?: readonly InputFile[]
  /** What earlier attempts have left; one-off workers only. */
  readonly previous?: readonly InputFile[]
}

/** The same worker for every runner: the script is the image's command and the local command. */
export function scriptOrder(options: ScriptOptions): WorkerOrder {
  const id = randomUUID()
  const mode = options.mode ?? 'ONE_OFF'
  const command = options.command ?? ['/bin/sh', '-c', options.script]
  const { input = {}, files = [], previous = [] } = options
  const run: RunOrder = { runId: `${randomUUID()}.1`, attempt: 1, input, files, previous }
  return {
    name: `gpu-${options.installation}-${id}` as WorkerName,
    workerId: id as WorkerId,
    gpus: options.gpus ?? [],
    secrets: options.secrets ?? [],
    run: mode === 'ONE_OFF' ? run : null,
    spec: {
      ...EXAMPLE_SPEC,
      mode,
      image: options.image,
      command,
      localCommand: command,
      env: options.env ?? {},
      modelPath: options.modelPath ?? null,
      session: mode === 'SESSION' ? EXAMPLE_SESSION : null,
    },
  }
}

/** All that was read of a worker in one go. */
export interface ReadOutput {
  readonly stdout: Buffer
  readonly stderr: Buffer
  /** Every cursor that came, with the number of bytes of its stream that had been yielded by then. */
  readonly marks: readonly {
    readonly stream: OutputStream
    readonly cursor: string
    readonly bytes: number
  }[]
  /** Where reading on begins. */
  readonly cursor: OutputCursor
  readonly gaps: readonly string[]
  readonly notices: readonly string[]
  /** How the worker ended; `'lost'`, or `null` where reading was stopped first. */
  readonly end: WorkerExit | 'lost' | null
}

export interface ReadOptions {
  readonly after?: OutputCursor
  readonly signal: AbortSignal
  /** Stops reading, after what made it true. */
  readonly until?: (text: { readonly stdout: string; readonly stderr: string }) => boolean
}

/** Reads a worker until it ends, the signal is aborted or `until` is satisfied. Throws where anything follows the last item. */
export async function readOutput(
  runner: WorkerRunner,
  name: WorkerName,
  options: ReadOptions,
): Promise<ReadOutput> {
  const after = options.after ?? OUTPUT_START
  const chunks: Record<OutputStream, Buffer[]> = { stdout: [], stderr: [] }
  const lengths: Record<OutputStream, number> = { stdout: 0, stderr: 0 }
  const cursor: Record<OutputStream, string> = { ...after }
  const marks: ReadOutput['marks'][number][] = []
  const gaps: string[] = []
  const notices: string[] = []
  let end: ReadOutput['end'] = null

  for await (const item of runner.output(name, { after, signal: options.signal })) {
    if (end !== null) throw new Error(`${item.kind} came after the last item`)
    switch (item.kind) {
      case 'gap':
        gaps.push(item.detail)
        break
      case 'notice':
        notices.push(item.detail)
        break
      case 'end':
        end = item.exit
        break
      case 'lost':
        end = 'lost'
        break
      case 'data':
        // A copy: the bytes are valid only until the next item.
        chunks[item.stream].push(Buffer.from(item.bytes))
        lengths[item.stream] += item.bytes.length
        cursor[item.stream] = item.cursor
        marks.push({ stream: item.stream, cursor: item.cursor, bytes: lengths[item.stream] })
    }
    if (options.until?.({ stdout: join('stdout').toString(), stderr: join('stderr').toString() })) break
  }
  return { stdout: join('stdout'), stderr: join('stderr'), marks, cursor, gaps, notices, end }

  function join(stream: OutputStream): Buffer {
    return Buffer.concat(chunks[stream])
  }
}
