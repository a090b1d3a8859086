// npm run conformance: grades a worker against the protocol.
//   npm run conformance -- IMAGE [PROGRAM ARGUMENT …]
//   npm run conformance -- --command "python3 worker.py"
// 0: it follows the protocol. 1: it does not, and it is said how to mend that. 2: it could not be graded.
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { prepare, SetupError } from './setup.mjs'

const MODES = ['one-off', 'session', 'auto']
const USAGE = `npm run conformance -- IMAGE [PROGRAM ARGUMENT …] | --command "PROGRAM ARGUMENT …"
  --mode one-off|session|auto   auto: both, where it becomes ready as a session (the default)
  --input FILE.json             the input of its tasks; {} unless told
  --long-input FILE.json        of those that are to be stopped: some 15 s of work, so that a cancel can be judged; as --input unless told
  --file FILE                   a file that its tasks are given; more than once
  --concurrency N               how many tasks a session is to do at a time; 1 unless told
  --env NAME=VALUE              as in a preset's env_vars; more than once
  --models FOLDER               what MODEL_PATH points at
  --gpu ID                      a GPU that it holds, as nvidia-smi -L calls it; more than once
  --timeout SECONDS             how long it may take to become ready, and for a task; 120 unless told
  --json                        one JSON document instead of text`

/** Where npm was called. */
const CWD = process.env.INIT_CWD ?? process.cwd()

const interrupt = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => interrupt.abort(signal))

class UsageError extends Error {}

async function main() {
  const { values, positionals } = parse()
  if (values.help) {
    console.log(USAGE)
    return
  }
  const { options, gpus, isJson } = await readArguments(values, positionals)
  await prepare()
  const { tsImport } = await import('tsx/esm/api')
  /** @type {typeof import('./conformance/src/index.ts')} */
  const { checkText, gpusOf, gradeText, gradeWorker } = await tsImport(
    './conformance/src/index.ts',
    import.meta.url,
  )
  const onCheck = (check) => isJson || console.log(checkText(check))
  const grade = await gradeWorker({ ...options, gpus: gpusOf(gpus), onCheck, signal: interrupt.signal })
  console.log(isJson ? JSON.stringify(grade, null, 2) : `\n${gradeText(grade)}`)
  process.exitCode = grade.isConformant ? 0 : 1
}

async function readArguments(values, positionals) {
  const [image, ...program] = positionals
  if ((values.command === undefined) === (image === undefined))
    throw new UsageError('Name an image, or a --command.')
  const { mode, concurrency, timeout } = values
  if (!MODES.includes(mode)) throw new UsageError(`--mode is one of ${MODES.join(', ')}`)
  if (!/^[1-9]\d{0,2}$/.test(concurrency)) throw new UsageError('--concurrency is a number from 1 to 999')
  if (!(Number(timeout) > 0)) throw new UsageError('--timeout is a number of seconds above 0')
  const subject =
    values.command === undefined
      ? { kind: 'image', image, command: program }
      : { kind: 'command', command: values.command, cwd: CWD }
  const input = await readInput(values, 'input', {})
  const options = {
    ...{
      subject,
      mode,
      concurrency: Number(concurrency),
      modelsDir: values.models === undefined ? null : resolve(CWD, values.models),
    },
    input,
    files: values.file.map((file) => resolve(CWD, file)),
    longInput: await readInput(values, 'long-input', input),
    env: Object.fromEntries(values.env.map(readVariable)),
    limits: { taskMs: Number(timeout) * 1_000 },
  }
  return { options, gpus: values.gpu, isJson: values.json }
}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        command: { type: 'string' },
        mode: { type: 'string', default: 'auto' },
        input: { type: 'string' },
        'long-input': { type: 'string' },
        file: { type: 'string', multiple: true, default: [] },
        concurrency: { type: 'string', default: '1' },
        env: { type: 'string', multiple: true, default: [] },
        models: { type: 'string' },
        gpu: { type: 'string', multiple: true, default: [] },
        timeout: { type: 'string', default: '120' },
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
  } catch (error) {
    throw new UsageError(error.message)
  }
}

async function readInput(values, option, otherwise) {
  const file = values[option]
  if (file === undefined) return otherwise
  try {
    return JSON.parse(await readFile(resolve(CWD, file), 'utf8'))
  } catch (error) {
    throw new UsageError(`--${option}: ${error.message}`)
  }
}

function readVariable(text) {
  const at = text.indexOf('=')
  if (at < 1) throw new UsageError(`--env is NAME=VALUE, not ${text}`)
  return [text.slice(0, at), text.slice(at + 1)]
}

try {
  await main()
} catch (error) {
  if (error instanceof UsageError) {
    console.error(`${error.message}\n${USAGE}`)
    process.exitCode = 2
  } else if (interrupt.signal.aborted) {
    console.error(`Interrupted by ${interrupt.signal.reason}; what ran has been removed`)
    process.exitCode = 130
    // Docker cannot be reached, for instance.
  } else if (error instanceof SetupError || ['RunnerError', 'CannotStart'].includes(error.name)) {
    console.error(error.message)
    process.exitCode = 2
  } else throw error
}
