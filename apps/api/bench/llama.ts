import { spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { writeTinyModel } from '@gpu-service/llama-worker/testing'
import type { PresetSource, TestService } from '../test/e2e/service.ts'
import { type Bench, median } from './row.ts'

const DIRECT = join(import.meta.dirname, '../../../workers/llama/llama-worker/bench/direct.mjs')
/** 85 MB: on one thread it is about as fast as a model of billions is on a GPU. */
const SIZE = { width: 512, blocks: 8 }
const TOKENS = 200
const ROUNDS = 3
const AT_ONCE = 4

const session = (slots: number): PresetSource => ({
  docker_image: 'llama-worker:latest',
  model_path: 'bench.gguf',
  env_vars: { THREADS: '1', SLOTS: `${slots}` },
  mode: 'session',
  gpus: { count: 0 },
  session: { max_workers: 1, max_concurrency: slots },
})

/** Tokens through worker, engine's log, service and database to a subscriber, against the same engine called by a program. */
export const llama: Bench = {
  presets: { one: session(1), four: session(AT_ONCE) },
  async run(service, report) {
    const models = join(service.dataDir, 'models')
    await mkdir(models, { recursive: true })
    await writeTinyModel(join(models, 'bench.gguf'), SIZE)
    const direct = openDirect(join(models, 'bench.gguf'))
    const [alone, through]: [number[], number[]] = [[], []]
    // The first round warms both up. They take turns, for the machine's speed may change meanwhile.
    for (let round = 0; round <= ROUNDS; round++) {
      const rates = [await direct.rate(round), await serviceRate(service, round)] as const
      if (round === 0) continue
      alone.push(rates[0])
      through.push(rates[1])
    }
    direct.end()
    const ratio = median(through) / median(alone)
    report({
      name: 'llama: tokens from a session to a subscriber, first to last',
      value: median(through),
      unit: 'tokens/s',
      ratio,
      note: `to the engine called directly, ${Math.round(median(alone))} tokens/s; median of ${ROUNDS} times ${TOKENS} tokens, one thread`,
      goal: { text: '>= 0.95', met: ratio >= 0.95 },
    })

    const [serial, together]: [number[], number[]] = [[], []]
    for (let round = 0; round <= ROUNDS; round++) {
      const oneByOne = await timeOf(async () => {
        for (let n = 0; n < AT_ONCE; n++) await complete(service, 'four', n)
      })
      const atOnce = await timeOf(async () => {
        await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => complete(service, 'four', n)))
      })
      if (round === 0) continue
      serial.push(oneByOne)
      together.push(atOnce)
    }
    const tokens = AT_ONCE * TOKENS
    report({
      name: `llama: ${AT_ONCE} tasks at once on one session, submit to stored end`,
      value: (tokens / median(together)) * 1_000,
      unit: 'tokens/s',
      ratio: median(serial) / median(together),
      note: `to the same tasks one after the other, ${Math.round((tokens / median(serial)) * 1_000)} tokens/s; median of ${ROUNDS}, one thread`,
    })
  },
}

const inputOf = (seed: number): { prompt: string; max_tokens: number; seed: number } => ({
  prompt: 'the time',
  max_tokens: TOKENS,
  seed,
})

/** Tokens each second, as a subscriber sees them. */
async function serviceRate(service: TestService, seed: number): Promise<number> {
  const id = await service.submit('one', { input: inputOf(seed) })
  const query =
    'subscription ($id: ID!) { taskEvents(taskId: $id) { events { ... on TextDeltaEvent { delta } } } }'
  let first = 0
  let [seen, seenFirst] = [0, 0]
  let last = 0
  for await (const { taskEvents } of service.subscribe<{
    taskEvents: { events: readonly { readonly delta?: string }[] }
  }>(query, { id })) {
    // Each token of this model is a word; several may come together.
    const tokens = taskEvents.events.flatMap(({ delta }) => delta?.match(/\S+/g) ?? []).length
    if (tokens === 0) continue
    last = performance.now()
    seen += tokens
    if (first === 0) [first, seenFirst] = [last, tokens]
  }
  if (seen !== TOKENS) throw new Error(`llama: ${seen} tokens: ${JSON.stringify(await service.task(id))}`)
  return ((seen - seenFirst) / (last - first)) * 1_000
}

async function complete(service: TestService, kind: string, seed: number): Promise<void> {
  const { status, error } = await service.run(kind, { input: inputOf(seed) })
  if (status !== 'COMPLETED') throw new Error(`llama: ${status}: ${JSON.stringify(error)}`)
}

async function timeOf(work: () => Promise<void>): Promise<number> {
  const begin = performance.now()
  await work()
  return performance.now() - begin
}

/** The engine in a process of its own; it ends with `end`. */
function openDirect(model: string): { rate: (seed: number) => Promise<number>; end: () => void } {
  const child = spawn(process.execPath, [DIRECT, model], { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    async rate(seed) {
      const { prompt, max_tokens: maxTokens } = inputOf(seed)
      child.stdin.write(`${JSON.stringify({ prompt, maxTokens, seed })}\n`)
      const line = await lines.next()
      const { tokens, ms } = JSON.parse(String(line.value)) as { tokens: number; ms: number }
      return ((tokens - 1) / ms) * 1_000
    },
    end: () => child.stdin.end(),
  }
}
