import { type ChildProcess, spawn } from 'node:child_process'

/** What a program said, and how it ended. */
export type ProgramAnswer =
  | { readonly status: 'ended'; readonly code: number; readonly stdout: string; readonly stderr: string }
  /** `missing`: there is no such program. */
  | { readonly status: 'failed'; readonly reason: string; readonly missing: boolean }

/** A program that is run with one question after the other, never twice at the same time. */
export interface Program extends AsyncDisposable {
  /**
   * Never rejects. Settles at the deadline, whatever becomes of the program: it is killed, not waited for. One that hangs in the kernel, where
   * it cannot be killed, makes every question fail until it is gone.
   */
  ask(args: readonly string[], deadlineMs: number): Promise<ProgramAnswer>
}

export function createProgram(options: { path: string; maxOutputBytes: number }): Program {
  const { path, maxOutputBytes } = options
  let child: ChildProcess | null = null
  const disposed = new AbortController()

  return {
    ask(args, deadlineMs) {
      if (disposed.signal.aborted) return Promise.resolve(failed('The inventory was closed.'))
      if (child && isAlive(child)) return Promise.resolve(failed('An earlier nvidia-smi still hangs.'))
      try {
        // In a group of its own, so that a script in its place dies with what it started.
        child = spawn(path, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
      } catch (error) {
        return Promise.resolve(failed(`nvidia-smi could not be run: ${String(error)}`))
      }
      return answerOf(child, { deadlineMs, maxOutputBytes, disposed: disposed.signal })
    },
    [Symbol.asyncDispose]() {
      disposed.abort()
      return Promise.resolve()
    },
  }
}

function answerOf(
  child: ChildProcess,
  limits: { deadlineMs: number; maxOutputBytes: number; disposed: AbortSignal },
): Promise<ProgramAnswer> {
  const { deadlineMs, maxOutputBytes, disposed } = limits
  return new Promise((resolve) => {
    const stdout: Buffer[] = []
    const stderr: Buffer[] = []
    let bytes = 0
    const deadline = setTimeout(() => {
      settle(failed(`nvidia-smi did not answer within ${deadlineMs} ms.`))
    }, deadlineMs)
    const onDisposed = (): void => {
      settle(failed('The inventory was closed.'))
    }
    disposed.addEventListener('abort', onDisposed)

    function settle(answer: ProgramAnswer): void {
      clearTimeout(deadline)
      disposed.removeEventListener('abort', onDisposed)
      kill(child)
      child.unref()
      child.stdout?.destroy()
      child.stderr?.destroy()
      resolve(answer)
    }
    const taker =
      (chunks: Buffer[]) =>
      (chunk: Buffer): void => {
        bytes += chunk.length
        chunks.push(chunk)
        if (bytes > maxOutputBytes) settle(failed(`nvidia-smi said more than ${maxOutputBytes} bytes.`))
      }
    child.stdout?.on('data', taker(stdout))
    child.stderr?.on('data', taker(stderr))
    child.on('error', (error) => {
      settle({
        ...failed(`nvidia-smi could not be run: ${error.message}`),
        missing: 'code' in error && error.code === 'ENOENT',
      })
    })
    child.on('close', (code, signal) => {
      if (code === null) settle(failed(`nvidia-smi was ended by ${signal ?? 'a signal'}.`))
      else settle({ status: 'ended', code, stdout: textOf(stdout), stderr: textOf(stderr) })
    })
  })
}

function kill(child: ChildProcess): void {
  if (child.pid === undefined || !isAlive(child)) return
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // It has ended in the meantime.
  }
}

function isAlive(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

function textOf(chunks: readonly Buffer[]): string {
  return Buffer.concat(chunks).toString()
}

function failed(reason: string): Extract<ProgramAnswer, { status: 'failed' }> {
  return { status: 'failed', reason, missing: false }
}
