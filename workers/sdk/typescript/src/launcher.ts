import { spawn } from 'node:child_process'

/** The descriptor of the events in the process that does the work. */
const EVENTS_DESCRIPTOR = 3
/** Tells that process that it is the one. */
const MARKER = 'GPU_SERVICE_WORKER_EVENTS'

/**
 * Keeps what libraries print off the event stream: `console.log`, `process.stdout`, and what native code writes to descriptor 1. Node.js cannot
 * give a descriptor of its own another meaning, so the first process starts the same program once more, with standard error in the place
 * of standard output and the true one as a further descriptor; the two share them, and nothing is copied from one to the other.
 *
 * Gives the descriptor of the events in the second process. In the first it never returns: that one passes on SIGTERM and ends as the second does.
 */
export function ownStandardOutput(): Promise<number> {
  if (process.env[MARKER] !== undefined) {
    // Programs that the worker starts are none of it.
    Reflect.deleteProperty(process.env, MARKER)
    return Promise.resolve(EVENTS_DESCRIPTOR)
  }
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    env: { ...process.env, [MARKER]: '1' },
    stdio: ['inherit', 2, 2, 1],
  })
  const passOn = (): void => {
    child.kill('SIGTERM')
  }
  const stay = (): void => undefined
  process.on('SIGTERM', passOn)
  // A terminal sends it to both.
  process.on('SIGINT', stay)
  child.on('error', (error) => {
    console.error(error)
    process.exit(1)
  })
  child.on('exit', (code, signal) => {
    process.off('SIGTERM', passOn)
    process.off('SIGINT', stay)
    if (signal !== null) process.kill(process.pid, signal)
    // Process 1 of a container is not ended by its own signals.
    process.exitCode = code ?? 1
  })
  return new Promise(() => undefined)
}
