import type { LiveWorker } from '../dispatcher.ts'
import type { Task } from '../task.ts'

/** What is known of a task's surroundings. */
export interface Surroundings {
  /** Why it waits, as the last plan has it. */
  readonly waiting: string | null
  /** Why no worker can be started. */
  readonly blocked: string | null
  /** The worker that it has been given, while it is STARTING. */
  readonly worker: Omit<LiveWorker, 'explanation'> | null
}

/** Why a task waits, or why it ended as it did; `null` while it runs and nothing is to be said. */
export function explainTask(task: Task, { waiting, blocked, worker }: Surroundings): string | null {
  switch (task.status) {
    case 'QUEUED':
      return [waiting ?? 'It is about to be planned.', retried(task)].join(' ').trim()
    case 'STARTING':
      return starting(worker, blocked)
    case 'RUNNING':
      return task.cancelRequestedAt === null ? null : 'Its cancel was requested; the worker is being stopped.'
    case 'COMPLETED':
      return task.exitCode === 0 || task.exitCode === null
        ? 'The worker said that the task is completed.'
        : `The worker said that the task is completed, and then exited with code ${task.exitCode}.`
    case 'CANCELLED':
      return task.cancelReason === null ? 'It was cancelled.' : `It was cancelled: ${task.cancelReason}`
    case 'FAILED':
    case 'TIMED_OUT':
      return task.error?.message ?? null
  }
}

function starting(worker: Surroundings['worker'], blocked: string | null): string {
  if (worker === null) return blocked ?? 'Its worker is starting.'
  if (worker.readyAt !== null) return `Session worker ${worker.id} is warm and was given the task.`
  if (blocked !== null && worker.containerId === null) return blocked
  const { loadProgress } = worker
  const what = worker.mode === 'SESSION' ? `Session worker ${worker.id} is loading` : 'Its worker is starting'
  return loadProgress === null ? `${what}.` : `${what} (${Math.round(loadProgress * 100)} %).`
}

function retried({ attempt }: Task): string {
  return attempt === 0 ? '' : `It has been tried ${attempt === 1 ? 'once' : `${attempt} times`}.`
}
