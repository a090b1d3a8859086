import { execFile } from 'node:child_process'
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
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
import { wav } from './audio.ts'
import { FOLDER } from './build.ts'
import { tinyModel } from './tiny-model.ts'

const IMAGE = 'whisper-worker:latest'
/** The tiny model is unsure of everything, and would try again and again. */
const ONCE = { temperature_increment: 0 }

interface Artifact {
  readonly name: string
  readonly mediaType: string
  readonly url: string
}

describe.skipIf(testEngine() === null)('the whisper worker in a container of the service', () => {
  let models: string
  let service: TestService
  beforeAll(async () => {
    const build = join(FOLDER, '../../../tools/base-images/worker-image.mjs')
    await promisify(execFile)(process.execPath, [build, FOLDER, IMAGE])
    models = await mkdtemp(join(tmpdir(), 'whisper-models-'))
    // Workers in containers are somebody else.
    await chmod(models, 0o755)
    await mkdir(join(models, 'whisper'))
    await writeFile(join(models, 'whisper/ggml-base.bin'), tinyModel())
    service = await TestService.start({
      runner: 'docker',
      presets: {},
      env: { MODELS_DIR: models, PRESETS_FILE: await presetsToCopy(), SHUTDOWN: 'stop' },
    })
  }, 600_000)
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await rm(models, { recursive: true })
  })

  /** Those of this package, with one thread: more are slow where others work beside them. */
  async function presetsToCopy(): Promise<string> {
    const file = join(models, 'presets.yaml')
    const source = await readFile(join(FOLDER, 'presets.yaml'), 'utf8')
    await writeFile(file, source.replaceAll(/^( *)model_path:.*$/gm, "$&\n$1env_vars: { THREADS: '1' }"))
    return file
  }

  const submit = (kind: 'transcribe' | 'warm', input: Record<string, unknown>): Promise<string> =>
    service.submit(kind, { presetId: `whisper/${kind}`, ...input })

  async function run(kind: 'transcribe' | 'warm', input: Record<string, unknown>): Promise<SeenHistory> {
    const id = await submit(kind, input)
    await service.events(id)
    return service.history(id)
  }

  async function give(seconds: number): Promise<{ files: { uploadId: string }[] }> {
    const { id } = await upload(service, new Uint8Array(wav(seconds)), {
      name: 'talk of today.wav',
      type: 'audio/wav',
    })
    return { files: [{ uploadId: id }] }
  }

  const named = (events: readonly SeenEvent[], name: string): SeenEvent[] =>
    events.filter(({ __typename }) => __typename === name)

  const segmentsIn = (events: readonly SeenEvent[]): object[] =>
    named(events, 'CustomEvent').map(({ payload }) => {
      const { start, end, text } = payload as { start: number; end: number; text: string }
      return { start, end, text }
    })

  test('gives segments as they come, the text, subtitles and how far it is', async () => {
    const id = await submit('transcribe', { input: { ...ONCE, language: 'en' }, ...(await give(65)) })
    const events = await service.events(id)
    expect(faultsOf(events)).toEqual([])
    const task = await service.task(id)
    expect(task).toMatchObject({ status: 'COMPLETED', exitCode: 0 })

    const segments = segmentsIn(events)
    expect(segments.length).toBeGreaterThan(2)
    const texts = segments.map((segment) => ('text' in segment ? segment.text : ''))
    expect(task.text).toBe(texts.join(' '))
    const order = events.map(({ __typename }) => __typename)
    expect(order.indexOf('CustomEvent')).toBeLessThan(order.lastIndexOf('ProgressEvent'))
    expect(named(events, 'ProgressEvent').at(-1)).toMatchObject({
      completed: 100,
      total: 100,
      unit: 'percent',
    })
    expect(named(events, 'ResultEvent')).toMatchObject([
      { value: { language: 'en', translated: false, segments: segments.length } },
    ])

    const artifacts = named(events, 'ArtifactEvent').map(({ artifact }) => artifact as Artifact)
    const contents = await Promise.all(
      artifacts.map(async ({ url }) => (await fetch(new URL(url, service.url))).text()),
    )
    expect(artifacts.map(({ name, mediaType }) => [name, mediaType])).toEqual([
      ['transcript.srt', 'application/x-subrip'],
      ['transcript.vtt', 'text/vtt'],
      ['transcript.json', 'application/json'],
    ])
    expect(contents[0]?.match(/ --> /g)).toHaveLength(segments.length)
    expect(contents[1]).toMatch(/^WEBVTT\n\n00:00:\d\d\.\d{3} --> /)
    expect(JSON.parse(contents[2] ?? '')).toEqual({ language: 'en', translated: false, segments })
  })

  test('tells the language that it hears, translates, and refuses what is no audio, with the model loaded once', async () => {
    const heard = await run('warm', { input: ONCE, ...(await give(2)) })
    const events = await service.events(heard.id)
    expect(named(events, 'ResultEvent')).toMatchObject([
      { value: { language: expect.stringMatching(/^[a-z]{2,3}$/) as string } },
    ])
    const translated = await run('warm', {
      input: { ...ONCE, language: 'de', translate: true },
      ...(await give(2)),
    })
    expect(translated).toMatchObject({ status: 'COMPLETED', attempts: [{ warm: true }] })
    const { id } = await upload(service, 'no audio', { name: 'a.wav', type: 'audio/wav' })
    const refused = await run('warm', { files: [{ uploadId: id }] })
    expect(refused).toMatchObject({
      status: 'FAILED',
      error: { message: expect.stringMatching(/^INVALID_INPUT: "a.wav" is no audio/) as string },
      attempts: [{ warm: true }],
    })
    expect((await service.workers()).map(({ tasksServed }) => tasksServed)).toEqual([3])
  })

  test('takes the input that its manifest tells of', async () => {
    const { presets } = await service.query<{ presets: { inputSchema: object }[] }>(
      '{ presets { inputSchema } }',
    )
    const { input } = parse(await readFile(join(FOLDER, 'worker.yaml'), 'utf8')) as { input: object }
    expect(presets.map(({ inputSchema }) => inputSchema)).toEqual([input, input, input])
  })

  test('a cancelled task keeps what it has said, and leaves the model loaded', async () => {
    const id = await submit('warm', { input: ONCE, ...(await give(300)) })
    await service.events(id, 0, ({ __typename }) => __typename === 'CustomEvent')
    await service.cancel(id)
    const task = await service.ended(id)
    expect(task).toMatchObject({ status: 'CANCELLED' })
    expect(task.text).not.toBe('')
    const events = await service.events(id)
    expect(faultsOf(events)).toEqual([])
    expect(named(events, 'ArtifactEvent')).toEqual([])
    const after = await run('warm', { input: ONCE, ...(await give(2)) })
    expect(after).toMatchObject({ status: 'COMPLETED', attempts: [{ warm: true }] })
  })
})
