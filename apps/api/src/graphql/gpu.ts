import type { Gpu as DomainGpu, GpuId, Worker as DomainWorker } from '@gpu-service/tasks'
import type { Context } from './context.ts'
import type {
  GpuResolvers,
  QueryResolvers,
  SubscriptionResolvers,
  WorkerResolvers,
} from './generated/resolvers.ts'
import { flatten } from './iterate.ts'

export const gpuQueries = {
  gpus: (_parent, _args, { gpus }) => gpus.list(),
  workers: (_parent, _args, { dispatcher }) => dispatcher.workers(),
} satisfies QueryResolvers

export const gpuSubscriptions = {
  gpuUpdated: {
    subscribe: (_parent, _args, { gpus, dispatcher }) =>
      flatten(
        dispatcher.gpuChanges.watch(),
        () => gpus.list(),
        (ids) => gpus.list().filter((gpu) => ids.includes(gpu.id)),
      ),
    resolve: (gpu: DomainGpu) => gpu,
  },
} satisfies SubscriptionResolvers

export const Gpu = {
  memoryUsedMb: ({ telemetry }) => telemetry?.memoryUsedMb ?? null,
  sampledAt: ({ telemetry }) => telemetry?.sampledAt ?? null,
  utilizationPercent: ({ telemetry }) => telemetry?.utilizationPercent ?? null,
  temperatureC: ({ telemetry }) => telemetry?.temperatureC ?? null,
  powerW: ({ telemetry }) => telemetry?.powerW ?? null,
  // Claims are for whole GPUs.
  memoryClaimedMb: (gpu, _args, context) => (claimants(gpu.id, context).length > 0 ? gpu.memoryTotalMb : 0),
  status: ({ id }, _args, context) => (claimants(id, context).length > 0 ? 'BUSY' : 'AVAILABLE'),
  workers: ({ id }, _args, context) => claimants(id, context),
} satisfies GpuResolvers

export const Worker = {
  gpus: ({ gpuIds }, _args, { gpus }) => gpus.list().filter((gpu) => gpuIds.includes(gpu.id)),
  tasks: ({ taskIds, status }, _args, { store }) => (status === 'EXITED' ? [] : store.tasksById(taskIds)),
} satisfies WorkerResolvers

function claimants(id: GpuId, { dispatcher }: Context): readonly DomainWorker[] {
  return dispatcher.workers().filter((worker) => worker.gpuIds.includes(id))
}
