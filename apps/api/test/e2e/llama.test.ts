import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeTinyModel } from '@gpu-service/llama-worker/testing'
import { LLAMA_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { deltasOf, noDocker } from './scripts.ts'
import { faultsOf, type PresetSource, type SeenEvent, TestService } from './service.ts'

const CONTEXT_SIZE = 256
const PACKAGE = join(import.meta.dirname, '../../../../workers/llama/llama-worker')

async function yamlOf(file: string): Promise<Readonly<Record<string, unknown>>> {
  return parse(await readFile(join(PACKAGE, file), 'utf8')) as Record<string, unknown>
}

const manifest = await yamlOf('worker.yaml')
const { models: examples } = (await yamlOf('presets.yaml')) as {
  models: Record<string, Record<string, PresetSource>>
}

/** The worker on a model of 0.6 MB that says words without sense, some thousand a second. */
function llama(more: PresetSource = {}, env: Readonly<Record<string, string>> = {}): PresetSource {
  return {
    docker_image: LLAMA_WORKER_IMAGE,
    model_path: 'tiny',
    env_vars: { THREADS: '1', ...env },
    gpus: { count: 0 },
    ...more,
  }
}

const PRESETS: Readonly<Record<string, PresetSource>> = {
  'one-off': llama({}, { CONTEXT_SIZE: `${CONTEXT_SIZE}` }),
  session: llama(
    { input: manifest['input'], mode: 'session', session: { max_concurrency: 3, max_workers: 1 } },
    { SLOTS: '3' },
  ),
  absent: llama({ model_path: 'absent' }),
  junk: llama({ model_path: 'junk.gguf' }),
  cut: llama({ model_path: 'cut.gguf' }),
  // Those that the package has for copying: a service whose presets are not valid does not start.
  ...Object.fromEntries(Object.values(examples).flatMap((kinds) => Object.entries(kinds))),
}

const user = (content: string): object => ({ role: 'user', content })

/** Loads no model twice where it can help it: most tests are tasks of one session. */
describe.skipIf(noDocker)('the llama worker in a container of the service', () => {
  let service: TestService
  let models: string

  beforeAll(async () => {
    await testEngine()?.ensureImage(LLAMA_WORKER_IMAGE)
    models = await mkdtemp(join(tmpdir(), 'llama-models-'))
    await mkdir(join(models, 'tiny'))
    await writeTinyModel(join(models, 'tiny/tiny.gguf'))
    await writeFile(join(models, 'junk.gguf'), 'GGUF, but no more of that')
    // As a download that broke off leaves it.
    await copyFile(join(models, 'tiny/tiny.gguf'), join(models, 'cut.gguf'))
    await truncate(join(models, 'cut.gguf'), 300_000)
    // Workers are nobody, and read as others do.
    await chmod(models, 0o755)
    service = await TestService.start({ runner: 'docker', presets: PRESETS, env: { MODELS_DIR: models } })
  }, 300_000)
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await rm(models, { recursive: true })
  })

  interface Answer {
    readonly events: readonly SeenEvent[]
    readonly text: string
    /** Each is one token. */
    readonly words: readonly string[]
    readonly usage: Readonly<Record<string, number>>
    readonly result: Readonly<Record<string, unknown>>
  }

  /** All that a task says, to its end. */
  async function answerOf(id: string): Promise<Answer> {
    const events = await service.events(id)
    expect(faultsOf(events)).toEqual([])
    const text = deltasOf(events).join('')
    return {
      events,
      text,
      words: text.match(/\S+/g) ?? [],
      usage: last(events, 'UsageEvent')?.['values'] as Answer['usage'],
      result: last(events, 'ResultEvent')?.['value'] as Answer['result'],
    }
  }

  async function ask(asked: object, more: object = {}): Promise<Answer> {
    const id = await service.submit('session', { input: asked, ...more })
    const answer = await answerOf(id)
    expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', text: answer.text || null })
    return answer
  }

  test('answers a chat as a one-off task: loads, streams, counts its tokens', async () => {
    const asked = { messages: [{ role: 'system', content: 'be good' }, user('the time')], max_tokens: 20 }
    const id = await service.submit('one-off', { input: asked })
    const { events, words, usage, result } = await answerOf(id)
    expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', exitCode: 0 })
    expect(words).toHaveLength(20)
    expect(result).toMatchObject({ finish_reason: 'length' })
    expect(usage).toMatchObject({ cached_prompt_tokens: 0, completion_tokens: 20 })
    const loaded = events.filter(({ status }) => status === 'loading').map(({ progress }) => progress)
    expect(loaded.length).toBeGreaterThan(3)
    expect(loaded).toEqual(loaded.toSorted((a, b) => Number(a) - Number(b)))
    expect(loaded.at(-1)).toBe(1)
  })

  test('says the same with the same seed, and draws one where none is given', async () => {
    const prompt = 'they said that'
    const drawn = await ask({ prompt, max_tokens: 24 })
    const again = await ask({ prompt, max_tokens: 24, seed: drawn.result['seed'] })
    const other = await ask({ prompt, max_tokens: 24, seed: 1 })
    expect(again.text).toBe(drawn.text)
    expect(other.text).not.toBe(drawn.text)
  })

  test('ends before a stop text, of which nothing is said', async () => {
    const asked = { prompt: 'water', max_tokens: 24, temperature: 0 }
    const { words, text } = await ask(asked)
    const stop = ` ${words[5] ?? ''} ${words[6] ?? ''}`
    const stopped = await ask({ ...asked, stop })
    expect(stopped.text).toBe(text.slice(0, text.indexOf(stop)))
    expect(stopped.result).toMatchObject({ finish_reason: 'stop' })
  })

  test('keeps to a JSON schema', async () => {
    const json_schema = {
      type: 'object',
      properties: { mood: { enum: ['good', 'bad'] }, sure: { type: 'boolean' } },
    }
    const { text, result } = await ask({ messages: [user('how are you')], json_schema })
    expect(result).toMatchObject({ finish_reason: 'stop', json: JSON.parse(text) as unknown })
    expect(['good', 'bad']).toContain((result['json'] as { mood: string }).mood)
  })

  test('gives vectors of length 1, the same for the same text', async () => {
    const { result, usage } = await ask({ embed: ['the time', 'water', 'the time'] })
    const [first = [], second, third] = result['embeddings'] as readonly number[][]
    expect(result).toMatchObject({ count: 3, dimensions: 64 })
    expect(Math.hypot(...first)).toBeCloseTo(1, 5)
    expect(third).toEqual(first)
    expect(second).not.toEqual(first)
    expect(usage['prompt_tokens']).toBeGreaterThan(3)
  })

  test('reads of a conversation that goes on only what is new, also where others talk meanwhile', async () => {
    const talk = { affinity: 'a talk' }
    const opening = [user('many people said that they know the way '.repeat(8))]
    const first = await ask({ messages: opening, max_tokens: 8 }, talk)
    await ask(
      { messages: [user('what is the use of it '.repeat(8))], max_tokens: 8 },
      { affinity: 'another' },
    )
    const messages = [...opening, { role: 'assistant', content: first.text }, user('and then')]
    const second = await ask({ messages, max_tokens: 8 }, talk)
    const fresh = first.usage['prompt_tokens'] ?? 0
    expect(second.usage['cached_prompt_tokens']).toBeGreaterThan(fresh * 0.9)
    expect(second.usage['prompt_tokens']).toBeGreaterThan(fresh)
  })

  test('writes for several tasks at once, and a cancel ends one of them before its next token', async () => {
    const isDelta = ({ __typename }: SeenEvent): boolean => __typename === 'TextDeltaEvent'
    const endless = await service.submit('session', { input: { prompt: 'the', seed: 1 } })
    await service.events(endless, 0, isDelta)
    const beside = await ask({ prompt: 'a', max_tokens: 30 })
    expect(beside.words).toHaveLength(30)
    expect(await service.task(endless)).toMatchObject({ status: 'RUNNING' })
    await service.cancel(endless)
    const { words, usage } = await answerOf(endless)
    expect(await service.task(endless)).toMatchObject({ status: 'CANCELLED' })
    expect((usage['completion_tokens'] ?? 0) - words.length).toBeLessThanOrEqual(1)
    const after = await service.run('session', { input: { prompt: 'of', max_tokens: 2 } })
    expect(after).toMatchObject({ status: 'COMPLETED', attempts: [{ warm: true }] })
  })

  test('a prompt that is cancelled while it is read says nothing', async () => {
    const prompt = 'so many people '.repeat(2_500)
    const id = await service.submit('session', { input: { prompt, seed: 1 } })
    await service.events(id, 0, ({ __typename }) => __typename === 'ProgressEvent')
    await service.cancel(id)
    const { text } = await answerOf(id)
    expect(await service.task(id)).toMatchObject({ status: 'CANCELLED' })
    expect(text).toBe('')
  })

  test('refuses a prompt that is longer than the context, and is not asked again', async () => {
    const done = await service.run('one-off', { input: { prompt: 'very little '.repeat(200) } })
    expect(done).toMatchObject({
      status: 'FAILED',
      error: {
        code: 'WORKER_FAILED',
        message: `CONTEXT_OVERFLOW: the prompt has 402 tokens, and the context ${CONTEXT_SIZE}, of which the answer needs at least one`,
      },
      attempt: 1,
    })
  })

  test('says where it was the context that ended the text', async () => {
    const id = await service.submit('one-off', { input: { prompt: 'very little '.repeat(100) } })
    const { usage, result } = await answerOf(id)
    expect(result).toMatchObject({ finish_reason: 'context' })
    expect((usage['prompt_tokens'] ?? 0) + (usage['completion_tokens'] ?? 0)).toBe(CONTEXT_SIZE)
  })

  test.each([
    [
      'an input that it does not understand',
      'one-off',
      { messages: [{ role: 'nobody' }] },
      /^INVALID_INPUT: /,
    ],
    [
      'a schema that no text can follow',
      'session',
      { prompt: 'a', json_schema: { type: 'string', pattern: 'a' } },
      /^INVALID_INPUT: /,
    ],
    ['a model that is not there', 'absent', { prompt: 'a' }, /there is no model at \/models\/absent/],
    ['a file that is no model', 'junk', { prompt: 'a' }, /\/models\/junk.gguf is no GGUF file/],
    ['a file that was cut', 'cut', { prompt: 'a' }, /Failed to load model/],
  ])('%s fails the task', async (_what, kind, asked, message) => {
    const done = await service.run(kind, { input: asked })
    expect(done).toMatchObject({ status: 'FAILED', attempt: 1, error: { code: 'WORKER_FAILED' } })
    expect(done.error?.message).toMatch(message)
  })
})

function last(events: readonly SeenEvent[], kind: string): SeenEvent | undefined {
  return events.findLast(({ __typename }) => __typename === kind)
}
