import { execFile } from 'node:child_process'
import { closeSync, constants, openSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { Socket } from 'node:net'
import { promisify } from 'node:util'
import {
  cancelCommand,
  RunnerError,
  runCommand,
  type RunFolders,
  type RunOrder,
  shutdownCommand,
  type WorkerInput,
} from '@gpu-service/tasks'

const run = promisify(execFile)

/** Makes the stdin of a session worker. Harmless where it is there already. */
export async function makePipe(path: string): Promise<void> {
  try {
    await run('mkfifo', ['-m', '600', path])
  } catch (error) {
    if (!(await isPipe(path))) throw error
  }
}

/** Opens the stdin of a session worker for writing. `foldersOf` makes the folders of a run. */
export async function openPipe(
  path: string,
  foldersOf: (run: RunOrder) => Promise<RunFolders>,
): Promise<WorkerInput> {
  if (!(await isPipe(path))) throw new RunnerError('NOT_FOUND', 'There is no session worker of that name.')
  const socket = connect(path)
  // Each write tells its own failure.
  socket.on('error', () => {})

  /** Resolves when the worker's pipe has taken all of it. */
  function write(line: string): Promise<void> {
    return new Promise((resolve, reject) => {
      socket.write(line, (error) => {
        if (error)
          reject(
            new RunnerError('NOT_FOUND', 'The worker does not read its stdin any more.', { cause: error }),
          )
        else resolve()
      })
    })
  }

  return {
    async run(order) {
      await write(runCommand(order, await foldersOf(order)))
    },
    cancel: (runId) => write(cancelCommand(runId)),
    shutdown: () => write(shutdownCommand()),
    detach() {
      socket.destroy()
    },
  }
}

function connect(path: string): Socket {
  let descriptor: number
  try {
    // Without waiting: it fails at once where nobody reads.
    descriptor = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw new RunnerError('NOT_FOUND', 'The worker does not read its stdin any more.', { cause: error })
  }
  try {
    // A socket waits for room in the pipe without a thread; a file would block one for as long as the worker does not read.
    return new Socket({ fd: descriptor, readable: false, writable: true })
  } catch (error) {
    closeSync(descriptor)
    throw error
  }
}

async function isPipe(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFIFO()
  } catch {
    return false
  }
}
