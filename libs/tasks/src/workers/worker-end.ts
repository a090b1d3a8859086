import { exitText, type AttemptEnd } from './outcome.ts'

/** How a worker came to its end, or did not begin. */
export type WorkerEnd = Extract<AttemptEnd['end'], { kind: 'exited' | 'start-failed' | 'lost' }>

/** The end of a session worker that nobody had asked for, for people. */
export function endText(end: WorkerEnd): string {
  switch (end.kind) {
    case 'start-failed':
      return `${end.failure.message} ${end.failure.hint}`.trim()
    case 'lost':
      return `It is gone: ${end.detail}`
    case 'exited': {
      const { exitCode } = end.exit
      if (end.cause !== null) return end.cause
      return exitCode === null ? 'It ended by itself.' : `It exited by itself with ${exitText(exitCode)}.`
    }
  }
}

/** What a session worker's end is for a task that it still had; `isStopping`: it was being ended, and `reason` says why. */
export function endUnderTask(end: WorkerEnd, isStopping: boolean, reason: string | null): AttemptEnd['end'] {
  switch (end.kind) {
    case 'start-failed':
      return end.failure.code === 'START_ABANDONED'
        ? { kind: 'unacknowledged', detail: `Its session worker was not started: ${reason ?? ''}` }
        : end
    case 'lost':
      return { kind: 'worker-ended', exit: null, detail: `Its session worker is gone: ${end.detail}` }
    case 'exited': {
      const { exitCode } = end.exit
      const how = exitCode === null ? 'ended' : `exited with ${exitText(exitCode)}`
      const why = isStopping ? `It was being ended: ${reason ?? ''}` : (end.cause ?? '')
      const detail = `The session worker ${how} while it had the task. ${why}`.trim()
      return { kind: 'worker-ended', exit: end.exit, detail }
    }
  }
}
