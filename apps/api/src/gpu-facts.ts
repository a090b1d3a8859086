import type { Gpu, GpuInventory } from '@gpu-service/tasks'
import type { HealthCheck } from './http/health.ts'

/** How the GPUs are, as far as their meters tell. One that can be seen is enough; that there are none is well too. */
export function gpusCheck(gpus: readonly Gpu[]): HealthCheck {
  if (gpus.length === 0) return { ok: true, detail: 'none' }
  const lost = gpus.filter(({ health }) => health === 'LOST').length
  const stale = gpus.filter((gpu) => gpu.health !== 'LOST' && gpu.stale).length
  const quarantined = gpus.filter(({ health }) => health === 'QUARANTINED').length
  const parts = [`${gpus.length} known`]
  if (lost > 0) parts.push(`${lost} lost`)
  if (stale > 0) parts.push(`${stale} with old telemetry`)
  if (quarantined > 0) parts.push(`${quarantined} quarantined`)
  return { ok: lost + stale < gpus.length, detail: parts.join(', ') }
}

/** Which GPUs there are, in one line: `2 × NVIDIA H200 with 143771 MB (nvidia-smi)`. */
export function gpusText(inventory: Pick<GpuInventory, 'source' | 'list'>): string {
  const counts = new Map<string, number>()
  for (const { name, memoryTotalMb } of inventory.list()) {
    const kind = memoryTotalMb === 0 ? name : `${name} with ${memoryTotalMb} MB`
    counts.set(kind, (counts.get(kind) ?? 0) + 1)
  }
  if (counts.size === 0) return 'none'
  return `${[...counts].map(([kind, count]) => `${count} × ${kind}`).join(', ')} (${inventory.source})`
}
