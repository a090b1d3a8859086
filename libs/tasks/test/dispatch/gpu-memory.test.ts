import { beforeEach, describe, expect, test } from 'vitest'
import { GpuMemory } from '../../src/dispatch/gpu-memory.ts'
import {
  silentLogger,
  type Clock,
  type Gpu,
  type GpuId,
  type GpuInventory,
  type GpuProcess,
  type GpuTelemetry,
  type WorkerId,
  type WorkerName,
} from '../../src/index.ts'

const gpuId = 'GPU-0' as GpuId
const worker = (name: string) => ({
  id: name as WorkerId,
  name: `gpu-${name}` as WorkerName,
  claim: { gpuIds: [gpuId], memoryMb: 1_000 },
})
const a = worker('a')
const b = worker('b')

let now: number
let telemetry: GpuTelemetry | null
let pids: Record<string, readonly number[]>
/** What each further sample shows, first to last; the last one stays. */
let samples: Partial<GpuTelemetry>[]
let memory: GpuMemory
let gpu: () => Gpu
const never = new AbortController().signal

const process = (pid: number, memoryMb: number | null): GpuProcess => ({
  pid,
  name: 'python',
  memoryMb,
  workerId: null,
})

beforeEach(() => {
  now = 1_000
  pids = {}
  samples = []
  telemetry = {
    sampledAt: now,
    memoryUsedMb: 500,
    utilizationPercent: null,
    temperatureC: null,
    powerW: null,
    eccErrors: null,
    processes: null,
  }
  gpu = () => ({
    ...{ id: gpuId, index: 0, name: 'A GPU', memoryTotalMb: 8_000, simulated: false, parentId: null },
    ...{ telemetry, stale: false, health: 'OK', problem: null },
  })
  const gpus: GpuInventory = {
    source: 'nvidia-smi',
    simulation: null,
    list: () => [gpu()],
    refresh() {
      const next = samples.shift() ?? {}
      if (telemetry !== null) telemetry = { ...telemetry, ...next, sampledAt: now }
      return Promise.resolve()
    },
    restore: () => false,
    onChange: () => () => undefined,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  }
  const clock: Clock = {
    now: () => now,
    monotonic: () => now,
    after(ms, callback) {
      const timer = setImmediate(() => {
        now += ms
        callback()
      })
      return {
        [Symbol.dispose]: () => {
          clearImmediate(timer)
        },
      }
    },
  }
  const runner = { processes: (name: WorkerName) => Promise.resolve(pids[name] ?? []) }
  memory = new GpuMemory({ gpus, runner, clock, logger: silentLogger })
})

const sees = (change: Partial<GpuTelemetry>): Promise<void> => {
  if (telemetry !== null) telemetry = { ...telemetry, ...change }
  return memory.look()
}

describe("a worker's GPU memory", () => {
  test('is that of its processes, and its peak is kept', async () => {
    memory.claimed(a, 0, true)
    memory.claimed(b, 0, true)
    pids = { 'gpu-a': [11, 12], 'gpu-b': [21] }
    const processes = [process(11, 300), process(12, 200), process(21, 50), process(99, 1_000)]
    await sees({ memoryUsedMb: 2_050, processes })
    expect(memory.usedBy(a.id)).toEqual(new Map([[gpuId, 500]]))
    expect(memory.usedBy(b.id)).toEqual(new Map([[gpuId, 50]]))
    await sees({ memoryUsedMb: 1_050, processes: [process(11, 100)] })
    expect(memory.usedBy(a.id)).toEqual(new Map([[gpuId, 100]]))
    expect(memory.peakOf(a.id)).toBe(500)
    const [named] = memory.attributed([gpu()])
    expect(named?.telemetry?.processes).toEqual([{ ...process(11, 100), workerId: a.id }])
  })

  test('is what came with it where the driver names no processes and it is alone', async () => {
    memory.claimed(a, 0, true)
    await sees({ memoryUsedMb: 1_700 })
    expect(memory.usedBy(a.id)).toEqual(new Map([[gpuId, 1_200]]))
    memory.claimed(b, 0, true)
    await sees({ memoryUsedMb: 2_700 })
    expect(memory.usedBy(a.id)).toEqual(new Map())
    expect(memory.peakOf(a.id)).toBe(1_200)
  })

  test('is what it says itself where nothing can be measured', async () => {
    telemetry = null
    memory.claimed(a, 0, true)
    memory.told(a.id, 700.2)
    await memory.look()
    expect(memory.usedBy(a.id).size).toBe(0)
    expect(memory.peakOf(a.id)).toBe(701)
  })
})

describe('memory of a worker that has ended', () => {
  test('is free once its processes are gone, whatever others take meanwhile', async () => {
    memory.claimed(a, 0, true)
    pids = { 'gpu-a': [11] }
    await sees({ memoryUsedMb: 1_500, processes: [process(11, 1_000)] })
    samples = [
      { memoryUsedMb: 1_500, processes: [process(11, 1_000)] },
      { memoryUsedMb: 2_400, processes: [process(99, 1_900)] },
    ]
    const begin = now
    expect(await memory.released(a.id, never)).toBe(true)
    expect(now - begin).toBeLessThan(3_000)
  })

  test('is free once what it used is back, where the driver names no processes', async () => {
    memory.claimed(a, 0, true)
    await sees({ memoryUsedMb: 1_500 })
    samples = [{ memoryUsedMb: 1_500 }, { memoryUsedMb: 1_400 }, { memoryUsedMb: 520 }]
    expect(await memory.released(a.id, never)).toBe(true)
    expect(samples).toEqual([])
  })

  test('of a worker that was there before the service is not taken for what was there before it', async () => {
    memory.claimed(a, 0, false)
    await sees({ memoryUsedMb: 1_500 })
    expect(memory.usedBy(a.id).size).toBe(0)
  })

  test('is waited for no longer than a few seconds', async () => {
    memory.claimed(a, 0, true)
    pids = { 'gpu-a': [11] }
    await sees({ memoryUsedMb: 1_500, processes: [process(11, 1_000)] })
    const begin = now
    expect(await memory.released(a.id, never)).toBe(false)
    expect(now - begin).toBeGreaterThanOrEqual(5_000)
    expect(now - begin).toBeLessThan(6_000)
  })

  test('is not waited for where nothing was ever measured, or there is no GPU', async () => {
    telemetry = null
    memory.claimed(a, 0, true)
    expect(await memory.released(a.id, never)).toBe(true)
    expect(await memory.released('unknown' as WorkerId, never)).toBe(true)
    expect(now).toBe(1_000)
  })
})
