import type { Gpu, GpuId, GpuInventory, GpuSimulation, Logger, WorkerId } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openGpuInventory } from '../src/index.ts'

const INTERVAL_MS = 5_000
const WORKER = 'worker-1' as WorkerId
const OTHER = 'worker-2' as WorkerId
const source = { simulated: { count: 2, memoryMb: 81_920 } }
const logger: Logger = { debug() {}, info() {}, warn() {}, error() {} }

let inventory: GpuInventory
let simulation: GpuSimulation
let id: GpuId

beforeEach(async () => {
  vi.useFakeTimers()
  inventory = await openGpuInventory({ source, logger, sampleIntervalMs: INTERVAL_MS })
  if (!inventory.simulation) throw new Error('simulated GPUs have no strings')
  simulation = inventory.simulation
  id = gpu().id
})

afterEach(async () => {
  await inventory[Symbol.asyncDispose]()
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

function gpu(): Gpu {
  const [first] = inventory.list()
  if (!first) throw new Error('there is no GPU')
  return first
}

describe('simulated GPUs', () => {
  it('are as many as asked for, the same at every start, and measure memory alone', async () => {
    await using again = await openGpuInventory({ source, logger })
    expect(inventory.source).toBe('simulated')
    expect(inventory.list()).toMatchObject([{ index: 0 }, { index: 1 }])
    expect(gpu()).toEqual({
      id: 'GPU-00000000-0000-4000-8000-000000000000',
      index: 0,
      name: 'Simulated GPU',
      memoryTotalMb: 81_920,
      simulated: true,
      parentId: null,
      telemetry: {
        sampledAt: Date.now(),
        memoryUsedMb: 0,
        utilizationPercent: null,
        temperatureC: null,
        powerW: null,
        eccErrors: 0,
        processes: [],
      },
      stale: false,
      health: 'OK',
      problem: null,
    })
    expect(again.list()).toEqual(inventory.list())
  })

  it('show with the next sample what workers and others use, and by whom', async () => {
    simulation.use(id, WORKER, 20_000)
    simulation.use(id, OTHER, 1_000)
    expect(simulation.set(id, { foreignMemoryMb: 500 })).toBe(true)
    expect(gpu().telemetry?.memoryUsedMb).toBe(0)
    const changed = vi.fn()
    inventory.onChange(changed)
    await vi.advanceTimersByTimeAsync(INTERVAL_MS)
    expect(gpu().telemetry).toMatchObject({
      sampledAt: Date.now(),
      memoryUsedMb: 21_500,
      processes: [
        { pid: null, memoryMb: 20_000, workerId: WORKER },
        { pid: null, memoryMb: 1_000, workerId: OTHER },
        { pid: null, memoryMb: 500, workerId: null },
      ],
    })
    expect(changed.mock.calls).toEqual([[[id]]])
  })

  it('show no more than they have, and nothing of a GPU that is not there', async () => {
    simulation.use(id, WORKER, 100_000)
    simulation.use('GPU-none' as GpuId, WORKER, 5)
    expect(simulation.set('GPU-none' as GpuId, { fault: 'LOST' })).toBe(false)
    await inventory.refresh()
    expect(inventory.list().map(({ telemetry }) => telemetry?.memoryUsedMb)).toEqual([81_920, 0])
  })

  it('release the memory of a worker that has gone when its time is over', async () => {
    simulation.set(id, { releaseMs: 3_000 })
    simulation.use(id, WORKER, 20_000)
    simulation.use(id, WORKER, 0)
    await inventory.refresh()
    expect(gpu().telemetry).toMatchObject({ memoryUsedMb: 20_000, processes: [] })
    await vi.advanceTimersByTimeAsync(2_999)
    await inventory.refresh()
    expect(gpu().telemetry?.memoryUsedMb).toBe(20_000)
    await vi.advanceTimersByTimeAsync(1)
    await inventory.refresh()
    expect(gpu().telemetry?.memoryUsedMb).toBe(0)
  })

  it('are stale two intervals after their last sample while their telemetry hangs, and fresh with the next', async () => {
    simulation.set(id, { fault: 'HUNG_TELEMETRY' })
    await vi.advanceTimersByTimeAsync(2 * INTERVAL_MS - 1)
    expect(gpu().stale).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    expect(inventory.list()).toMatchObject([
      { stale: true, health: 'OK', problem: 'Its telemetry hangs (simulated).' },
      { stale: false, problem: null },
    ])
    simulation.set(id, { fault: null })
    await inventory.refresh()
    expect(gpu()).toMatchObject({ stale: false, problem: null })
  })

  it('are LOST until the fault has gone and three samples were good', async () => {
    simulation.set(id, { fault: 'LOST' })
    await inventory.refresh()
    expect(gpu()).toMatchObject({ health: 'LOST', problem: 'It has disappeared (simulated).' })
    expect(inventory.restore(id), 'an operator cannot bring it back').toBe(true)
    expect(gpu().health).toBe('LOST')
    simulation.set(id, { fault: null })
    await vi.advanceTimersByTimeAsync(2 * INTERVAL_MS)
    expect(gpu().health).toBe('LOST')
    await vi.advanceTimersByTimeAsync(INTERVAL_MS)
    expect(gpu()).toMatchObject({ health: 'OK', problem: null })
  })

  it('are QUARANTINED by an ECC error until an operator takes them back, and by the next again', async () => {
    simulation.set(id, { fault: 'ECC_ERROR' })
    await inventory.refresh()
    expect(gpu()).toMatchObject({ health: 'QUARANTINED', telemetry: { eccErrors: 1 } })
    simulation.set(id, { fault: null })
    await inventory.refresh()
    expect(gpu().health).toBe('QUARANTINED')
    const changed = vi.fn()
    inventory.onChange(changed)
    expect(inventory.restore(id)).toBe(true)
    expect(changed.mock.calls).toEqual([[[id]]])
    await inventory.refresh()
    expect(gpu()).toMatchObject({ health: 'OK', problem: null })
    simulation.set(id, { fault: 'ECC_ERROR' })
    await inventory.refresh()
    expect(gpu()).toMatchObject({ health: 'QUARANTINED', telemetry: { eccErrors: 2 } })
  })

  it('have newer samples without a change, at the interval and on demand', async () => {
    const changed = vi.fn()
    inventory.onChange(changed)
    await vi.advanceTimersByTimeAsync(INTERVAL_MS)
    expect(gpu().telemetry?.sampledAt).toBe(Date.now())
    await vi.advanceTimersByTimeAsync(7)
    await inventory.refresh()
    expect(gpu().telemetry?.sampledAt).toBe(Date.now())
    expect(changed).not.toHaveBeenCalled()
  })

  it('are not sampled any more after disposal', async () => {
    await inventory[Symbol.asyncDispose]()
    const before = inventory.list()
    simulation.use(id, WORKER, 5)
    await inventory.refresh()
    await vi.advanceTimersByTimeAsync(10 * INTERVAL_MS)
    expect(inventory.list()).toBe(before)
  })
})
