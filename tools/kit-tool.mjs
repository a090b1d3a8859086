// What the commands for worker packages have in common.
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { prepare, ROOT, SetupError } from './setup.mjs'

/** Where npm was called. */
export const CWD = process.env.INIT_CWD ?? process.cwd()

export class UsageError extends Error {}

const interrupt = new AbortController()

/**
 * Runs a command; its exit code is 2 where it was called wrongly or what it needs is missing, which is said in a line.
 * @param {{ usage: string, options: import('node:util').ParseArgsConfig['options'] }} command
 * @param {(kit: typeof import('./kit/src/index.ts'), call: { values: any, positionals: string[], signal: AbortSignal }) => Promise<void>} run
 */
export async function kitTool({ usage, options }, run) {
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => interrupt.abort(signal))
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { ...options, help: { type: 'boolean', short: 'h' } },
    })
    if (values.help) {
      console.log(usage)
      return
    }
    await prepare()
    await run(await load('./kit/src/index.ts'), { values, positionals, signal: interrupt.signal })
  } catch (error) {
    process.exitCode = interrupt.signal.aborted ? 130 : 2
    if (interrupt.signal.aborted) console.error(`Interrupted by ${interrupt.signal.reason}`)
    else if (error instanceof UsageError || error.code?.startsWith('ERR_PARSE_ARGS'))
      console.error(`${error.message}\nUsage: ${usage}`)
    else if (error instanceof SetupError || SAID.has(error.name)) console.error(error.message)
    else throw error
  }
}

/** Errors that say what is to be done. */
const SAID = new Set(['KitError', 'RunnerError', 'CannotStart', 'EngineError', 'RootfsError'])

async function load(path) {
  const { tsImport } = await import('tsx/esm/api')
  return tsImport(path, import.meta.url)
}

/** The settings of the service that would run here. */
export async function readSettings() {
  const { readConfig, describeProblems } = await load('../apps/api/src/config.ts')
  const read = readConfig(process.env, { cwd: CWD })
  if (read.status === 'invalid') throw new SetupError(describeProblems(read.problems))
  const { config } = read
  return { ...config, presetsFile: config.presetsFile ?? join(ROOT, 'apps/api/config/model_presets.yaml') }
}

/** JSON as an argument, or in a file. */
export async function readInput(text) {
  try {
    return JSON.parse(/^\s*[[{"]/.test(text) ? text : await readFile(resolve(CWD, text), 'utf8'))
  } catch (error) {
    throw new UsageError(`--input is JSON or a file of it: ${error.message}`)
  }
}

export function readVariables(texts) {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf('=')
      if (at < 1) throw new UsageError(`--env is NAME=VALUE, not ${text}`)
      return [text.slice(0, at), text.slice(at + 1)]
    }),
  )
}

/** The one argument that is not an option. */
export function onlyArgument(positionals, what) {
  if (positionals.length !== 1) throw new UsageError(`Name ${what}.`)
  return positionals[0]
}
