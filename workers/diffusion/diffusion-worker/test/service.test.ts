import { execFile } from 'node:child_process'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import {
  faultsOf,
  type SeenEvent,
  type SeenHistory,
  TestService,
} from '../../../../apps/api/test/e2e/service.ts'
import { upload } from '../../../../apps/api/test/e2e/uploads.ts'
import { DIST, FOLDER, MODELS } from './build.ts'
import { png, readPng, type SeenPng } from './images.ts'

const IMAGE = 'diffusion-worker:latest'
const SMALL = { prompt: 'a red fox', width: 64, height: 64, steps: 2 }

type Kind = 'image' | 'warm'

interface Outcome {
  readonly task: SeenHistory
  readonly events: readonly SeenEvent[]
  readonly images: readonly SeenPng[]
  readonly result: unknown
}

describe.skipIf(testEngine() === null)('the diffusion worker in a container of the service', () => {
  let folder: string
  let service: TestService
  beforeAll(async () => {
    const build = join(FOLDER, '../../../tools/base-images/worker-image.mjs')
    await promisify(execFile)(process.execPath, [build, DIST, IMAGE])
    folder = await mkdtemp(join(tmpdir(), 'diffusion-presets-'))
    // Workers in containers are somebody else.
    await chmod(MODELS, 0o755)
    service = await TestService.start({
      runner: 'docker',
      presets: {},
      env: { MODELS_DIR: MODELS, PRESETS_FILE: await presetsToCopy(), SHUTDOWN: 'stop' },
    })
  }, 600_000)
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await rm(folder, { recursive: true })
  })

  /** Those of this package, with one thread: more are slow where others work beside them. */
  async function presetsToCopy(): Promise<string> {
    const file = join(folder, 'presets.yaml')
    const source = await readFile(join(FOLDER, 'presets.yaml'), 'utf8')
    await writeFile(file, source.replaceAll('THREADS: 8', 'THREADS: 1').replaceAll('cpus: 8', 'cpus: 1'))
    return file
  }

  const submit = (kind: Kind, input: object, more: object = {}): Promise<string> =>
    service.submit(kind, { presetId: `stable-diffusion/${kind}`, input, ...more })

  const named = (events: readonly SeenEvent[], name: string): SeenEvent[] =>
    events.filter(({ __typename }) => __typename === name)

  async function outcomeOf(id: string): Promise<Outcome> {
    const events = await service.events(id)
    expect(faultsOf(events)).toEqual([])
    const images = await Promise.all(
      named(events, 'ArtifactEvent').map(async ({ artifact }) => {
        const { url, mediaType } = artifact as { url: string; mediaType: string }
        expect(mediaType).toBe('image/png')
        const response = await fetch(new URL(url, service.url))
        return readPng(Buffer.from(await response.arrayBuffer()))
      }),
    )
    const [result] = named(events, 'ResultEvent').map(({ value }) => value)
    return { task: await service.history(id), events, images, result }
  }

  const run = async (kind: Kind, input: object, more: object = {}): Promise<Outcome> =>
    outcomeOf(await submit(kind, input, more))

  test('makes images as a one-off task: steps, a drawn seed, and all that makes them again inside them', async () => {
    const asked = { ...SMALL, prompt: 'ein Fuchs über 狐', width: 128, count: 2 }
    const { task, events, images, result } = await run('image', asked)
    expect(task).toMatchObject({ status: 'COMPLETED', exitCode: 0 })
    const loading = named(events, 'WorkerEvent').filter(({ status }) => status === 'loading')
    expect([loading[0], loading.at(-1)]).toMatchObject([{ progress: 0 }, { progress: 1 }])
    expect(
      named(events, 'ProgressEvent').map(({ completed, total, unit }) => [completed, total, unit]),
    ).toEqual([1, 2, 3, 4].map((step) => [step, 4, 'steps']))
    expect(named(events, 'UsageEvent').at(-1)).toMatchObject({ values: { images: 2, steps: 4 } })
    expect(images.map(({ width, height }) => [width, height])).toEqual([
      [128, 64],
      [128, 64],
    ])

    const { seed } = (result as { images: [{ seed: number }] }).images[0]
    const seeds = [seed, (seed + 1) % 2 ** 32]
    expect(result).toEqual({
      images: seeds.map((value, index) => ({
        file: `image-${index + 1}.png`,
        seed: value,
        width: 128,
        height: 64,
      })),
    })
    expect(images.map(({ texts }) => texts['model'])).toEqual(['v1-5.gguf', 'v1-5.gguf'])
    const inputs = images.map(({ texts }) => JSON.parse(texts['parameters'] ?? '') as object)
    expect(inputs).toMatchObject(seeds.map((value) => ({ prompt: asked.prompt, seed: value })))

    const again = await run('warm', inputs[1] ?? {})
    expect(again.images[0]?.pixels).toEqual(images[1]?.pixels)
    expect(again.images[0]?.pixels).not.toEqual(images[0]?.pixels)
  })

  test('makes one image of another, of its size, with the model loaded once', async () => {
    const give = async (shade: number): Promise<object> => {
      const { id } = await upload(service, new Uint8Array(png(64, 64, shade)), {
        name: 'start.png',
        type: 'image/png',
      })
      return { files: [{ uploadId: id }] }
    }
    const asked = { prompt: 'a red fox', init_image: 'start.png', strength: 0.5, steps: 2, seed: 1 }
    const first = await run('warm', asked, await give(0))
    const second = await run('warm', asked, await give(200))
    expect(second.task).toMatchObject({ status: 'COMPLETED', attempts: [{ warm: true }] })
    expect(first.images).toMatchObject([{ width: 64, height: 64 }])
    expect(first.images[0]?.pixels).not.toEqual(second.images[0]?.pixels)

    const refused = await run('warm', { ...asked, init_image: 'end.png' }, await give(0))
    expect(refused.task).toMatchObject({
      status: 'FAILED',
      error: { message: 'INVALID_INPUT: the task has no file "end.png"' },
      attempts: [{ warm: true }],
    })
  })

  test('a cancelled task ends within a step, and leaves the model loaded', async () => {
    const id = await submit('warm', { ...SMALL, width: 256, height: 256, steps: 150 })
    await service.events(id, 0, ({ __typename }) => __typename === 'ProgressEvent')
    await service.cancel(id)
    const { task, events } = await outcomeOf(id)
    expect(task).toMatchObject({ status: 'CANCELLED', killed: false })
    const since = Date.parse(task.cancelRequestedAt ?? '')
    const later = named(events, 'ProgressEvent').filter(({ at }) => Date.parse(String(at)) > since)
    expect(later.length).toBeLessThanOrEqual(1)
    expect(named(events, 'ArtifactEvent')).toEqual([])
    const after = await run('warm', SMALL)
    expect(after.task).toMatchObject({ status: 'COMPLETED', attempts: [{ warm: true }] })
  })

  test('takes the input that its manifest tells of', async () => {
    const { presets } = await service.query<{ presets: { inputSchema: object }[] }>(
      '{ presets { inputSchema } }',
    )
    const { input } = parse(await readFile(join(FOLDER, 'worker.yaml'), 'utf8')) as { input: object }
    expect(presets.map(({ inputSchema }) => inputSchema)).toEqual(presets.map(() => input))
  })
})
