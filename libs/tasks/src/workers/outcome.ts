import type { TaskError } from '../event.ts'
import type { StartFailure, WorkerExit } from '../runner.ts'
import type { FailureClass, WorkerTimeouts } from '../spec.ts'
import type { FinalStatus, StopReason, TaskFinish } from '../task.ts'
import { signalOf } from './signals.ts'

/** All that decides how an attempt ended. */
export interface AttemptEnd {
  readonly end:
    /** `cause`: the sentence that says how what the worker runs on has ended it, or has missed its end. */
    | { readonly kind: 'exited'; readonly exit: WorkerExit; readonly cause: string | null }
    | { readonly kind: 'start-failed'; readonly failure: StartFailure }
    | { readonly kind: 'lost'; readonly detail: string }
    /** A session worker said `finish` and goes on. */
    | { readonly kind: 'finished' }
    /** A session worker ended under the task; `exit` is `null` where it was lost. */
    | { readonly kind: 'worker-ended'; readonly exit: WorkerExit | null; readonly detail: string }
    /** A session worker that was being ended gave the task up. */
    | { readonly kind: 'given-up'; readonly detail: string }
    /** A session worker did not take the task. */
    | { readonly kind: 'unacknowledged'; readonly detail: string }
  /** The first `finish` that the worker printed. */
  readonly finish: TaskFinish | null
  /** Why the service stopped the worker; recorded only where no `finish` was stored before. */
  readonly stopReason: StopReason | null
  /** The client's own words for its cancel. */
  readonly cancelReason: string | null
  readonly cancelRequested: boolean
  /** For the messages. */
  readonly timeouts: WorkerTimeouts
  /** The worker did not exit after its `finish` and was stopped. */
  readonly hungAfterFinish: boolean
  /** Some of the output could not be read. */
  readonly outputLost: boolean
  /** Some of the output could not be read, or may be missing. */
  readonly isInDoubt: boolean
  /** What it did that it may not, to be put behind "it"; `null`: nothing that this process has seen. */
  readonly excess: string | null
  /** The last lines of stderr, oldest first. */
  readonly lastWords: readonly string[]
}

/** How an attempt ended. */
export interface Outcome {
  readonly status: FinalStatus
  /** A sentence for people; `null` where there is nothing to say. */
  readonly reason: string | null
  readonly error: TaskError | null
  /** What kind of failure it was; `null` where it was none, or one that another attempt cannot mend. */
  readonly failureClass: FailureClass | null
  readonly exitCode: number | null
}

/** The protocol's table "how an attempt ends", from the first row that applies. */
export function outcomeOf(attempt: AttemptEnd): Outcome {
  const { end, finish, stopReason } = attempt
  const exit = end.kind === 'exited' || end.kind === 'worker-ended' ? end.exit : null
  const exitCode = exit?.exitCode ?? null
  const failed = (code: string, message: string, failureClass: FailureClass | null): Outcome => ({
    status: 'FAILED',
    reason: message,
    error: { code, message },
    failureClass,
    exitCode,
  })

  if (stopReason !== null) return stopped(stopReason, attempt, exitCode)
  switch (end.kind) {
    case 'start-failed': {
      const { code, message, hint } = end.failure
      // Nobody's failure: the task goes to another worker.
      if (code === 'START_LOST') return failed('START_FAILED', `${message} ${hint}`.trim(), 'unacknowledged')
      const isEngine = code === 'ENGINE_REFUSED' || code === 'PULL_FAILED' || code === 'GPU_UNAVAILABLE'
      return failed(
        code === 'ENGINE_REFUSED' || code === 'SECRET_UNAVAILABLE' ? 'START_FAILED' : code,
        `${message} ${hint}`.trim(),
        isEngine ? 'engine' : null,
      )
    }
    case 'unacknowledged':
      return failed('UNACKNOWLEDGED', end.detail, 'unacknowledged')
    case 'given-up':
      return failed('WORKER_DIED', end.detail, 'session_died')
    case 'worker-ended':
      return end.exit === null
        ? failed('LOST', end.detail, 'engine')
        : end.exit.oomKilled
          ? failed('OUT_OF_MEMORY', withLastWords(`${end.detail} ${MEMORY_HINT}`, attempt), 'out_of_memory')
          : failed('WORKER_DIED', withLastWords(end.detail, attempt), 'session_died')
    default:
  }
  const cause = end.kind === 'exited' ? end.cause : null
  if (cause !== null && (finish === null || (finish.status === 'cancelled' && !attempt.cancelRequested))) {
    const how = exitCode === null ? '' : ` Its exit code is ${exitText(exitCode).replace('code ', '')}.`
    return failed('LOST', withLastWords(`${cause}${how}`, attempt), 'engine')
  }
  if (finish === null) {
    if (end.kind === 'lost')
      return failed('LOST', `The worker is gone and its end was not seen: ${end.detail}`, 'engine')
    if (exit?.oomKilled === true && exitCode !== 0) {
      const message = `The worker was killed because it used more memory than it may. ${MEMORY_HINT}`
      return failed('OUT_OF_MEMORY', withLastWords(message, attempt), 'out_of_memory')
    }
    if (exitCode === 0 && attempt.isInDoubt) {
      return failed(
        'OUTPUT_LOST',
        'The worker exited with code 0, but its finish event never came here: some of its output was lost on the way, or may have been.',
        'engine',
      )
    }
    if (exitCode === 0) {
      return failed(
        'NO_FINISH',
        withLastWords('The worker exited with code 0 but never printed a valid finish event.', attempt),
        'worker_failed',
      )
    }
    const how = exitCode === null ? 'ended, its exit code is not known' : `exited with ${exitText(exitCode)}`
    return failed(
      'WORKER_FAILED',
      withLastWords(`The worker ${how}, without a finish event.`, attempt),
      'worker_failed',
    )
  }
  switch (finish.status) {
    case 'completed':
      if (attempt.outputLost) {
        return failed(
          'OUTPUT_LOST',
          'The worker completed, but some of its output was lost on the way; the gap events say where.',
          'engine',
        )
      }
      return {
        status: 'COMPLETED',
        reason: end.kind === 'finished' ? null : warningOf(attempt, exit),
        error: null,
        failureClass: null,
        exitCode,
      }
    case 'failed':
      return failed(
        'WORKER_FAILED',
        finishMessage(finish, 'The worker said that the task failed, without saying why.'),
        classOfFinish(finish, end.kind === 'finished'),
      )
    case 'cancelled':
      return attempt.cancelRequested
        ? {
            status: 'CANCELLED',
            reason: cancelText(attempt),
            error: null,
            failureClass: null,
            exitCode,
          }
        : failed(
            'WORKER_FAILED',
            finishMessage(
              finish,
              'The worker said that the task was cancelled, but nobody had asked for it.',
            ),
            null,
          )
  }
}

const MEMORY_HINT = 'resources.memory of its preset sets the limit.'

// What frameworks write where a kernel has failed: the CUDA context of the process is of no use any more (CUDA's "sticky" errors), or the
// container has lost its devices.
export const BROKEN_CONTEXT =
  /illegal (?:memory access|instruction|address)|device-side assert|misaligned address|unspecified launch failure|CUDNN_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)|CUBLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|NOT_INITIALIZED)|Failed to initialize NVML|uncorrectable ECC|GPU has fallen off the bus|device is lost/i
const BROKEN_CONTEXT_CODES: readonly string[] = ['CUDA_ERROR', 'GPU_ERROR', 'GPU_CONTEXT_BROKEN']
export const OUT_OF_MEMORY = /out of memory/i
const OUT_OF_MEMORY_CODES: readonly string[] = ['OUT_OF_MEMORY', 'CUDA_OUT_OF_MEMORY']
export const BAD_INPUT_CODES: readonly string[] = ['BAD_INPUT', 'INVALID_INPUT', 'CONTEXT_OVERFLOW']

/**
 * Whether a session worker that ended a task so cannot be trusted with the next one: its GPU context is broken, or it ran out of memory and
 * holds who knows what.
 */
export function isPoisoned(finish: TaskFinish): boolean {
  if (finish.status !== 'failed' || finish.error === null) return false
  const { code, message } = finish.error
  return OUT_OF_MEMORY_CODES.includes(code) || OUT_OF_MEMORY.test(message) || isContextBroken(finish)
}

function isContextBroken({ error }: TaskFinish): boolean {
  if (error === null) return false
  return BROKEN_CONTEXT_CODES.includes(error.code) || BROKEN_CONTEXT.test(error.message)
}

function classOfFinish(finish: TaskFinish, isSession: boolean): FailureClass | null {
  const { code, message } = finish.error ?? { code: '', message: '' }
  if (BAD_INPUT_CODES.includes(code)) return null
  if (OUT_OF_MEMORY_CODES.includes(code) || OUT_OF_MEMORY.test(message)) return 'out_of_memory'
  // Another task of the same worker may have broken it.
  if (isSession && isContextBroken(finish)) return 'session_died'
  return 'worker_failed'
}

function stopped(reason: StopReason, attempt: AttemptEnd, exitCode: number | null): Outcome {
  const { timeouts } = attempt
  const timedOut = (code: string, message: string): Outcome => ({
    status: 'TIMED_OUT',
    reason: message,
    error: { code, message },
    failureClass: null,
    exitCode,
  })
  switch (reason) {
    case 'cancel':
      return {
        status: 'CANCELLED',
        reason: cancelText(attempt),
        error: null,
        failureClass: null,
        exitCode,
      }
    case 'timeout':
      return timedOut(
        'RUN_TIMEOUT',
        `The task was stopped because it ran longer than its timeout of ${timeouts.runMs} ms.`,
      )
    case 'start-timeout':
      return timedOut(
        'START_TIMEOUT',
        withLastWords(
          `The worker was stopped because it took longer to come up than the ${timeouts.startMs} ms of timeouts.start.`,
          attempt,
        ),
      )
    case 'silence':
      return timedOut(
        'SILENCE_TIMEOUT',
        withLastWords(
          `The task was stopped because it said nothing for the ${timeouts.silenceMs} ms of timeouts.silence.`,
          attempt,
        ),
      )
    case 'gpu-lost': {
      const message = 'A GPU of its worker was lost while it worked on the task.'
      return {
        status: 'FAILED',
        reason: message,
        error: { code: 'GPU_LOST', message },
        failureClass: 'gpu_lost',
        exitCode,
      }
    }
    case 'output-limit': {
      const message = `The task was stopped because it ${attempt.excess ?? 'said or left behind more than it may'}.`
      return {
        status: 'FAILED',
        reason: message,
        error: { code: 'OUTPUT_LIMIT', message },
        failureClass: null,
        exitCode,
      }
    }
    case 'output-lost': {
      const message =
        'Some of the output of its session worker was lost on the way, and nothing was heard of the task after that: its end seems to be lost too.'
      return {
        status: 'FAILED',
        reason: message,
        error: { code: 'OUTPUT_LOST', message },
        failureClass: 'engine',
        exitCode,
      }
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

export function exitText(code: number): string {
  const signal = signalOf(code)
  return signal === null ? `code ${code}` : `code ${code} (${signal})`
}

function withLastWords(message: string, { lastWords }: AttemptEnd): string {
  return lastWords.length === 0 ? message : `${message} Its last words on stderr:\n${lastWords.join('\n')}`
}
