import type { GpuId, JsonValue } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import { presetFileWith, presetsFolder, presetWith, resolved } from './presets-folder.ts'

const [ONE, TWO, THREE] = ['GPU-1' as GpuId, 'GPU-2' as GpuId, 'GPU-3' as GpuId] as const

describe('what a task is started with', () => {
  it('is complete, as the preset says, and frozen to its depth', async () => {
    await using folder = await presetsFolder(
      presetFileWith('command: [a]\nenv_vars: {A: b}\ngpus: {ids: [GPU-1]}'),
    )
    const catalog = await folder.open()
    const result = catalog.resolve({ presetId: 'm/k', input: { a: 1 }, timeoutMs: null, gpuIds: null })
    expect(result).toEqual({ status: 'resolved', spec: catalog.preset('m/k')?.spec, input: { a: 1 } })
    const inside = (value: unknown): object[] =>
      typeof value === 'object' && value !== null ? [value, ...Object.values(value).flatMap(inside)] : []
    const parts = inside(result.status === 'resolved' ? result.spec : null)
    expect(parts.length).toBeGreaterThan(8)
    for (const part of parts) expect(part).toSatisfy(Object.isFrozen)
    for (const part of inside(catalog.preset('m/k'))) expect(part).toSatisfy(Object.isFrozen)
  })

  it('has the run time that the task asks for', async () => {
    expect(await resolved('timeouts: {run: 1h}', { timeoutMs: 1_500 })).toMatchObject({
      spec: { timeouts: { runMs: 1_500, stopGraceMs: 10_000 } },
    })
    expect(await resolved('', { timeoutMs: 30 * 86_400_000 })).toMatchObject({ status: 'resolved' })
  })

  it('has all other deadlines, the retries and the session of its preset', async () => {
    const keys =
      'mode: session\nsession: {max_concurrency: 4}\ntimeouts: {queue: 1h}\nretry: {max_attempts: 5}'
    const { spec } = await presetWith(keys)
    const result = await resolved(keys, { timeoutMs: 1_500 })
    expect(result).toMatchObject({
      spec: { ...spec, timeouts: { ...spec.timeouts, runMs: 1_500 } },
    })
    expect(spec).toMatchObject({
      session: { maxConcurrency: 4 },
      timeouts: { queueMs: 3_600_000 },
      retry: { maxAttempts: 5 },
    })
  })

  it.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 30 * 86_400_000 + 1])(
    'may not run for %d milliseconds',
    async (timeoutMs) => {
      expect(await resolved('', { timeoutMs })).toEqual({
        status: 'invalid-input',
        issues: [
          { path: 'timeoutMs', message: 'must be a whole number of milliseconds from 1 to 2592000000' },
        ],
      })
    },
  )

  it('has only the GPUs that both the preset and the task allow', async () => {
    expect(await resolved('', { gpuIds: [TWO, TWO, ONE] })).toMatchObject({
      spec: { gpus: { count: 'default', ids: [TWO, ONE] } },
    })
    expect(await resolved('gpus: {ids: [GPU-1, GPU-2]}', { gpuIds: [TWO, THREE] })).toMatchObject({
      spec: { gpus: { ids: [TWO] } },
    })
    expect(await resolved('gpus: {count: 2}', { gpuIds: [TWO, THREE] })).toMatchObject({
      spec: { gpus: { count: 2, ids: [TWO, THREE] } },
    })
    const shared = 'gpus: {share: shared, memory: 4GiB, names: [H100]}'
    expect(await resolved(shared, { gpuIds: [ONE] })).toMatchObject({
      spec: { gpus: { share: 'shared', memoryMb: 4_096, names: ['H100'], ids: [ONE] } },
    })
  })

  it.each([
    ['gpus: {ids: [GPU-1, GPU-2]}', [THREE], "names none of the preset's GPUs (GPU-1, GPU-2)"],
    ['', [], 'names no GPU'],
    ['gpus: {count: 2}', [ONE], 'leaves 1 of the 2 GPUs that the preset needs'],
    ['gpus: {count: 0}', [ONE], 'this preset takes no GPU'],
  ])('may not be left without the GPUs that it needs: %j', async (keys, gpuIds, message) => {
    expect(await resolved(keys, { gpuIds })).toEqual({
      status: 'invalid-input',
      issues: [{ path: 'gpuIds', message }],
    })
  })

  it('is refused with every reason at once', async () => {
    const keys = 'gpus: {ids: [GPU-1]}\ninput: {type: object}'
    const result = await resolved(keys, { input: 3, gpuIds: [TWO], timeoutMs: 0 })
    expect(result.status === 'invalid-input' && result.issues.map(({ path }) => path)).toEqual([
      'gpuIds',
      'timeoutMs',
      '',
    ])
  })
})

describe('a preset that is not there', () => {
  const ask = (presetId: string, input: JsonValue = null) => ({
    presetId,
    input,
    timeoutMs: null,
    gpuIds: null,
  })

  it('is answered with the name that was most likely meant', async () => {
    await using folder = await presetsFolder('models: {test-loading: {inference: {docker_image: x}}}')
    const catalog = await folder.open()
    expect(catalog.resolve(ask('test-loading/inferance'))).toEqual({
      status: 'unknown-preset',
      message: 'there is no preset "test-loading/inferance"; did you mean "test-loading/inference"?',
    })
    expect(catalog.resolve(ask('nothing like it'))).toEqual({
      status: 'unknown-preset',
      message: 'there is no preset "nothing like it"',
    })
    for (const id of ['constructor', '__proto__', '', 'x'.repeat(10_000)]) {
      expect(catalog.resolve(ask(id)).status).toBe('unknown-preset')
      expect(catalog.preset(id)).toBeNull()
    }
  })

  it('is answered with the reason where there are none at all', async () => {
    await using folder = await presetsFolder('models: [')
    const broken = await folder.open()
    expect(broken.resolve(ask('a/b'))).toMatchObject({
      message: expect.stringContaining('the presets file has problems') as string,
    })
    await folder.write('')
    const empty = await folder.open()
    expect(empty.resolve(ask('a/b'))).toMatchObject({
      message: expect.stringContaining('the presets file names none') as string,
    })
  })
})
