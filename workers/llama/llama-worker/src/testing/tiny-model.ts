import { writeFile } from 'node:fs/promises'

const HEADS = 4
const ALIGNMENT = 32

/** How many tokens the model that `writeTinyModel` makes can see at once. */
export const TINY_CONTEXT = 8_192

/** What the model says, in an order of its own. */
export const TINY_WORDS =
  'the a of to and in is it that was for on are as with his they at be this from have or by one had not but what all were when we there can an your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time could no make than first been its who now people my made over did down only way find use may water long little very after words called just where most know'.split(
    ' ',
  )

const TEMPLATE =
  "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

/** What a token is, as the format numbers it. */
const PIECE = { normal: 1, unknown: 2, control: 3, byte: 6 } as const

export interface TinyModelOptions {
  readonly seed?: number
  /** A multiple of 8. */
  readonly width?: number
  readonly blocks?: number
}

type Size = Required<Pick<TinyModelOptions, 'width' | 'blocks'>>

interface Vocabulary {
  readonly tokens: readonly string[]
  readonly types: readonly number[]
  /** Of the first word, and behind the last one. */
  readonly words: readonly [number, number]
}

interface Tensor {
  readonly name: string
  readonly shape: readonly number[]
  readonly values: Float32Array
}

/**
 * Writes a model of the llama architecture with random weights as a GGUF file of version 3, of 0.6 MB unless it is to be larger. It says words of `TINY_WORDS` without any
 * sense, and never ends by itself. The same seed makes the same file.
 */
export async function writeTinyModel(
  file: string,
  { seed = 1, width = 64, blocks = 2 }: TinyModelOptions = {},
): Promise<void> {
  const size = { width, blocks }
  const vocabulary = makeVocabulary()
  const tensors = makeTensors(vocabulary, size, normalNumbers(seed))
  const metadata = makeMetadata(vocabulary, size)
  const header = [
    Buffer.from('GGUF'),
    uint32(3),
    uint64(tensors.length),
    uint64(metadata.length),
    ...metadata,
  ]
  let offset = 0
  for (const { name, shape, values } of tensors) {
    header.push(text(name), uint32(shape.length), ...shape.map(uint64), uint32(0), uint64(offset))
    offset += aligned(values.byteLength)
  }
  const parts = [Buffer.concat(header), ...tensors.map(({ values }) => Buffer.from(values.buffer))]
  await writeFile(
    file,
    parts.flatMap((part) => [part, Buffer.alloc(aligned(part.length) - part.length)]),
  )
}

function makeVocabulary(): Vocabulary {
  const tokens = ['<unk>', '<s>', '</s>']
  const types: number[] = [PIECE.unknown, PIECE.control, PIECE.control]
  const add = (piece: string, type: number): void => {
    if (tokens.includes(piece)) return
    tokens.push(piece)
    types.push(type)
  }
  for (let byte = 0; byte < 256; byte++) {
    add(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`, PIECE.byte)
  }
  const first = tokens.length
  // U+2581 stands for the space before a word.
  for (const word of TINY_WORDS) add(`\u2581${word}`, PIECE.normal)
  const end = tokens.length
  for (const letter of '\u2581abcdefghijklmnopqrstuvwxyz') add(letter, PIECE.normal)
  // Two neighbours are merged only into what is a token too: without its beginnings a word would be read letter by letter.
  for (const word of TINY_WORDS) {
    for (let length = 1; length < word.length; length++) add(`\u2581${word.slice(0, length)}`, PIECE.normal)
  }
  return { tokens, types, words: [first, end] }
}

function makeTensors(
  { tokens, words }: Vocabulary,
  { width, blocks }: Size,
  next: () => number,
): readonly Tensor[] {
  const matrix = (name: string, columns: number, rows: number, deviation: number): Tensor => ({
    name: `${name}.weight`,
    shape: [columns, rows],
    values: Float32Array.from({ length: columns * rows }, () => next() * deviation),
  })
  const norm = (name: string): Tensor => ({
    name: `${name}.weight`,
    shape: [width],
    values: new Float32Array(width).fill(1),
  })
  const forward = 2 * width
  const small = 1 / Math.sqrt(width)
  const layers = Array.from({ length: blocks }, (_, block) => {
    const of = (name: string): string => `blk.${block}.${name}`
    return [
      norm(of('attn_norm')),
      matrix(of('attn_q'), width, width, small),
      matrix(of('attn_k'), width, width, small),
      matrix(of('attn_v'), width, width, small),
      matrix(of('attn_output'), width, width, small),
      norm(of('ffn_norm')),
      matrix(of('ffn_gate'), width, forward, small),
      matrix(of('ffn_up'), width, forward, small),
      matrix(of('ffn_down'), forward, width, 1 / Math.sqrt(forward)),
    ]
  })
  const output = matrix('output', width, tokens.length, 4 * small)
  // What is no word is never said: beside the best of a hundred words nothing has a chance whose score is 0.
  output.values.fill(0, 0, words[0] * width)
  output.values.fill(0, words[1] * width)
  return [matrix('token_embd', width, tokens.length, 1), ...layers.flat(), norm('output_norm'), output]
}

function makeMetadata({ tokens, types }: Vocabulary, { width, blocks }: Size): readonly Buffer[] {
  const number = (key: string, value: number): Buffer => entry(key, 4, uint32(value))
  const list = (key: string, type: number, items: readonly Buffer[]): Buffer =>
    entry(key, 9, uint32(type), uint64(items.length), ...items)
  return [
    entry('general.architecture', 8, text('llama')),
    entry('general.name', 8, text('tiny')),
    number('llama.context_length', TINY_CONTEXT),
    number('llama.embedding_length', width),
    number('llama.block_count', blocks),
    number('llama.feed_forward_length', 2 * width),
    number('llama.attention.head_count', HEADS),
    entry('llama.attention.layer_norm_rms_epsilon', 6, float32(1e-5)),
    entry('tokenizer.ggml.model', 8, text('llama')),
    list('tokenizer.ggml.tokens', 8, tokens.map(text)),
    list(
      'tokenizer.ggml.scores',
      6,
      tokens.map((_, index) => float32(-index)),
    ),
    list('tokenizer.ggml.token_type', 5, types.map(uint32)),
    entry('tokenizer.chat_template', 8, text(TEMPLATE)),
  ]
}

/** Numbers of the normal distribution, decided by the seed. */
function normalNumbers(seed: number): () => number {
  let state = seed >>> 0
  // mulberry32
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
}

function entry(key: string, type: number, ...value: readonly Buffer[]): Buffer {
  return Buffer.concat([text(key), uint32(type), ...value])
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([uint64(bytes.length), bytes])
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function uint64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function float32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return bytes
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}
