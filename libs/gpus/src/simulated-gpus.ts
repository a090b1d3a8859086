import type { GpuId, GpuProcess, GpuSimulation, SimulatedFault, WorkerId } from '@gpu-service/tasks'
import type { GpuReading, GpuSample, GpuSampler } from './sample.ts'

interface Simulated {
  readonly id: GpuId
  readonly index: number
  readonly uses: Map<WorkerId, number>
  /** Memory of workers that have gone, which is free at its time. */
  releases: { readonly memoryMb: number; readonly untilMs: number }[]
  foreignMemoryMb: number
  fault: SimulatedFault | null
  releaseMs: number
  eccErrors: number
}

/**
 * GPUs that exist in name only. Of their meters, only the memory shows something: what is said to be used. As with real ones, what changes is
 * seen with the next sample.
 */
export function createSimulatedGpus({ count, memoryMb }: { count: number; memoryMb: number }): {
  readonly sampler: GpuSampler
  readonly simulation: GpuSimulation
} {
  const gpus = new Map<GpuId, Simulated>()
  for (let index = 0; index < count; index += 1) {
    // Shaped like a driver's, the same at every start.
    const id = `GPU-00000000-0000-4000-8000-${index.toString(16).padStart(12, '0')}` as GpuId
    const idle = { releases: [], foreignMemoryMb: 0, fault: null, releaseMs: 0, eccErrors: 0 }
    gpus.set(id, { id, index, uses: new Map(), ...idle })
  }

  function sample(): GpuSample {
    const readings: GpuReading[] = []
    const [lost, silent] = [new Map<GpuId, string>(), new Map<GpuId, string>()]
    for (const gpu of gpus.values()) {
      if (gpu.fault === 'LOST') lost.set(gpu.id, 'It has disappeared (simulated).')
      else if (gpu.fault === 'HUNG_TELEMETRY') silent.set(gpu.id, 'Its telemetry hangs (simulated).')
      else readings.push(readingOf(gpu, memoryMb))
    }
    return { status: 'read', readings, lost, silent }
  }

  return {
    sampler: { sample: () => Promise.resolve(sample()), async [Symbol.asyncDispose]() {} },
    simulation: {
      use(gpuId, workerId, usedMb) {
        const gpu = gpus.get(gpuId)
        if (!gpu) return
        if (usedMb > 0) {
          gpu.uses.set(workerId, usedMb)
          return
        }
        const before = gpu.uses.get(workerId)
        gpu.uses.delete(workerId)
        release(gpu)
        if (before !== undefined && gpu.releaseMs > 0) {
          gpu.releases.push({ memoryMb: before, untilMs: performance.now() + gpu.releaseMs })
        }
      },
      set(gpuId, { foreignMemoryMb, fault, releaseMs }) {
        const gpu = gpus.get(gpuId)
        if (!gpu) return false
        if (foreignMemoryMb !== undefined) gpu.foreignMemoryMb = foreignMemoryMb
        if (releaseMs !== undefined) gpu.releaseMs = releaseMs
        if (fault !== undefined) {
          if (fault === 'ECC_ERROR' && gpu.fault !== fault) gpu.eccErrors += 1
          gpu.fault = fault
        }
        return true
      },
    },
  }
}

/** Lets go of what is free by now. */
function release(gpu: Simulated): void {
  const nowMs = performance.now()
  gpu.releases = gpu.releases.filter(({ untilMs }) => untilMs > nowMs)
}

function readingOf(gpu: Simulated, memoryTotalMb: number): GpuReading {
  release(gpu)
  const processes: GpuProcess[] = [...gpu.uses].map(([workerId, memoryMb]) => ({
    pid: null,
    name: 'Simulated worker',
    memoryMb,
    workerId,
  }))
  if (gpu.foreignMemoryMb > 0) {
    processes.push({
      pid: null,
      name: 'Simulated foreign process',
      memoryMb: gpu.foreignMemoryMb,
      workerId: null,
    })
  }
  const taken = [...processes, ...gpu.releases].reduce((sum, { memoryMb }) => sum + (memoryMb ?? 0), 0)
  return {
    id: gpu.id,
    index: gpu.index,
    name: 'Simulated GPU',
    memoryTotalMb,
    parentId: null,
    migIndex: 0,
    meters: {
      memoryUsedMb: Math.min(taken, memoryTotalMb),
      // Nothing is measured where there is nothing.
      utilizationPercent: null,
      temperatureC: null,
      powerW: null,
      eccErrors: gpu.eccErrors,
      processes,
    },
    faults: [],
  }
}
