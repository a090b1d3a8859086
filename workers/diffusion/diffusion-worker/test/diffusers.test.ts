import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gradeWorker } from '@gpu-service/conformance'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { FOLDER } from './build.ts'
import { png, readPng, type SeenPng, UNUSABLE_IMAGES } from './images.ts'

type Said = Readonly<Record<string, unknown>>

const noPython = spawnSync('python3', ['--version']).status !== 0
const SMALL = { prompt: 'ein Fuchs über 狐', width: 64, height: 128, steps: 3, seed: 4_294_967_295 }

/**
 * The worker for diffusers, which cannot be had here: `doubles` has in its place, and that of PyTorch and Pillow, what the worker calls, by the same names
 * and parameters. So this shows what the worker makes of an input and what it says of a pipeline's steps, and nothing of real pipelines.
 */
describe.skipIf(noPython)('the worker for diffusers', () => {
  let root: string
  let model: string
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'diffusers-worker-'))
    model = join(root, 'xl')
    await mkdir(model)
    await writeFile(join(model, 'model_index.json'), '{}')
  })
  afterAll(() => rm(root, { recursive: true }))

  const env = (): Readonly<Record<string, string>> => ({
    MODEL_PATH: model,
    GPU_DEVICE: '0',
    PYTHONPATH: ['test/doubles', 'diffusers', '../../sdk/python'].map((path) => join(FOLDER, path)).join(':'),
    PYTHONDONTWRITEBYTECODE: '1',
  })

  function python(args: readonly string[], more: Readonly<Record<string, string>> = {}): string {
    const { stdout } = spawnSync('python3', args, {
      cwd: FOLDER,
      env: { PATH: process.env['PATH'], ...env(), ...more },
      encoding: 'utf8',
      timeout: 50_000,
    })
    return stdout.trimEnd()
  }

  function run(input: object, more: Readonly<Record<string, string>> = {}): Said[] {
    const lines = python(['diffusers/worker.py'], { TASK_INPUT: JSON.stringify(input), ...more }).split('\n')
    return lines.map((line) => JSON.parse(line) as Said)
  }

  async function given(name: string, bytes: Buffer): Promise<{ INPUT_DIR: string }> {
    const folder = join(root, name)
    await mkdir(folder)
    await writeFile(join(folder, 'a.png'), bytes)
    return { INPUT_DIR: folder }
  }

  const named = (said: readonly Said[], name: string): Said[] => said.filter(({ event }) => event === name)

  const imagesIn = (said: readonly Said[]): SeenPng[] =>
    named(said, 'artifact').map(({ data }) => readPng(Buffer.from(String(data), 'base64')))

  test('understands and refuses the same inputs, in the same words, as the worker for the other engine', async () => {
    const table = join(FOLDER, 'test/orders.json')
    const cases = JSON.parse(await readFile(table, 'utf8')) as { order?: object; refused?: string }[]
    const outcomes = JSON.parse(python(['test/doubles/orders.py', table])) as unknown
    expect(outcomes).toEqual(cases.map(({ order, refused }) => (order ? { order } : { refused })))
  })

  test('tells steps, and has in its images what makes them again', () => {
    const said = run({ ...SMALL, count: 2 })
    expect(named(said, 'progress')).toMatchObject(
      [1, 2, 3, 4, 5, 6].map((completed) => ({ completed, total: 6, unit: 'steps' })),
    )
    expect(named(said, 'usage')).toMatchObject([{ images: 2, steps: 6 }])
    const at = { width: 64, height: 128 }
    expect(named(said, 'result')).toMatchObject([
      {
        value: {
          images: [
            { file: 'image-1.png', seed: 4_294_967_295, ...at },
            { file: 'image-2.png', seed: 0, ...at },
          ],
        },
      },
    ])
    const [first, second] = imagesIn(said)
    expect(first).toMatchObject({
      ...at,
      texts: { model: 'xl', Software: 'diffusion-worker with diffusers 0' },
    })
    const input = JSON.parse(second?.texts['parameters'] ?? '') as object
    expect(input).toEqual({ ...SMALL, negative_prompt: '', guidance: 7, sampler: 'euler_a', seed: 0 })
    expect(imagesIn(run(input))[0]?.pixels).toEqual(second?.pixels)
    expect(first?.pixels).not.toEqual(second?.pixels)
  })

  test('begins with an image, has its size, and does a part of the steps', async () => {
    const input = { prompt: 'a fox', init_image: 'a.png', strength: 0.5, steps: 4, seed: 1, sampler: 'lcm' }
    const said = run(input, await given('start', png(192, 64)))
    expect(named(said, 'progress').at(-1)).toMatchObject({ completed: 2, total: 2, unit: 'steps' })
    expect(imagesIn(said)).toMatchObject([{ width: 192, height: 64 }])
    expect(JSON.parse(imagesIn(said)[0]?.texts['parameters'] ?? '')).toMatchObject(input)
  })

  test.each(UNUSABLE_IMAGES)('does not begin with %s', async (what, bytes, message) => {
    const said = run({ prompt: 'a fox', init_image: 'a.png' }, await given(what, bytes))
    expect(said.at(-1)).toMatchObject({ status: 'failed', error: { code: 'INVALID_INPUT', message } })
  })

  test.each([
    [
      'there is no GPU',
      {},
      { GPU_DEVICE: '' },
      { message: expect.stringContaining('PyTorch finds no GPU') as string },
    ],
    [
      'there is no model',
      {},
      { MODEL_PATH: '/nowhere' },
      { message: expect.stringContaining('no model_index.json in "/nowhere"') as string },
    ],
    [
      'the GPU is too small',
      { prompt: 'too much' },
      {},
      { code: 'OUT_OF_MEMORY', message: 'CUDA out of memory. Tried to allocate 20.00 GiB' },
    ],
  ])('says so where %s', (_what, input, more, error) => {
    expect(run({ ...SMALL, ...input }, more).at(-1)).toMatchObject({ status: 'failed', error })
  })

  test('follows the protocol, once and as a session', async ({ signal }) => {
    const grade = await gradeWorker({
      subject: { kind: 'command', command: 'python3 diffusers/worker.py', cwd: FOLDER },
      input: SMALL,
      longInput: { ...SMALL, steps: 150 },
      env: { ...env(), STEP_SECONDS: '0.1' },
      signal,
    })
    expect(grade.findings).toEqual([])
    expect(grade.modes).toEqual(['one-off', 'session'])
  })
})
