import { cp } from 'node:fs/promises'
import { openStage, type Subject } from '@gpu-service/conformance'
import { createEventParser, createLineReader } from '@gpu-service/event-parser'
import type { AssignedGpu, JsonValue, TextMap } from '@gpu-service/tasks'
import { eventText } from './event-text.ts'

export interface RunOptions {
  readonly subject: Subject
  readonly input: JsonValue
  readonly env?: TextMap
  /** What MODEL_PATH points at; `null`, unless told: an empty folder. */
  readonly modelsDir?: string | null
  /** The files of this machine that the task is given. */
  readonly files?: readonly string[]
  /** What an image holds. */
  readonly gpus?: readonly AssignedGpu[]
  /** Where what it has made is copied to in the end; `null`, unless told: nowhere. */
  readonly outputDir?: string | null
  readonly print: (line: string) => void
  /** Aborted: the worker is removed, and its reason thrown. */
  readonly signal?: AbortSignal
}

const MAX_STDERR_LINE = 64 * 1024
/** No timer can wait longer than some 24 days. */
const A_DAY_MS = 86_400_000

/**
 * Gives one task to a worker, confined as in the service but without it, and prints what it says, each line with the seconds since its start.
 * Whether the task was completed. Throws a `CannotStart`, and a `RunnerError` where the engine is away.
 */
export async function runWorker({
  subject,
  input,
  env = {},
  modelsDir = null,
  files = [],
  gpus = [],
  outputDir = null,
  print,
  signal = new AbortController().signal,
}: RunOptions): Promise<boolean> {
  const started = performance.now()
  const say = (text: string): void => {
    print(`${((performance.now() - started) / 1000).toFixed(2).padStart(7)}  ${readable(text)}`)
  }
  const streams = {
    stdout: createEventParser({
      event: (event) => {
        say(eventText(event))
      },
      log: (line) => {
        say(`(no event)   ${line}`)
      },
      fault: ({ kind, detail, line }) => {
        say(`BROKEN       ${kind}: ${detail}: ${line}`)
      },
    }),
    stderr: createLineReader(
      {
        line: (line) => {
          say(`stderr       ${line}`)
        },
      },
      { maxLineBytes: MAX_STDERR_LINE },
    ),
  }
  await using stage = await openStage({
    ...{ subject, env, modelsDir, files, gpus, signal },
    concurrency: 1,
    onOutput: (stream, bytes) => {
      streams[stream].feed(bytes)
    },
  })
  const worker = await stage.startOneOff(input)
  const { hearing, runId } = worker
  while (!(await hearing.ended(A_DAY_MS)));
  signal.throwIfAborted()
  for (const stream of Object.values(streams)) stream.end()
  if (outputDir !== null) await cp(worker.outputFolder(runId), outputDir, { recursive: true })
  const { exitCode } = hearing
  say(exitCode === null ? 'It is gone' : `It has exited with code ${exitCode}`)
  const finish = hearing.finished.get(runId)?.event
  return finish?.type === 'finish' && finish.status === 'completed' && exitCode === 0
}

/** Without what would change the terminal. */
function readable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, '\uFFFD')
}
