import type { LiveGpu } from '../dispatcher.ts'
import type { Gpu } from '../gpu.ts'
import type { GpuId } from '../ids.ts'
import type { Outlook, PlannedGpu } from '../planner/index.ts'
import { createRoom, type GpuRoom } from '../planner/room.ts'
import type { GpuDrain } from '../store.ts'

type Drains = ReadonlyMap<GpuId, GpuDrain>

/** The inventory as the planner sees it. */
export function plannedGpus(gpus: readonly Gpu[], drains: Drains): readonly PlannedGpu[] {
  const divided = new Set(gpus.map(({ parentId }) => parentId))
  return gpus.map((gpu): PlannedGpu => {
    const { id, index, name, memoryTotalMb, telemetry } = gpu
    return {
      ...{ id, index, name, memoryTotalMb },
      usedMb: telemetry?.memoryUsedMb ?? null,
      unusable: unusable(gpu, drains.get(id), divided.has(id)),
    }
  })
}

function unusable(gpu: Gpu, drain: GpuDrain | undefined, isDivided: boolean): string | null {
  const { health, problem } = gpu
  if (health !== 'OK')
    return `It is ${health}${problem === null ? '' : `: ${problem}`}.`.replace(/\.\.$/, '.')
  if (drain !== undefined) return `It is drained${drain.reason === null ? '' : `: ${drain.reason}`}.`
  return isDivided ? 'It is divided into MIG devices, which serve in its place.' : null
}

/** The inventory as clients see it. */
export function liveGpus(gpus: readonly Gpu[], drains: Drains, outlook: Outlook): readonly LiveGpu[] {
  const rooms = new Map(createRoom(outlook.input).gpus.map((room) => [room.gpu.id, room]))
  return gpus.map((gpu): LiveGpu => {
    const room = rooms.get(gpu.id)
    const workerIds = room?.holders.map(({ worker }) => worker.id) ?? []
    const drained = drains.has(gpu.id)
    return {
      ...gpu,
      drained,
      status:
        gpu.health !== 'OK' ? gpu.health : drained ? 'DRAINING' : workerIds.length > 0 ? 'BUSY' : 'AVAILABLE',
      memoryClaimedMb: room === undefined ? 0 : claimedMb(gpu, room),
      foreignMemoryMb: (gpu.telemetry?.memoryUsedMb ?? null) === null ? null : (room?.foreignMb ?? 0),
      memoryFreeMb:
        room === undefined || room.availableMb === Infinity ? gpu.memoryTotalMb : room.availableMb,
      workerIds,
      explanation: outlook.explainGpu(gpu.id),
    }
  })
}

function claimedMb({ memoryTotalMb }: Gpu, { holders }: GpuRoom): number {
  return holders.reduce((sum, { worker }) => sum + (worker.claim.memoryMb ?? memoryTotalMb), 0)
}
