import type { WorkerOutput, WorkerPatch, WorkerProgress } from '@gpu-service/tasks'

/** A step of a task's walk: the port's method, and where one method does several things, which one. */
export function stepOf(port: string, method: string, args: readonly unknown[]): string {
  const name = `${port}.${method}`
  if (name === 'store.append') return `${name} ${progressKind(args[0] as WorkerProgress)}`
  if (name === 'store.updateWorker') return `${name} ${patchKind(args[1] as WorkerPatch)}`
  if (name === 'store.recordRelease') return `${name} ${Object.keys(args[2] as object).join(' ')}`
  return name
}

/** What a worker said or how it ended is a step of its own. */
export function outputStep({ kind }: WorkerOutput): string {
  return `runner.output ${kind}`
}

/** By the most that a commit brings: how it ends a task stands before what else is in it. */
function progressKind({ tasks, worker }: WorkerProgress): string {
  if (tasks.some(({ settle }) => settle !== undefined)) return 'settle'
  if (tasks.some(({ requeue }) => requeue !== undefined)) return 'requeue'
  if (tasks.some(({ artifacts = [] }) => artifacts.length > 0)) return 'artifact'
  if (tasks.some(({ changes }) => changes?.finish !== undefined)) return 'finish'
  if (tasks.some(({ changes }) => changes?.status === 'RUNNING')) return 'alive'
  if (worker?.readyAt !== undefined) return 'ready'
  return tasks.length > 0 ? 'events' : 'worker'
}

function patchKind({ status, containerId, endReason }: WorkerPatch): string {
  if (status === 'EXITED') return 'exited'
  if (containerId !== undefined) return 'started'
  return endReason === undefined ? 'other' : 'ends'
}
