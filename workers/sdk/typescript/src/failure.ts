/**
 * Thrown by a worker: the task cannot be done. The code tells the service what kind of failure it was; see "What failed" in PROTOCOL.md.
 */
export class TaskFailed extends Error {
  override readonly name: string = 'TaskFailed'
  readonly code: string
  constructor(message: string, code = 'TASK_FAILED', options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Thrown by a worker: the input is at fault. Such a task is never tried again. */
export class InvalidInput extends TaskFailed {
  override readonly name = 'InvalidInput'
  constructor(message: string, options?: ErrorOptions) {
    super(message, 'INVALID_INPUT', options)
  }
}

/** The fields of the `finish` of a task that ended with an error. What is no `TaskFailed` goes to standard error with its stack. */
export function failureOf(error: unknown): { status: 'failed'; error: { code: string; message: string } } {
  if (!(error instanceof TaskFailed)) console.error(error)
  if (!(error instanceof Error)) return { status: 'failed', error: { code: 'Error', message: String(error) } }
  const code = 'code' in error && typeof error.code === 'string' ? error.code : error.name
  return { status: 'failed', error: { code, message: error.message || error.name } }
}

/** Whether an error is what a task's cancellation has led to; a library may have wrapped it. */
export function isCancellation(error: unknown, signal: AbortSignal): boolean {
  for (let cause = error; cause !== undefined; cause = cause instanceof Error ? cause.cause : undefined) {
    if (cause === signal.reason || (cause instanceof Error && cause.name === 'AbortError')) return true
  }
  return false
}
