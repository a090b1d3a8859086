import type { GpuId, LiveGpu, Refused } from '@gpu-service/tasks'
import { refusal } from './errors.ts'
import type {
  GpuProcessResolvers,
  GpuResolvers,
  MutationResolvers,
  QueryResolvers,
  SubscriptionResolvers,
} from './generated/resolvers.ts'
import { flatten } from './iterate.ts'
import { refusedProblem, unknownGpuProblem } from './problem.ts'

export const gpuQueries = {
  gpus: (_parent, _args, { dispatcher }) => dispatcher.gpus(),
} satisfies QueryResolvers

const NOT_SIMULATED: Refused = {
  status: 'refused',
  code: 'NOT_SIMULATED',
  message: 'The GPUs of this service are not simulated; start it with GPUS=simulated:<count>x<memory MB>.',
}

export const gpuMutations = {
  drainGpu: async (_parent, { id, reason }, { dispatcher, actor }) =>
    changed(id, await dispatcher.drainGpu(id as GpuId, reason ?? null, actor)),
  enableGpu: async (_parent, { id }, { dispatcher, actor }) =>
    changed(id, await dispatcher.enableGpu(id as GpuId, actor)),
  async simulateGpu(_parent, { id, foreignMemoryMb, fault, clearFault, releaseMs }, { dispatcher, gpus }) {
    requireAmount('foreignMemoryMb', foreignMemoryMb)
    requireAmount('releaseMs', releaseMs)
    if (clearFault && fault != null) {
      throw refusal(
        'BAD_USER_INPUT',
        'A fault is either set or cleared: fault and clearFault do not go together.',
      )
    }
    if (gpus.simulation === null) return refusedProblem(NOT_SIMULATED)
    const isThere = gpus.simulation.set(id as GpuId, {
      ...(foreignMemoryMb != null && { foreignMemoryMb }),
      ...(fault != null && { fault }),
      ...(clearFault && { fault: null }),
      ...(releaseMs != null && { releaseMs }),
    })
    if (!isThere) return unknownGpuProblem(id)
    // So that the answer shows it.
    await gpus.refresh()
    return changed(id, dispatcher.gpus().find((gpu) => gpu.id === id) ?? null)
  },
} satisfies MutationResolvers

export const gpuSubscriptions = {
  gpuUpdated: {
    subscribe: (_parent, _args, { dispatcher }) =>
      flatten(
        dispatcher.gpuChanges.watch(),
        () => dispatcher.gpus(),
        (ids) => dispatcher.gpus().filter((gpu) => ids.includes(gpu.id)),
      ),
    resolve: (gpu: LiveGpu) => gpu,
  },
} satisfies SubscriptionResolvers

export const Gpu = {
  memoryUsedMb: ({ telemetry }) => telemetry?.memoryUsedMb ?? null,
  sampledAt: ({ telemetry }) => telemetry?.sampledAt ?? null,
  utilizationPercent: ({ telemetry }) => telemetry?.utilizationPercent ?? null,
  temperatureC: ({ telemetry }) => telemetry?.temperatureC ?? null,
  powerW: ({ telemetry }) => telemetry?.powerW ?? null,
  eccErrors: ({ telemetry }) => telemetry?.eccErrors ?? null,
  processes: ({ telemetry }) => telemetry?.processes ?? null,
  workers: ({ workerIds }, _args, { dispatcher }) =>
    dispatcher.workers().filter(({ id }) => workerIds.includes(id)),
} satisfies GpuResolvers

export const GpuProcess = {
  worker: ({ workerId }, _args, { dispatcher }) =>
    dispatcher.workers().find(({ id }) => id === workerId) ?? null,
} satisfies GpuProcessResolvers

function changed(id: string, gpu: LiveGpu | null) {
  return gpu === null ? unknownGpuProblem(id) : ({ __typename: 'GpuSuccess', gpu } as const)
}

function requireAmount(name: string, amount: number | null | undefined): void {
  if (amount != null && amount < 0) throw refusal('BAD_USER_INPUT', `${name} must be at least 0.`)
}
