import type { GpuReading } from '../evidence.ts'
import type { Gpu } from '../gpu.ts'
import type { GpuId } from '../ids.ts'

/** How far back readings are kept, and the most of one GPU. */
const KEPT_MS = 60_000
const MAX_READINGS = 120

/** What the meters of the GPUs showed in the last minute, for the evidence of failures. */
export class GpuReadings {
  readonly #readings = new Map<GpuId, GpuReading[]>()

  /** The inventory has news; what it does not sample anew is not noted again. */
  note(gpus: readonly Gpu[]): void {
    for (const { id, telemetry } of gpus) {
      if (telemetry === null) continue
      const { sampledAt: at, memoryUsedMb, utilizationPercent, temperatureC, powerW, eccErrors } = telemetry
      const readings = this.#readings.get(id) ?? []
      if (readings.at(-1)?.at === at) continue
      readings.push({ gpuId: id, at, memoryUsedMb, utilizationPercent, temperatureC, powerW, eccErrors })
      while (readings.length > MAX_READINGS || (readings[0] !== undefined && readings[0].at < at - KEPT_MS))
        readings.shift()
      this.#readings.set(id, readings)
    }
  }

  /** Of these GPUs, one after the other, oldest first. */
  of(ids: readonly GpuId[]): readonly GpuReading[] {
    return ids.flatMap((id) => this.#readings.get(id) ?? [])
  }
}
