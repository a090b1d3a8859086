import type { GpuId } from '../ids.ts'
import type { GpuNeed } from '../spec.ts'

/** What a need looks at in a GPU. */
export interface NeededGpu {
  readonly id: GpuId
  readonly index: number
  readonly name: string
  /** 0: not known. */
  readonly memoryTotalMb: number
}

/** How many GPUs a need comes to where these are there; `default` is one where it may have any. */
export function gpuCount(need: GpuNeed, gpus: readonly NeededGpu[]): number {
  return need.count === 'default' ? Math.min(1, allowedGpus(need, gpus).length) : need.count
}

/** Those that the need's ids, names and declared memory allow, in the given order, whether in use or not. */
export function allowedGpus<T extends NeededGpu>(need: GpuNeed, gpus: readonly T[]): readonly T[] {
  const { ids, memoryMb } = need
  const names = need.names?.map((name) => name.toLowerCase()) ?? null
  return gpus.filter(
    (gpu) =>
      (ids === null || ids.includes(gpu.id)) &&
      (names === null || names.some((name) => gpu.name.toLowerCase().includes(name))) &&
      (memoryMb === null || gpu.memoryTotalMb === 0 || gpu.memoryTotalMb >= memoryMb),
  )
}
