import { expect, test } from 'vitest'
import { specHashOf, type GpuId, type WorkerSpec } from '../src/index.ts'
import { EXAMPLE_SESSION, EXAMPLE_SPEC } from '../src/testing/index.ts'

const { timeouts, gpus } = EXAMPLE_SPEC

test.each<[string, Partial<WorkerSpec>]>([
  ['which GPUs it may have', { gpus: { ...gpus, ids: ['GPU-1' as GpuId] } }],
  ['how long it may run', { timeouts: { ...timeouts, runMs: 1 } }],
  ['how long it may wait', { timeouts: { ...timeouts, queueMs: 1 } }],
  ['how long it may be silent', { timeouts: { ...timeouts, silenceMs: 1 } }],
  ['how it is tried again', { retry: { maxAttempts: 9, backoffMs: 9, on: ['engine'] } }],
])('workers can stand in for one another whatever a task may ask for itself: %s', (_what, change) => {
  expect(specHashOf({ ...EXAMPLE_SPEC, ...change })).toBe(specHashOf(EXAMPLE_SPEC))
})

test.each<[string, Partial<WorkerSpec>]>([
  ['image', { image: 'other:latest' }],
  ['command', { command: ['other'] }],
  ['environment', { env: { OTHER: '1' } }],
  ['memory on the GPU', { gpus: { ...gpus, memoryMb: 12_345 } }],
  ['number of GPUs', { gpus: { ...gpus, count: 7 } }],
  ['time to come up', { timeouts: { ...timeouts, startMs: 1 } }],
  ['session options', { session: { ...EXAMPLE_SESSION, maxConcurrency: 77 } }],
])('a worker with another %s is another worker', (_what, change) => {
  expect(specHashOf({ ...EXAMPLE_SPEC, ...change })).not.toBe(specHashOf(EXAMPLE_SPEC))
})
