import { randomFrom } from './random.ts'

/** All sizes of a model that can be chosen freely. */
const STATE = 64
const HEADS = 2
const AUDIO_CONTEXT = 1500
const TEXT_CONTEXT = 64
const MELS = 80
const SPECTRUM = 201
/** The engine knows the numbers of the special tokens, so there must be as many as in all models of many languages. */
const TOKENS = 51_865
const END_OF_TEXT = 50_257

/** The engine asks for the token of the single blank. The rest is what the model can say. */
const WORDS = [
  ' ',
  '!',
  ',',
  '.',
  ...'the of to and in is it that was for on are as with'.split(' ').map((word) => ` ${word}`),
]

/**
 * A Whisper model of random weights, in the ggml format of whisper.cpp: one layer each, 7 MB, and always the same. It hears nothing and says
 * words by chance, but has times and languages, and the engine does with it all that it does with a real one.
 */
export function tinyModel(): Buffer {
  const random = randomFrom(1)
  const gauss = (): number => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  const parts: Buffer[] = []
  const integers = (...values: number[]): void => {
    parts.push(Buffer.from(Int32Array.from(values).buffer))
  }
  const floats = (length: number, valueAt: (index: number) => number): void => {
    parts.push(Buffer.from(Float32Array.from({ length }, (_, index) => valueAt(index)).buffer))
  }
  const tensor = (name: string, shape: readonly number[], valueAt: (index: number) => number): void => {
    const isMatrix = shape.length > 1 && name.endsWith('.weight')
    integers(shape.length, name.length, isMatrix ? 1 : 0, ...shape)
    parts.push(Buffer.from(name))
    const length = shape.reduce((product, size) => product * size, 1)
    if (isMatrix)
      parts.push(Buffer.from(Uint16Array.from({ length }, (_, index) => half(valueAt(index))).buffer))
    else floats(length, valueAt)
  }
  const matrix = (name: string, shape: readonly number[], inputs: number): void => {
    tensor(name, shape, () => gauss() / Math.sqrt(inputs))
  }
  const ones = (name: string): void => {
    tensor(name, [STATE], () => 1)
  }
  const zeros = (name: string, shape: readonly number[] = [STATE]): void => {
    tensor(name, shape, () => 0)
  }
  const attention = (name: string): void => {
    ones(`${name}_ln.weight`)
    zeros(`${name}_ln.bias`)
    for (const part of ['query', 'key', 'value', 'out']) {
      matrix(`${name}.${part}.weight`, [STATE, STATE], STATE)
      if (part !== 'key') zeros(`${name}.${part}.bias`)
    }
  }
  const block = (name: string, attentions: readonly string[]): void => {
    ones(`${name}.mlp_ln.weight`)
    zeros(`${name}.mlp_ln.bias`)
    matrix(`${name}.mlp.0.weight`, [STATE, 4 * STATE], STATE)
    zeros(`${name}.mlp.0.bias`, [4 * STATE])
    matrix(`${name}.mlp.2.weight`, [4 * STATE, STATE], 4 * STATE)
    zeros(`${name}.mlp.2.bias`)
    for (const part of attentions) attention(`${name}.${part}`)
  }

  parts.push(Buffer.from('lmgg'))
  integers(TOKENS, AUDIO_CONTEXT, STATE, HEADS, 1, TEXT_CONTEXT, STATE, HEADS, 1, MELS, 1)
  integers(MELS, SPECTRUM)
  floats(MELS * SPECTRUM, (index) => melFilter(Math.floor(index / SPECTRUM), index % SPECTRUM))
  // Those beyond are named by the engine.
  integers(WORDS.length)
  for (const word of WORDS) {
    integers(word.length)
    parts.push(Buffer.from(word))
  }

  tensor('encoder.positional_embedding', [STATE, AUDIO_CONTEXT], () => gauss() * 0.5)
  matrix('encoder.conv1.weight', [3, MELS, STATE], 3 * MELS)
  zeros('encoder.conv1.bias', [1, STATE])
  matrix('encoder.conv2.weight', [3, STATE, STATE], 3 * STATE)
  zeros('encoder.conv2.bias', [1, STATE])
  ones('encoder.ln_post.weight')
  zeros('encoder.ln_post.bias')
  block('encoder.blocks.0', ['attn'])
  tensor('decoder.positional_embedding', [STATE, TEXT_CONTEXT], gauss)
  // It is the output matrix too: tokens of zeros are never the best ones, and times, of which there are 1,500, weigh less than words.
  tensor('decoder.token_embedding.weight', [STATE, TOKENS], (index) => {
    const token = Math.floor(index / STATE)
    const isWord = (token > 3 && token < WORDS.length) || token === END_OF_TEXT
    const weight = isWord ? 3 : token > END_OF_TEXT ? 2 : 0
    return weight === 0 ? 0 : (gauss() * weight) / Math.sqrt(STATE)
  })
  ones('decoder.ln.weight')
  zeros('decoder.ln.bias')
  block('decoder.blocks.0', ['attn', 'cross_attn'])
  return Buffer.concat(parts)
}

/** A triangle over the frequencies, one of those that stand side by side on the mel scale. */
function melFilter(filter: number, bin: number): number {
  const top = 2595 * Math.log10(1 + 8000 / 700)
  const corner = (index: number): number => 700 * (10 ** ((top * index) / (MELS + 1) / 2595) - 1)
  const [low, middle, high] = [corner(filter), corner(filter + 1), corner(filter + 2)]
  const frequency = (bin * 16_000) / 400
  if (frequency <= low || frequency >= high) return 0
  const height =
    frequency < middle ? (frequency - low) / (middle - low) : (high - frequency) / (high - middle)
  return height * 0.025
}

/** As a half-precision number, cut and not rounded. */
function half(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0
  const sign = (bits >>> 16) & 0x8000
  const exponent = ((bits >>> 23) & 0xff) - 112
  return exponent <= 0 ? sign : sign | (exponent << 10) | ((bits & 0x7fffff) >>> 13)
}
