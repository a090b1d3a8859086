import { randomInt } from 'node:crypto'
import { type Task, TaskFailed } from '@gpu-service/worker'
import type { ChatHistoryItem, LlamaContextSequence, LlamaText, Token } from 'node-llama-cpp'
import type { Engine } from './engine.ts'
import { MAX_SEED, type Message, type Request } from './input.ts'
import { createPacer } from './pacer.ts'
import { createStopGate } from './stop-gate.ts'

/** Between two pieces of a text: nobody reads faster. */
const DELTA_GAP_MS = 50

/** What is told of a text when it has ended; the text itself has been streamed. */
export interface Generated {
  /** `stop`: the model, or a stop text, ended it. `length`: it has `max_tokens`. `context`: the context is full. */
  readonly finish_reason: 'stop' | 'length' | 'context'
  /** With the same one, and the same input, comes the same text. */
  readonly seed: number
  /** The value that the text is, where a schema was given and the text is whole. */
  readonly json?: unknown
}

/** Writes on from a prompt, token by token. A cancel is heeded before the next token, or between two steps of a long prompt. */
export async function generate(
  task: Task<Engine>,
  request: Extract<Request, { kind: 'chat' | 'completion' }>,
): Promise<Generated> {
  const { model: engine, signal } = task
  const { sampling } = request
  const { tokens, ends } =
    request.kind === 'chat' ? chatPrompt(engine, request.messages) : textPrompt(engine, request.prompt)
  const { bos, shouldPrependBosToken } = engine.model.tokens
  const prompt = shouldPrependBosToken && bos !== null ? [bos, ...tokens] : tokens
  const room = engine.contextSize - prompt.length
  if (room < 1) {
    throw new TaskFailed(
      `the prompt has ${prompt.length} tokens, and the context ${engine.contextSize}, of which the answer needs at least one`,
      'CONTEXT_OVERFLOW',
    )
  }
  const { jsonSchema } = sampling
  const grammar = jsonSchema === null ? null : await engine.llama.createGrammarForJsonSchema(jsonSchema)
  const seed = sampling.seed ?? randomInt(MAX_SEED)

  const { sequence, release } = engine.sequences.take(prompt)
  const outputBefore = sequence.tokenMeter.usedOutputTokens
  let reused = 0
  const completion = new engine.Completion({ contextSequence: sequence })
  const stopping = new AbortController()
  const pacer = createPacer(DELTA_GAP_MS, (text) => {
    // `task.delta` says nothing more after a cancel; what was written before it is said.
    task.emit('text_delta', { delta: text })
  })
  const gate = createStopGate(sampling.stop, (text) => {
    pacer.push(text)
  })
  try {
    reused = await readPrompt(task, sequence, prompt)
    const { response, metadata } = await completion.generateCompletionWithMeta(tokens, {
      onTextChunk(piece) {
        if (!signal.aborted && gate.push(piece)) stopping.abort()
      },
      signal: AbortSignal.any([signal, stopping.signal]),
      stopOnAbortSignal: true,
      maxTokens: Math.min(sampling.maxTokens ?? room, room),
      temperature: sampling.temperature,
      topP: sampling.topP,
      topK: sampling.topK,
      minP: sampling.minP,
      seed,
      repeatPenalty: sampling.repeatPenalty !== 1 && { penalty: sampling.repeatPenalty },
      ...(grammar !== null && { grammar }),
      // A grammar ends by itself; of the texts between two turns, a line feed for instance, it may hold some.
      customStopTriggers: grammar === null ? ends : [],
      // Nothing is ever dropped from the prompt unasked.
      contextShiftSize: 1,
      disableContextShift: true,
    })
    signal.throwIfAborted()
    gate.end()
    const { stopReason } = metadata
    const isWhole = stopReason === 'eogToken' || stopReason === 'stopGenerationTrigger'
    const isCut = stopReason === 'maxTokens'
    return {
      finish_reason: !isCut
        ? 'stop'
        : sampling.maxTokens !== null && sampling.maxTokens <= room
          ? 'length'
          : 'context',
      seed,
      ...(grammar !== null && isWhole && { json: grammar.parse(response) }),
    }
  } finally {
    pacer.end()
    completion.dispose()
    release()
    task.usage({
      prompt_tokens: prompt.length,
      cached_prompt_tokens: reused,
      completion_tokens: sequence.tokenMeter.usedOutputTokens - outputBefore,
    })
  }
}

interface Prompt {
  /** Without the token of the beginning that the engine puts before them. */
  readonly tokens: Token[]
  /** What the model says when its turn is over. */
  readonly ends: readonly LlamaText[]
}

function chatPrompt({ model, chat }: Engine, messages: readonly Message[]): Prompt {
  const history = messages.map(({ role, content }): ChatHistoryItem =>
    role === 'assistant' ? { type: 'model', response: [content] } : { type: role, text: content },
  )
  const { contextText, stopGenerationTriggers } = chat.generateContextState({
    // An answer that stands last is written on.
    chatHistory:
      messages.at(-1)?.role === 'assistant' ? history : [...history, { type: 'model', response: [] }],
  })
  const tokens = contextText.tokenize(model.tokenizer)
  const { bos, shouldPrependBosToken } = model.tokens
  return {
    tokens: shouldPrependBosToken && tokens[0] === bos ? tokens.slice(1) : tokens,
    ends: stopGenerationTriggers,
  }
}

function textPrompt({ model }: Engine, prompt: string): Prompt {
  return { tokens: model.tokenizer(prompt), ends: [] }
}

/** Computes all of a prompt but its last token, in steps. Gives the number of tokens that the sequence held already. */
async function readPrompt(
  task: Task<Engine>,
  sequence: LlamaContextSequence,
  prompt: Token[],
): Promise<number> {
  const { batchSize } = task.model
  await sequence.adaptStateToTokens(prompt.slice(0, -1), false)
  const reused = sequence.nextTokenIndex
  for (let at = reused; at + batchSize < prompt.length; at = sequence.nextTokenIndex) {
    task.progress(at, { total: prompt.length, unit: 'prompt tokens' })
    await sequence.evaluateWithoutGeneratingNewTokens(prompt.slice(at, at + batchSize))
  }
  return reused
}
