import { open } from 'node:fs/promises'

/** Of the U-Net and the image decoder: the engine reads their widths from the weights. */
const UNET_WIDTH = 32
const DECODER_WIDTH = 32
/** The engine knows these, so they are those of all Stable Diffusion 1 models. */
const ENCODER_WIDTH = 128
const TEXT = { width: 768, layers: 12, tokens: 49_408, positions: 77 }
const LATENTS = 4
const FACTORS = [1, 2, 4, 4]

type Kind = 'f32' | 'f16' | 'q4_0'
/** The numbers that the file format has for them. */
const KINDS: Readonly<Record<Kind, number>> = { f32: 0, f16: 1, q4_0: 2 }

interface Tensor {
  readonly name: string
  readonly shape: readonly number[]
  readonly kind: Kind
  /** What is written again and again until it is full. */
  readonly pattern: Buffer
}

/**
 * Writes a Stable Diffusion 1 checkpoint of random weights, a GGUF file of 165 MB, always the same. What it paints is noise, but the engine does with
 * it all that it does with a real one: the image depends on prompt, seed and size, and on the image that it begins with.
 */
export async function writeTinyModel(path: string): Promise<void> {
  const tensors = [...textEncoder(), ...unet(), ...imageCoder()]
  const header = headerOf(tensors)
  await using file = await open(path, 'w')
  await file.write(header, 0, header.length, 0)
  let at = header.length
  for (const tensor of tensors) {
    const bytes = bytesOf(tensor)
    await file.write(filled(tensor.pattern, bytes), 0, bytes, at)
    at += aligned(bytes)
  }
  await file.truncate(at)
}

function* textEncoder(): Generator<Tensor> {
  const { width, layers, tokens, positions } = TEXT
  const base = 'cond_stage_model.transformer.text_model.'
  yield weights(`${base}embeddings.token_embedding.weight`, [width, tokens], 'q4_0', 1)
  yield { ...constant(`${base}embeddings.position_embedding.weight`, 0.1), shape: [width, positions] }
  for (let layer = 0; layer < layers; layer += 1) {
    const name = `${base}encoder.layers.${layer}.`
    for (const part of ['q', 'k', 'v', 'out'])
      yield* linear(`${name}self_attn.${part}_proj`, width, width, { kind: 'q4_0' })
    yield* norm(`${name}layer_norm1`, width)
    yield* linear(`${name}mlp.fc1`, width, 4 * width, { kind: 'q4_0' })
    yield* linear(`${name}mlp.fc2`, 4 * width, width, { kind: 'q4_0' })
    yield* norm(`${name}layer_norm2`, width)
  }
  yield* norm(`${base}final_layer_norm`, width)
}

function* unet(): Generator<Tensor> {
  const base = 'model.diffusion_model.'
  const time = 4 * UNET_WIDTH
  const widths = FACTORS.map((factor) => factor * UNET_WIDTH)

  function* residual(name: string, from: number, to: number): Generator<Tensor> {
    yield* norm(`${name}.in_layers.0`, from)
    yield* convolution(`${name}.in_layers.2`, from, to)
    yield* linear(`${name}.emb_layers.1`, time, to)
    yield* norm(`${name}.out_layers.0`, to)
    yield* convolution(`${name}.out_layers.3`, to, to, { gain: 0.5 })
    if (from !== to) yield* convolution(`${name}.skip_connection`, from, to, { size: 1 })
  }

  function* transformer(name: string, width: number): Generator<Tensor> {
    yield* norm(`${name}.norm`, width)
    yield* convolution(`${name}.proj_in`, width, width, { size: 1 })
    const block = `${name}.transformer_blocks.0.`
    for (const [part, context] of [
      ['attn1', width],
      ['attn2', TEXT.width],
    ] as const) {
      yield* linear(`${block}${part}.to_q`, width, width, { hasBias: false })
      yield* linear(`${block}${part}.to_k`, context, width, { hasBias: false })
      yield* linear(`${block}${part}.to_v`, context, width, { hasBias: false })
      yield* linear(`${block}${part}.to_out.0`, width, width)
    }
    yield* linear(`${block}ff.net.0.proj`, width, 8 * width)
    yield* linear(`${block}ff.net.2`, 4 * width, width)
    for (const index of [1, 2, 3]) yield* norm(`${block}norm${index}`, width)
    yield* convolution(`${name}.proj_out`, width, width, { size: 1, gain: 0.5 })
  }

  yield* linear(`${base}time_embed.0`, UNET_WIDTH, time)
  yield* linear(`${base}time_embed.2`, time, time)
  yield* convolution(`${base}input_blocks.0.0`, LATENTS, UNET_WIDTH)
  const skipped = [UNET_WIDTH]
  let width = UNET_WIDTH
  let index = 1
  for (const [level, next] of widths.entries()) {
    for (let repeat = 0; repeat < 2; repeat += 1) {
      yield* residual(`${base}input_blocks.${index}.0`, width, next)
      width = next
      if (level < 3) yield* transformer(`${base}input_blocks.${index}.1`, width)
      skipped.push(width)
      index += 1
    }
    if (level === 3) continue
    yield* convolution(`${base}input_blocks.${index}.0.op`, width, width)
    skipped.push(width)
    index += 1
  }
  yield* residual(`${base}middle_block.0`, width, width)
  yield* transformer(`${base}middle_block.1`, width)
  yield* residual(`${base}middle_block.2`, width, width)
  index = 0
  for (const [level, next] of [...widths.entries()].reverse()) {
    for (let repeat = 0; repeat < 3; repeat += 1) {
      const name = `${base}output_blocks.${index}`
      yield* residual(`${name}.0`, width + (skipped.pop() ?? 0), next)
      width = next
      if (level < 3) yield* transformer(`${name}.1`, width)
      if (level > 0 && repeat === 2) yield* convolution(`${name}.${level < 3 ? 2 : 1}.conv`, width, width)
      index += 1
    }
  }
  yield* norm(`${base}out.0`, width)
  yield* convolution(`${base}out.2`, width, LATENTS)
}

function* imageCoder(): Generator<Tensor> {
  const base = 'first_stage_model.'

  function* residual(name: string, from: number, to: number): Generator<Tensor> {
    yield* norm(`${name}.norm1`, from)
    yield* convolution(`${name}.conv1`, from, to)
    yield* norm(`${name}.norm2`, to)
    yield* convolution(`${name}.conv2`, to, to, { gain: 0.5 })
    if (from !== to) yield* convolution(`${name}.nin_shortcut`, from, to, { size: 1 })
  }

  function* middle(name: string, width: number): Generator<Tensor> {
    yield* residual(`${name}.block_1`, width, width)
    yield* norm(`${name}.attn_1.norm`, width)
    for (const part of ['q', 'k', 'v', 'proj_out'])
      yield* convolution(`${name}.attn_1.${part}`, width, width, { size: 1 })
    yield* residual(`${name}.block_2`, width, width)
  }

  let width = 4 * DECODER_WIDTH
  yield* convolution(`${base}post_quant_conv`, LATENTS, LATENTS, { size: 1 })
  yield* convolution(`${base}decoder.conv_in`, LATENTS, width)
  yield* middle(`${base}decoder.mid`, width)
  for (const [level, factor] of [...FACTORS.entries()].reverse()) {
    for (let repeat = 0; repeat < 3; repeat += 1) {
      yield* residual(`${base}decoder.up.${level}.block.${repeat}`, width, DECODER_WIDTH * factor)
      width = DECODER_WIDTH * factor
    }
    if (level > 0) yield* convolution(`${base}decoder.up.${level}.upsample.conv`, width, width)
  }
  yield* norm(`${base}decoder.norm_out`, width)
  yield* convolution(`${base}decoder.conv_out`, width, 3)

  width = ENCODER_WIDTH
  yield* convolution(`${base}encoder.conv_in`, 3, width)
  for (const [level, factor] of FACTORS.entries()) {
    for (let repeat = 0; repeat < 2; repeat += 1) {
      yield* residual(`${base}encoder.down.${level}.block.${repeat}`, width, ENCODER_WIDTH * factor)
      width = ENCODER_WIDTH * factor
    }
    if (level < 3) yield* convolution(`${base}encoder.down.${level}.downsample.conv`, width, width)
  }
  yield* middle(`${base}encoder.mid`, width)
  yield* norm(`${base}encoder.norm_out`, width)
  yield* convolution(`${base}encoder.conv_out`, width, 2 * LATENTS)
  yield* convolution(`${base}quant_conv`, 2 * LATENTS, 2 * LATENTS, { size: 1 })
}

function* norm(name: string, width: number): Generator<Tensor> {
  yield { ...constant(`${name}.weight`, 1), shape: [width] }
  yield { ...constant(`${name}.bias`, 0), shape: [width] }
}

function* convolution(
  name: string,
  from: number,
  to: number,
  { size = 3, gain = 1 }: { readonly size?: number; readonly gain?: number } = {},
): Generator<Tensor> {
  yield weights(`${name}.weight`, [size, size, from, to], 'f16', gain / Math.sqrt(size * size * from))
  yield { ...constant(`${name}.bias`, 0), shape: [to] }
}

function* linear(
  name: string,
  from: number,
  to: number,
  { kind = 'f16', hasBias = true }: { readonly kind?: Kind; readonly hasBias?: boolean } = {},
): Generator<Tensor> {
  yield weights(`${name}.weight`, [from, to], kind, 1 / Math.sqrt(from))
  if (hasBias) yield { ...constant(`${name}.bias`, 0), shape: [to] }
}

function constant(name: string, value: number): Omit<Tensor, 'shape'> {
  return { name, kind: 'f32', pattern: Buffer.from(Float32Array.of(value).buffer) }
}

function weights(name: string, shape: readonly number[], kind: Kind, deviation: number): Tensor {
  return { name, shape, kind, pattern: kind === 'f16' ? halfNoise(deviation) : blockNoise(deviation) }
}

const patterns = new Map<string, Buffer>()

/** A million half-precision numbers of either sign, of one magnitude: 2^n and up to twice that. */
function halfNoise(deviation: number): Buffer {
  const exponent = Math.round(Math.log2(deviation / 1.5))
  return kept(`f16 ${exponent}`, () => {
    const bits = new Uint16Array(noise.buffer.slice(0))
    return Buffer.from(bits.map((value) => (value & 0x83ff) | ((15 + exponent) << 10)).buffer)
  })
}

/** Blocks of 32 numbers of 4 bits, from -8 to 7, behind the scale that they have in common. */
function blockNoise(deviation: number): Buffer {
  const scale = Math.round(Math.log2(deviation / 4.6))
  return kept(`q4 ${scale}`, () => {
    const blocks = Buffer.from(noise.subarray(0, 18 * 50_000))
    for (let at = 0; at < blocks.length; at += 18) blocks.writeUInt16LE((15 + scale) << 10, at)
    return blocks
  })
}

function kept(key: string, make: () => Buffer): Buffer {
  const pattern = patterns.get(key) ?? make()
  patterns.set(key, pattern)
  return pattern
}

const noise = randomBytes(2_000_000)

/** Always the same: mulberry32. */
function randomBytes(bytes: number): Uint8Array {
  let state = 1
  const words = Uint32Array.from({ length: bytes / 4 }, () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return mixed ^ (mixed >>> 14)
  })
  return new Uint8Array(words.buffer)
}

function filled(pattern: Buffer, bytes: number): Buffer {
  return Buffer.alloc(bytes, pattern)
}

function bytesOf({ shape, kind }: Tensor): number {
  const count = shape.reduce((product, size) => product * size, 1)
  return kind === 'f32' ? count * 4 : kind === 'f16' ? count * 2 : (count / 32) * 18
}

function headerOf(tensors: readonly Tensor[]): Buffer {
  const parts: Buffer[] = []
  const number = (value: number): void => {
    parts.push(Buffer.from(Uint32Array.of(value).buffer))
  }
  const long = (value: number): void => {
    parts.push(Buffer.from(BigUint64Array.of(BigInt(value)).buffer))
  }
  const text = (value: string): void => {
    long(value.length)
    parts.push(Buffer.from(value))
  }
  parts.push(Buffer.from('GGUF'))
  number(3)
  long(tensors.length)
  // One entry of metadata, of the type of texts.
  long(1)
  text('general.architecture')
  number(8)
  text('sd1')
  let offset = 0
  for (const tensor of tensors) {
    text(tensor.name)
    number(tensor.shape.length)
    tensor.shape.forEach(long)
    number(KINDS[tensor.kind])
    long(offset)
    offset += aligned(bytesOf(tensor))
  }
  const header = Buffer.concat(parts)
  return Buffer.concat([header, Buffer.alloc(aligned(header.length) - header.length)])
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / 32) * 32
}
