import type { TaskError } from './event.ts'
import type { StartFailure, WorkerExit } from './runner.ts'
import type { FinalStatus, StopReason, TaskFinish } from './task.ts'

/** All that decides how an attempt ended. */
export interface AttemptEnd {
  readonly end:
    | { readonly kind: 'exited'; readonly exit: WorkerExit }
    | { readonly kind: 'start-failed'; readonly failure: StartFailure }
    | { readonly kind: 'lost'; readonly detail: string }
  /** The first `finish` that the worker printed. */
  readonly finish: TaskFinish | null
  /** Why the service stopped the worker; recorded only where no `finish` was stored before. */
  readonly stopReason: StopReason | null
  /** The client's own words for its cancel. */
  readonly cancelReason: string | null
  readonly cancelRequested: boolean
  /** The run timeout, for the message. */
  readonly timeoutMs: number
  /** The worker did not exit after its `finish` and was stopped. */
  readonly hungAfterFinish: boolean
  /** Some of the output could not be read. */
  readonly outputLost: boolean
  /** The last lines of stderr, oldest first. */
  readonly lastWords: readonly string[]
}

/** How an attempt ended. */
export interface Outcome {
  readonly status: FinalStatus
  /** A sentence for people; `null` where there is nothing to say. */
  readonly reason: string | null
  readonly error: TaskError | null
  readonly exitCode: number | null
}

/** The protocol's table "how an attempt ends", from the first row that applies. */
export function outcomeOf(attempt: AttemptEnd): Outcome {
  const { end, finish, stopReason } = attempt
  const exit = end.kind === 'exited' ? end.exit : null
  const exitCode = exit?.exitCode ?? null
  const failed = (code: string, message: string): Outcome => ({
    status: 'FAILED',
    reason: message,
    error: { code, message },
    exitCode,
  })

  if (stopReason !== null) return stopped(stopReason, attempt, exitCode)
  if (end.kind === 'start-failed') {
    const { code, message, hint } = end.failure
    return failed(code === 'ENGINE_REFUSED' ? 'START_FAILED' : code, `${message} ${hint}`.trim())
  }
  if (finish === null) {
    if (end.kind === 'lost')
      return failed('LOST', `The worker is gone and its end was not seen: ${end.detail}`)
    if (exit?.oomKilled === true && exitCode !== 0) {
      return failed(
        'OUT_OF_MEMORY',
        withLastWords(
          'The worker was killed because it used more memory than it may; resources.memory of its preset sets the limit.',
          attempt,
        ),
      )
    }
    if (exitCode === 0) {
      return failed(
        'NO_FINISH',
        withLastWords('The worker exited with code 0 but never printed a valid finish event.', attempt),
      )
    }
    const how = exitCode === null ? 'ended, its exit code is not known' : `exited with ${exitText(exitCode)}`
    return failed('WORKER_FAILED', withLastWords(`The worker ${how}, without a finish event.`, attempt))
  }
  switch (finish.status) {
    case 'completed':
      if (attempt.outputLost) {
        return failed(
          'OUTPUT_LOST',
          'The worker completed, but some of its output was lost on the way; the gap events say where.',
        )
      }
      return { status: 'COMPLETED', reason: warningOf(attempt, exit), error: null, exitCode }
    case 'failed':
      return failed(
        'WORKER_FAILED',
        finishMessage(finish, 'The worker said that the task failed, without saying why.'),
      )
    case 'cancelled':
      return attempt.cancelRequested
        ? { status: 'CANCELLED', reason: cancelText(attempt), error: null, exitCode }
        : failed(
            'WORKER_FAILED',
            finishMessage(
              finish,
              'The worker said that the task was cancelled, but nobody had asked for it.',
            ),
          )
  }
}

function stopped(reason: StopReason, attempt: AttemptEnd, exitCode: number | null): Outcome {
  switch (reason) {
    case 'cancel':
      return { status: 'CANCELLED', reason: cancelText(attempt), error: null, exitCode }
    case 'timeout': {
      const message = `The task was stopped because it ran longer than its timeout of ${attempt.timeoutMs} ms.`
      return { status: 'TIMED_OUT', reason: message, error: { code: 'RUN_TIMEOUT', message }, exitCode }
    }
  }
}

function cancelText({ cancelReason }: AttemptEnd): string {
  return cancelReason === null ? 'It was cancelled.' : `It was cancelled: ${cancelReason}`
}

/** A worker's own code is kept in the message: the task's error codes are a closed list that clients switch on. */
function finishMessage({ error }: TaskFinish, otherwise: string): string {
  if (error === null) return otherwise
  return error.code === 'WORKER_FAILED' ? error.message : `${error.code}: ${error.message}`
}

function warningOf(attempt: AttemptEnd, exit: WorkerExit | null): string | null {
  if (attempt.hungAfterFinish)
    return 'Warning: the worker did not exit after its finish event and was stopped.'
  if (exit === null) return 'Warning: the worker was gone before its exit was seen.'
  if (exit.exitCode !== 0 && exit.exitCode !== null) {
    const memory = exit.oomKilled ? ', killed for memory' : ''
    return `Warning: after its finish event the worker exited with ${exitText(exit.exitCode)}${memory}.`
  }
  return exit.oomKilled ? 'Warning: a process of the worker was killed for memory.' : null
}

const SIGNAL_NAMES: Readonly<Record<number, string>> = {
  1: 'SIGHUP',
  2: 'SIGINT',
  3: 'SIGQUIT',
  4: 'SIGILL',
  6: 'SIGABRT',
  7: 'SIGBUS',
  8: 'SIGFPE',
  9: 'SIGKILL',
  11: 'SIGSEGV',
  13: 'SIGPIPE',
  15: 'SIGTERM',
}

function exitText(code: number): string {
  const signal = code > 128 ? SIGNAL_NAMES[code - 128] : undefined
  return signal === undefined ? `code ${code}` : `code ${code} (${signal})`
}

function withLastWords(message: string, { lastWords }: AttemptEnd): string {
  return lastWords.length === 0 ? message : `${message} Its last words on stderr:\n${lastWords.join('\n')}`
}
