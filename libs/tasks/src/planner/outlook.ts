import type { GpuId, TaskId, WorkerId } from '../ids.ts'
import { createForecast, type StartEstimate } from './estimate.ts'
import { explainGpu, explainWorker } from './explain.ts'
import { inOrder } from './order.ts'
import { decide } from './plan.ts'
import type { Plan, PlanInput } from './plan-input.ts'

/** What can be told from one input: each part is made when it is first asked for, and kept. */
export interface Outlook {
  readonly input: PlanInput
  readonly plan: Plan
  /** Where in the order the task is looked at, from 1; `null`: it is not queued. */
  position(id: TaskId): number | null
  /** Who has the GPU, and what of it is left for whom; for people. Of a GPU that is not there it says so. */
  explainGpu(id: GpuId): string
  /** What the worker does, how long it stays and why; for people. Of a worker that is not there it says so. */
  explainWorker(id: WorkerId): string
  /** When the task is expected to be RUNNING; `null` where that cannot be told, or it is not queued. The first call makes all estimates. */
  estimate(id: TaskId): StartEstimate | null
}

const NOT_THERE = 'It is not there.'

export function createOutlook(input: PlanInput): Outlook {
  const decided = once(() => decide(input))
  const ordered = once(() => inOrder(input))
  const positions = once(() => new Map(ordered().map(({ id }, at) => [id, at + 1])))
  const gpus = once(() => new Map(decided().room.gpus.map((room) => [room.gpu.id, room])))
  const workers = once(() => new Map(input.workers.map((worker) => [worker.id, worker])))
  const position = (id: TaskId): number | null => positions().get(id) ?? null
  const forecast = once(() => createForecast(input, ordered(), position))
  return {
    input,
    get plan() {
      return decided().plan
    },
    position,
    explainGpu(id) {
      const room = gpus().get(id)
      return room === undefined ? NOT_THERE : explainGpu(room)
    },
    explainWorker(id) {
      const worker = workers().get(id)
      return worker === undefined ? NOT_THERE : explainWorker(input, worker)
    },
    estimate: (id) => forecast()(id),
  }
}

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | null = null
  return () => (made ??= { value: make() }).value
}
