import { expect, test } from 'vitest'
import { GpuReadings } from '../../src/dispatch/gpu-readings.ts'
import type { Gpu, GpuTelemetry } from '../../src/gpu.ts'
import type { GpuId } from '../../src/ids.ts'

const A = 'GPU-a' as GpuId
const B = 'GPU-b' as GpuId

const meters = (sampledAt: number, memoryUsedMb: number): GpuTelemetry => ({
  ...{ sampledAt, memoryUsedMb, utilizationPercent: 50, temperatureC: 60, powerW: null, eccErrors: null },
  processes: null,
})
const gpu = (id: GpuId, telemetry: GpuTelemetry | null): Gpu => ({
  ...{ id, index: 0, name: 'GPU', memoryTotalMb: 1_000, simulated: true, parentId: null, telemetry },
  ...{ stale: false, health: 'OK', problem: null },
})

test('are kept of the last minute, each sample once, oldest first', () => {
  const readings = new GpuReadings()
  for (let second = 0; second <= 100; second += 5) {
    readings.note([gpu(A, meters(second * 1_000, second)), gpu(B, null)])
    readings.note([gpu(A, meters(second * 1_000, second))])
  }
  const times = readings.of([B, A]).map(({ at }) => at / 1_000)
  expect(times).toEqual([40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100])
  expect(readings.of([A]).at(-1)).toEqual({
    ...{ gpuId: A, at: 100_000, memoryUsedMb: 100, utilizationPercent: 50 },
    ...{ temperatureC: 60, powerW: null, eccErrors: null },
  })
})

test('do not grow with the rate at which they are taken', () => {
  const readings = new GpuReadings()
  for (let at = 0; at < 10_000; at++) readings.note([gpu(A, meters(at, at))])
  expect(readings.of([A])).toHaveLength(120)
})
