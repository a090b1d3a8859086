import type { Socket } from 'node:net'
import {
  cancelCommand,
  type Logger,
  runCommand,
  type RunFolders,
  RunnerError,
  type RunOrder,
  shutdownCommand,
  type WorkerInput,
  type WorkerName,
} from '@gpu-service/tasks'
import { LONGEST_TIMER_MS } from './engine.ts'

/**
 * Hands a one-off worker its `run` command and ends its stdin, in the background: a worker may read it late or never, and it finds its
 * input elsewhere too. `timeoutMs` bounds how long the rest is held for it.
 */
export function handOver(
  connection: Socket,
  line: string,
  { name, timeoutMs, logger }: { name: WorkerName; timeoutMs: number; logger: Logger },
): void {
  const timer = setTimeout(
    () => {
      logger.warn(
        { worker: name },
        'the worker has not read its stdin; the rest of its run command is dropped',
      )
      connection.destroy()
    },
    Math.min(timeoutMs, LONGEST_TIMER_MS),
  )
  timer.unref()
  connection.on('error', (error) => {
    logger.debug({ worker: name, error }, "the worker's stdin was closed before its run command was read")
  })
  connection.once('close', () => {
    clearTimeout(timer)
  })
  connection.resume()
  connection.end(line)
}

export interface InputOptions {
  /** How long the engine may take a command. */
  readonly timeoutMs: number
  /** Makes the folders of a run. */
  readonly prepareRun: (run: RunOrder) => Promise<RunFolders>
}

/** Commands to a session worker over a connection to its stdin. */
export function createWorkerInput(connection: Socket, { timeoutMs, prepareRun }: InputOptions): WorkerInput {
  let failure: Error | undefined
  connection.on('error', (error) => {
    failure = error
  })
  connection.resume()

  function write(line: string): Promise<void> {
    return new Promise((resolve, reject) => {
      if (!connection.writable) {
        reject(
          new RunnerError('INPUT_CLOSED', "the connection to the worker's stdin is closed", {
            cause: failure,
          }),
        )
        return
      }
      const timer = setTimeout(() => {
        reject(new RunnerError('ENGINE_REFUSED', `the worker has not read its stdin for ${timeoutMs} ms`))
        // Half a line is out: nothing that follows could be told from it.
        connection.destroy()
      }, timeoutMs)
      connection.write(line, (error) => {
        clearTimeout(timer)
        if (error)
          reject(
            new RunnerError('ENGINE_UNAVAILABLE', "the connection to the worker's stdin broke off", {
              cause: error,
            }),
          )
        else resolve()
      })
    })
  }

  return {
    async run(order: RunOrder) {
      await write(runCommand(order, await prepareRun(order)))
    },
    cancel: (runId) => write(cancelCommand(runId)),
    shutdown: () => write(shutdownCommand()),
    detach() {
      connection.end()
    },
  }
}
