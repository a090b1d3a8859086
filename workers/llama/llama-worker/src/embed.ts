import { type Task, TaskFailed } from '@gpu-service/worker'
import type { Engine } from './engine.ts'

/** Of a result in one event; more goes into a file. */
const MAX_INLINE_LENGTH = 512 * 1024
const FILE = 'embeddings.json'

export interface Embedded {
  readonly count: number
  /** Numbers in each. */
  readonly dimensions: number
  /** One of length 1 for each text, in their order; else they are in `file`. */
  readonly embeddings?: readonly (readonly number[])[]
  /** An artifact: the list as JSON. */
  readonly file?: string
}

/** Gives a vector for each text. A cancel is heeded between two texts. */
export async function embed(task: Task<Engine>, texts: readonly string[]): Promise<Embedded> {
  const { contextSize } = task.model
  const context = await task.model.embeddings()
  const lengths = texts.map((text) => context.calculateInputLength(text))
  for (const [index, length] of lengths.entries()) {
    if (length < contextSize) continue
    throw new TaskFailed(
      `\`embed[${index}]\` has ${length} tokens, and must have less than the context, ${contextSize}`,
      'CONTEXT_OVERFLOW',
    )
  }
  const embeddings: (readonly number[])[] = []
  let tokens = 0
  try {
    for (const [index, text] of texts.entries()) {
      task.progress(index, { total: texts.length, unit: 'texts' })
      embeddings.push(ofLengthOne((await context.getEmbeddingFor(text)).vector))
      tokens += lengths[index] ?? 0
    }
  } finally {
    task.usage({ prompt_tokens: tokens })
  }
  const facts = { count: texts.length, dimensions: embeddings[0]?.length ?? 0 }
  const json = JSON.stringify(embeddings)
  if (json.length <= MAX_INLINE_LENGTH) return { ...facts, embeddings }
  task.save(FILE, json, { mediaType: 'application/json' })
  return { ...facts, file: FILE }
}

function ofLengthOne(vector: readonly number[]): readonly number[] {
  const length = Math.hypot(...vector)
  // The engine computes with 32 bits, which are some 7 digits.
  return vector.map((value) => Number((value / (length || 1)).toPrecision(7)))
}
