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
  return gpus.filter(allowing(need))
}

/** Whether its ids, names and declared memory allow a GPU. */
export function allowing({ ids, names, memoryMb }: GpuNeed): (gpu: NeededGpu) => boolean {
  const lowerNames = names?.map((name) => name.toLowerCase()) ?? null
  return ({ id, name, memoryTotalMb }) =>
    (ids === null || ids.includes(id)) &&
    (lowerNames === null || lowerNames.some((lower) => name.toLowerCase().includes(lower))) &&
    (memoryMb === null || memoryTotalMb === 0 || memoryTotalMb >= memoryMb)
}
