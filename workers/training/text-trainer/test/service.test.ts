import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { clientOf, LLAMA_WORKER_IMAGE, testEngine, TEXT_TRAINER_IMAGE } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import {
  faultsOf,
  type PresetSource,
  type SeenEvent,
  type SeenHistory,
  TestService,
} from '../../../../apps/api/test/e2e/service.ts'
import { upload } from '../../../../apps/api/test/e2e/uploads.ts'

const FOLDER = join(import.meta.dirname, '..')
const engine = testEngine()

const LINE = 'the quick brown fox jumps over the lazy dog, and nobody minds.\n'
const TEXT = LINE.repeat(60)
/** Seven steps an epoch. */
const TINY = {
  context: 64,
  batch_size: 8,
  learning_rate: 0.01,
  model: { width: 32, layers: 2, heads: 4, kv_heads: 2 },
}
const EPOCHS = 12
const WHOLE = { ...TINY, epochs: EPOCHS, checkpoint_every: { epochs: 1 } }
/** Of a byte, in nats, where nothing but how often each of them comes is known. */
const BLIND_LOSS = entropyOf(TEXT)

/** Calls `os.system('true')` where it is believed. */
const PICKLE = Buffer.from('\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R.', 'latin1')

interface Artifact {
  readonly id: string
  readonly name: string
  readonly bytes: string
  readonly sha256: string
  readonly url: string
}

interface Result {
  readonly stopped: string
  readonly epochs: number
  readonly steps: number
  readonly loss: number
  readonly validation_loss: number
  readonly best: { readonly epoch: number }
  readonly resumed_from_step: number | null
}

/** Those that people copy. */
async function packagePresets(): Promise<Record<string, PresetSource>> {
  const { models } = parse(await readFile(join(FOLDER, 'presets.yaml'), 'utf8')) as {
    models: Record<string, Record<string, PresetSource>>
  }
  return { ...models['text-trainer'] }
}

describe.skipIf(engine === null)('the text trainer in a container of the service', () => {
  let models: string
  let service: TestService
  /** A training that nothing has interrupted. */
  let whole: Trained

  beforeAll(async () => {
    await engine?.ensureImage(TEXT_TRAINER_IMAGE)
    await engine?.ensureImage(LLAMA_WORKER_IMAGE)
    models = await mkdtemp(join(tmpdir(), 'text-trainer-models-'))
    // Workers in containers are somebody else.
    await chmod(models, 0o755)
    await mkdir(join(models, 'texts'))
    await writeFile(join(models, 'texts/fox.txt'), TEXT)
    const { train = {}, ...others } = await packagePresets()
    // Where others work beside it more are slow.
    const one = { ...train, env_vars: { THREADS: '1' } }
    service = await TestService.start({
      runner: 'docker',
      presets: {
        ...others,
        train: { ...one, retry: { ...(train['retry'] as object), backoff: '0s' } },
        session: { ...one, mode: 'session' },
        'on-a-gpu': { ...one, gpus: { count: 1 }, retry: { max_attempts: 1 } },
        llama: {
          docker_image: LLAMA_WORKER_IMAGE,
          model_path: 'trained.gguf',
          gpus: { count: 0 },
          env_vars: { THREADS: '1' },
        },
      },
      env: { MODELS_DIR: models, GPUS: 'simulated:1x8192', SHUTDOWN: 'stop' },
    })
    whole = await trained(await submit(WHOLE))
  }, 600_000)
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await rm(models, { recursive: true })
  })

  interface Trained {
    readonly task: SeenHistory
    readonly events: readonly SeenEvent[]
    readonly result: Result
    /** The last of each name. */
    readonly artifacts: ReadonlyMap<string, Artifact>
  }

  interface Given {
    readonly kind?: string
    readonly files?: Readonly<Record<string, string | Uint8Array<ArrayBuffer>>>
  }

  async function submit(
    input: object,
    { kind = 'train', files = { 'fox.txt': TEXT } }: Given = {},
  ): Promise<string> {
    const given = Object.entries(files).map(async ([name, content]) => {
      const { id } = await upload(service, content, { name, type: 'application/octet-stream' })
      return { uploadId: id }
    })
    return service.submit(kind, { input, files: await Promise.all(given) })
  }

  async function trained(id: string): Promise<Trained> {
    const events = await service.events(id)
    expect(faultsOf(events)).toEqual([])
    expect(named(events, 'ProtocolFaultEvent')).toEqual([])
    const artifacts = named(events, 'ArtifactEvent').map(({ artifact }) => artifact as Artifact)
    return {
      task: await service.history(id),
      events,
      result: named(events, 'ResultEvent').at(-1)?.['value'] as Result,
      artifacts: new Map(artifacts.map((artifact) => [artifact.name, artifact])),
    }
  }

  /** Waits until so many epochs are over, and in a checkpoint. */
  async function savedEpochs(id: string, epochs: number): Promise<void> {
    await service.events(
      id,
      0,
      ({ name, payload }) => name === 'checkpoint' && (payload as { epoch: number }).epoch === epochs,
    )
  }

  async function contentOf({ artifacts }: Trained, name: string): Promise<Uint8Array<ArrayBuffer>> {
    const response = await fetch(new URL(artifacts.get(name)?.url ?? '', service.url))
    return new Uint8Array(await response.arrayBuffer())
  }

  /** Tries a task again, as people do. */
  async function retry(id: string): Promise<string> {
    const { retryTask } = await service.query<{ retryTask: { task: { id: string } } }>(
      'mutation ($id: ID!) { retryTask(id: $id) { ... on SubmitTaskSuccess { task { id } } } }',
      { id },
    )
    return retryTask.task.id
  }

  test('learns, and tells of every epoch what was measured', () => {
    const { task, events, result } = whole
    expect(task).toMatchObject({ status: 'COMPLETED', exitCode: 0, attempt: 1 })
    expect(result).toMatchObject({
      stopped: 'completed',
      epochs: EPOCHS,
      steps: 7 * EPOCHS,
      resumed_from_step: null,
    })
    expect(result.validation_loss).toBeLessThan(BLIND_LOSS / 4)
    expect(result.loss).toBeLessThan(BLIND_LOSS / 4)
    const ends = payloadsOf(events, 'metrics').filter((said) => 'validation_loss' in said)
    expect(ends.map(({ epoch, step }) => [epoch, step])).toEqual(
      Array.from({ length: EPOCHS }, (_, index) => [index + 1, 7 * (index + 1)]),
    )
    expect(ends[0]?.['validation_loss']).toBeGreaterThan(BLIND_LOSS)
    for (const said of ends)
      expect(said).toMatchObject({
        loss: expect.any(Number) as number,
        learning_rate: expect.any(Number) as number,
        tokens_per_second: expect.any(Number) as number,
      })
    expect(named(events, 'ProgressEvent').at(-1)).toMatchObject({ completed: 84, total: 84, unit: 'steps' })
  })

  test('leaves a checkpoint of every epoch, and the model', () => {
    const checkpoints = named(whole.events, 'ArtifactEvent').filter(
      ({ artifact }) => (artifact as Artifact).name === 'checkpoint.pt',
    )
    expect(checkpoints).toHaveLength(EPOCHS)
    expect([...whole.artifacts.keys()].sort()).toEqual([
      'checkpoint.pt',
      'history.json',
      'model.gguf',
      'model.safetensors',
    ])
  })

  test('writes a model with which llama-worker goes on with the text', async () => {
    await writeFile(join(models, 'trained.gguf'), await contentOf(whole, 'model.gguf'))
    const begun = LINE.slice(0, 20)
    const { text } = await service.run('llama', {
      input: { prompt: begun, temperature: 0, max_tokens: LINE.length - begun.length },
    })
    expect(begun + String(text)).toBe(LINE)
  })

  test('is cancelled with a checkpoint, from which a retry goes on to the same weights', async () => {
    const id = await submit({ ...WHOLE, checkpoint_every: { epochs: 2 } })
    await savedEpochs(id, 2)
    await service.cancel(id)
    const cancelled = await trained(id)
    expect(cancelled.task).toMatchObject({ status: 'CANCELLED', killed: false })
    const saved = payloadsOf(cancelled.events, 'checkpoint').map(({ step }) => step)
    const again = await trained(await retry(id))
    expect(again.task).toMatchObject({ status: 'COMPLETED', retryOf: id })
    expect(again.result.resumed_from_step).toBe(saved.at(-1))
    expect(again.result).toEqual({ ...whole.result, resumed_from_step: saved.at(-1) })
    expect(weightsOf(again)).toEqual(weightsOf(whole))
  })

  test('is killed, and its next attempt goes on from the last checkpoint to the same weights', async () => {
    const id = await submit({ ...WHOLE, checkpoint_every: { epochs: 3 } })
    await savedEpochs(id, 3)
    const { worker } = await service.task(id)
    await clientOf(engine?.dockerHost ?? '')
      .getContainer(worker?.containerId ?? '')
      .kill()
    const again = await trained(id)
    expect(again.task).toMatchObject({ status: 'COMPLETED', attempt: 2 })
    expect(again.task.attempts[0]).toMatchObject({ failureClass: 'WORKER_FAILED', exitCode: 137 })
    expect(again.result.resumed_from_step).toBe(21)
    expect(weightsOf(again)).toEqual(weightsOf(whole))
  })

  test('goes on from a checkpoint that it is given, for more epochs', async () => {
    const { result } = await trained(
      await submit(
        { ...WHOLE, epochs: EPOCHS + 2 },
        { kind: 'session', files: { 'fox.txt': TEXT, 'mine.pt': await contentOf(whole, 'checkpoint.pt') } },
      ),
    )
    expect(result).toMatchObject({ epochs: EPOCHS + 2, resumed_from_step: 7 * EPOCHS })
  })

  test('begins a training on another text with the weights of a checkpoint', async () => {
    const { events, result } = await trained(
      await submit(
        { ...TINY, epochs: 1 },
        {
          kind: 'session',
          files: { 'fox.txt': TEXT.slice(1), 'mine.pt': await contentOf(whole, 'checkpoint.pt') },
        },
      ),
    )
    expect(result).toMatchObject({ epochs: 1, resumed_from_step: null })
    expect(payloadsOf(events, 'metrics').at(-1)?.['loss']).toBeLessThan(BLIND_LOSS / 2)
  })

  test('stops early where it gets no better, and keeps the best weights; its text is one of the models folder', async () => {
    const { task, result } = await trained(
      await submit(
        { ...TINY, text: 'fox.txt', early_stop: { patience: 2, min_delta: 10 } },
        { kind: 'session', files: {} },
      ),
    )
    expect(task).toMatchObject({ status: 'COMPLETED', attempts: [{ warm: true }] })
    expect(result).toMatchObject({ stopped: 'early_stop', epochs: 3, best: { epoch: 1 } })
  })

  test('is cancelled in a session with a checkpoint, and the session stays', async () => {
    const id = await submit({ ...WHOLE, epochs: 100_000 }, { kind: 'session' })
    await savedEpochs(id, 1)
    await service.cancel(id)
    const { task, artifacts } = await trained(id)
    expect(task).toMatchObject({ status: 'CANCELLED' })
    expect([...artifacts.keys()]).toEqual(['checkpoint.pt'])
    const next = await trained(await submit({}, { kind: 'session', files: {} }))
    expect(next.task.attempts[0]?.workerId).toBe(task.attempts[0]?.workerId)
  })

  test.each([
    ['a text that is too short', {}, { 'a.txt': 'a' }, /^INVALID_INPUT: the text has 1 bytes, and needs/],
    ['no text', {}, {}, /^INVALID_INPUT: the task has no text/],
    [
      'a text outside of the models folder',
      { text: '../../etc/passwd' },
      {},
      /^INVALID_INPUT: there is no file/,
    ],
    ['texts of which none is named', {}, { a: TEXT, b: TEXT }, /^INVALID_INPUT: the task has 2 files/],
    ['a checkpoint that is none', {}, { a: TEXT, 'b.pt': 'none' }, /^INVALID_INPUT: "b.pt" is no checkpoint/],
    [
      'a checkpoint that would run something',
      {},
      { a: TEXT, 'b.pt': PICKLE },
      /^INVALID_INPUT: "b.pt" is no checkpoint/,
    ],
    [
      'heads that do not fit',
      { model: { width: 48, heads: 5 } },
      { a: TEXT },
      /^INVALID_INPUT: "model.width" is/,
    ],
  ])('refuses %s', async (_what, input, files, message) => {
    const { task } = await trained(await submit({ ...input }, { kind: 'session', files }))
    expect(task).toMatchObject({ status: 'FAILED', attempt: 1, attempts: [{ warm: true }] })
    expect(task.error?.message).toMatch(message)
  })

  test('refuses a checkpoint of another course of the same text', async () => {
    const files = { 'fox.txt': TEXT, 'mine.pt': await contentOf(whole, 'checkpoint.pt') }
    const { task } = await trained(await submit({ ...WHOLE, seed: 1 }, { kind: 'session', files }))
    expect(task.error?.message).toMatch(/^INVALID_INPUT: "mine.pt" can be gone on from with .*'seed': 0/)
  })

  test('fails where it was given a GPU that PyTorch does not find, instead of going on with the CPU', async () => {
    const { task } = await trained(await submit(TINY, { kind: 'on-a-gpu' }))
    expect(task).toMatchObject({ status: 'FAILED', attempt: 1 })
    expect(task.error?.message).toMatch(/^GPU_ERROR: it was given a GPU, and PyTorch [\d.]+\S* finds none/)
  })

  test('the schema of its input is the one in its manifest, in every preset', async () => {
    const manifest = parse(await readFile(join(FOLDER, 'worker.yaml'), 'utf8')) as { input: object }
    for (const { input } of Object.values(await packagePresets())) expect(input).toEqual(manifest.input)
  })
})

function named(events: readonly SeenEvent[], name: string): SeenEvent[] {
  return events.filter(({ __typename }) => __typename === name)
}

/** What custom events of a name say. */
function payloadsOf(events: readonly SeenEvent[], name: string): Readonly<Record<string, unknown>>[] {
  return named(events, 'CustomEvent')
    .filter((event) => event['name'] === name)
    .map(({ payload }) => payload as Record<string, unknown>)
}

function weightsOf({ artifacts }: { readonly artifacts: ReadonlyMap<string, Artifact> }): unknown {
  return [artifacts.get('model.safetensors')?.sha256, artifacts.get('model.gguf')?.sha256]
}

function entropyOf(text: string): number {
  const counts = new Map<string, number>()
  for (const char of text) counts.set(char, (counts.get(char) ?? 0) + 1)
  return [...counts.values()].reduce(
    (sum, count) => sum - (count / text.length) * Math.log(count / text.length),
    0,
  )
}
