import type { Gpu } from './gpu.ts'
import type { GpuId, TaskId, WorkerId } from './ids.ts'
import type { GpuNeed } from './spec.ts'

/** A QUEUED task as the planner sees it. */
export interface QueuedTask {
  readonly id: TaskId
  readonly priority: number
  readonly gpus: GpuNeed
}

/** A worker that has not exited, and the whole GPUs that it claims. */
export interface ClaimingWorker {
  readonly id: WorkerId
  readonly gpuIds: readonly GpuId[]
}

export interface PlanInput {
  /** In any order. */
  readonly queue: Iterable<QueuedTask>
  readonly workers: readonly ClaimingWorker[]
  readonly gpus: readonly Gpu[]
  /** The most workers at a time. */
  readonly maxWorkers: number
  /** Why no worker can be started at all at the moment (the runner's neighbour is away); `null`: they can. */
  readonly blocked: string | null
}

export interface StartAction {
  readonly kind: 'start'
  readonly taskId: TaskId
  readonly gpuIds: readonly GpuId[]
  /** Stored with the change of state. */
  readonly reason: string
}

export interface Plan {
  readonly actions: readonly StartAction[]
  /** The tasks that do not start, in the order in which they will, each with the reason why it waits. */
  readonly waiting: ReadonlyMap<TaskId, string>
}

/** Higher priority first; then the order of submission, which is the order of ids. */
export function queueOrder(a: QueuedTask, b: QueuedTask): number {
  return b.priority - a.priority || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0)
}

/** How many whole GPUs a need comes to on this machine. */
export function gpuCount(need: GpuNeed, gpus: readonly Gpu[]): number {
  return need.count === 'default' ? Math.min(1, allowedGpus(need, gpus).length) : need.count
}

/** Those that the need allows. */
export function allowedGpus(need: GpuNeed, gpus: readonly Gpu[]): readonly Gpu[] {
  const { ids } = need
  return ids === null ? gpus : gpus.filter((gpu) => ids.includes(gpu.id))
}

/**
 * Decides what starts where and why the rest waits. Pure: the same input gives the same plan.
 *
 * First come, first served with exclusive GPUs. A task that must wait for GPUs holds back all GPUs that it may use, so that no later task
 * can starve it; later tasks that need none of them pass.
 */
export function plan({ queue, workers, gpus, maxWorkers, blocked }: PlanInput): Plan {
  const actions: StartAction[] = []
  const waiting = new Map<TaskId, string>()
  const claimed = new Set(workers.flatMap((worker) => worker.gpuIds))
  const heldBack = new Set<GpuId>()
  let running = workers.length

  for (const task of [...queue].sort(queueOrder)) {
    const wait = (reason: string): void => void waiting.set(task.id, reason)
    if (blocked !== null) {
      wait(blocked)
      continue
    }
    if (running >= maxWorkers) {
      wait(`All ${maxWorkers} places for workers are taken (MAX_WORKERS).`)
      continue
    }
    const count = gpuCount(task.gpus, gpus)
    const allowed = allowedGpus(task.gpus, gpus)
    const free = allowed.filter((gpu) => !claimed.has(gpu.id))
    const chosen = free.filter((gpu) => !heldBack.has(gpu.id)).slice(0, count)
    if (chosen.length < count) {
      if (allowed.length < count) {
        wait(`It needs ${gpusText(count)}, but only ${allowed.length} of those that it may use are there.`)
      } else {
        for (const gpu of allowed) heldBack.add(gpu.id)
        wait(
          free.length >= count
            ? `It needs ${gpusText(count)}; those that are free are held for a task before it.`
            : `It needs ${gpusText(count)}; ${free.length} of the ${allowed.length} that it may use ${free.length === 1 ? 'is' : 'are'} free.`,
        )
      }
      continue
    }
    for (const gpu of chosen) claimed.add(gpu.id)
    running++
    actions.push({
      kind: 'start',
      taskId: task.id,
      gpuIds: chosen.map((gpu) => gpu.id),
      reason:
        count === 0
          ? 'It is next and needs no GPU.'
          : `It is next, and ${chosen.map((gpu) => `GPU ${gpu.index} (${gpu.name})`).join(', ')} ${count === 1 ? 'is' : 'are'} free.`,
    })
  }
  return { actions, waiting }
}

function gpusText(count: number): string {
  return count === 1 ? '1 GPU' : `${count} GPUs`
}
