import { expect, test } from 'vitest'
import type { Gpu, GpuId } from '@gpu-service/tasks'
import { gpusCheck, gpusText } from '../src/gpu-facts.ts'

function gpu(changes: Partial<Gpu> = {}): Gpu {
  return {
    id: 'GPU-1' as GpuId,
    index: 0,
    name: 'NVIDIA H200',
    memoryTotalMb: 143_771,
    simulated: false,
    parentId: null,
    telemetry: null,
    stale: false,
    health: 'OK',
    problem: null,
    ...changes,
  }
}

test.each<[string, Partial<Gpu>[], { ok: boolean; detail: string }]>([
  ['none', [], { ok: true, detail: 'none' }],
  ['well ones', [{}, {}], { ok: true, detail: '2 known' }],
  ['one of two that is lost', [{}, { health: 'LOST' }], { ok: true, detail: '2 known, 1 lost' }],
  [
    'all of them lost or unheard of',
    [{ health: 'LOST', stale: true }, { stale: true }],
    { ok: false, detail: '2 known, 1 lost, 1 with old telemetry' },
  ],
  ['a quarantined one', [{ health: 'QUARANTINED' }], { ok: true, detail: '1 known, 1 quarantined' }],
])('health tells of %s', (_what, gpus, check) => {
  expect(gpusCheck(gpus.map(gpu))).toEqual(check)
})

test.each<[Partial<Gpu>[], 'nvidia-smi' | 'simulated' | 'none', string]>([
  [[], 'none', 'none'],
  [[{}, {}], 'nvidia-smi', '2 × NVIDIA H200 with 143771 MB (nvidia-smi)'],
  [
    [{}, { name: 'NVIDIA GB10', memoryTotalMb: 0 }],
    'nvidia-smi',
    '1 × NVIDIA H200 with 143771 MB, 1 × NVIDIA GB10 (nvidia-smi)',
  ],
])('%j from %s is told as %s', (gpus, source, text) => {
  expect(gpusText({ source, list: () => gpus.map(gpu) })).toBe(text)
})
