// direct.mjs MODEL: the engine alone, as a program of its own would use it. For each line of its standard input, JSON with prompt, maxTokens and seed, it
// writes a text and prints how long that took, from its first token to its last: JSON with tokens and ms.
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const [modelPath] = process.argv.slice(2)
const entry = join(import.meta.dirname, '../dist/cpu/app/node_modules/node-llama-cpp/dist/index.js')
const { getLlama, LlamaCompletion } = await import(pathToFileURL(entry).href)
const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  progressLogs: false,
  maxThreads: 1,
})
const model = await llama.loadModel({ modelPath })
const context = await model.createContext({ contextSize: 8192 })
const completion = new LlamaCompletion({ contextSequence: context.getSequence() })
for await (const line of createInterface({ input: process.stdin })) {
  const { prompt, maxTokens, seed } = JSON.parse(line)
  const at = []
  await completion.generateCompletion(prompt, {
    maxTokens,
    seed,
    // As the worker does unless it is told otherwise.
    temperature: 0.8,
    topP: 0.95,
    topK: 40,
    minP: 0.05,
    repeatPenalty: false,
    onTextChunk: () => at.push(performance.now()),
  })
  console.log(JSON.stringify({ tokens: at.length, ms: at.at(-1) - at[0] }))
}
process.exit(0)
