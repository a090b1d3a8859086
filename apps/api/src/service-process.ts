import { join } from 'node:path'
import { StoreError } from '@gpu-service/task-store'
import { NoKeyError } from './access/first-key.ts'
import { describeProblems, readConfig } from './config.ts'
import { keysCommand } from './keys-command.ts'
import { createLogger } from './log.ts'
import { type DecoratePorts, startService } from './start.ts'
import { welcome } from './welcome.ts'

/** The repository's root: this file is three folders below it, as source and as bundle. */
const root = join(import.meta.dirname, '../../..')

/** The whole life of a service that is a process of its own: from its environment to its exit. */
export function serviceProcess(decorate: DecoratePorts = (ports) => ports): void {
  run(decorate).catch((error: unknown) => {
    process.stderr.write(`The service could not start. ${textOf(error)}\n`)
    process.exit(exitCodeOf(error))
  })
}

/** The whole life of a process that does one thing to an installation from a terminal. */
export function commandProcess(command: string, args: readonly string[]): void {
  const done = command === 'keys' ? keysCommand(args, process.env) : Promise.resolve(unknownCommand(command))
  done.then(
    (exitCode) => {
      process.exitCode = exitCode
    },
    (error: unknown) => {
      process.stderr.write(`${textOf(error)}\n`)
      process.exitCode = exitCodeOf(error)
    },
  )
}

function unknownCommand(command: string): number {
  process.stderr.write(`There is no command ${JSON.stringify(command)}; there is keys.\n`)
  return 64 // EX_USAGE of sysexits.h
}

function exitCodeOf(error: unknown): number {
  return error instanceof StoreError && error.code === 'DATABASE_IN_USE' ? IN_USE : 1
}

/** EX_TEMPFAIL of sysexits.h: another process of the installation runs. */
const IN_USE = 75

/** What the store says of its database is for people; anything else is a fault of the program. */
function textOf(error: unknown): string {
  if (error instanceof StoreError) return error.message
  if (error instanceof NoKeyError) return error.message
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}

async function run(decorate: DecoratePorts): Promise<void> {
  const read = readConfig(process.env, { cwd: process.cwd() })
  if (read.status === 'invalid') {
    process.stderr.write(`${describeProblems(read.problems)}\n`)
    process.exitCode = 78 // EX_CONFIG of sysexits.h
    return
  }
  const { config } = read
  const logger = createLogger({ level: config.logLevel })
  const stopSignal = firstSignal()
  const service = await startService(
    config,
    {
      presetsFile: join(root, 'apps/api/config/model_presets.yaml'),
      workersDir: join(root, 'workers'),
    },
    logger,
    decorate,
  )
  process.stdout.write(welcome(service))
  const signal = await stopSignal
  const workers =
    config.shutdown === 'detach' ? 'Workers go on; the next start takes them up.' : 'Workers are stopped.'
  logger.info({ signal }, `Stopping. ${workers}`)
  await service[Symbol.asyncDispose]()
}

/** npm passes a terminal's Ctrl-C on to a service that has had it from the terminal itself: two signals, milliseconds apart. */
const ONE_SIGNAL_MS = 500

/** The first signal asks for a clean stop; a second one ends the process at once. */
function firstSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let askedAt: number | null = null
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        if (askedAt !== null && performance.now() - askedAt > ONE_SIGNAL_MS) process.exit(1)
        askedAt ??= performance.now()
        resolve(signal)
      })
    }
  })
}
