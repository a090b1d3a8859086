import { InvalidInput, type JsonValue } from '@gpu-service/worker'

/** What a task asks for. */
export interface Order {
  readonly prompt: string
  readonly negativePrompt: string
  readonly steps: number
  readonly guidance: number
  readonly sampler: Sampler
  /** Of the first image; each further one has the next. `null`: one is drawn. */
  readonly seed: number | null
  readonly count: number
  readonly start: Start
}

/** What an image is made from: noise of a size, or another image, whose size it will have. */
export type Start =
  | { readonly kind: 'noise'; readonly width: number; readonly height: number }
  /** `strength`: how much of it is made anew, from 0 to 1. */
  | { readonly kind: 'image'; readonly file: string; readonly strength: number }

const SAMPLERS = ['euler', 'euler_a', 'dpm++2m', 'lcm'] as const
export type Sampler = (typeof SAMPLERS)[number]

export const SIDE_STEP = 64
export const MOST_SIDE = 2048
export const SEEDS = 2 ** 32

const KEYS = [
  'prompt',
  'negative_prompt',
  'width',
  'height',
  'steps',
  'guidance',
  'sampler',
  'seed',
  'count',
  'init_image',
  'strength',
]

type Fields = Readonly<Record<string, JsonValue>>

/** Reads a task's input; `files`: the names of the files that it was given. Throws an `InvalidInput` that says what is wrong. */
export function readOrder(input: JsonValue, files: readonly string[]): Order {
  if (typeof input !== 'object' || input === null || Array.isArray(input))
    throw new InvalidInput('the input is an object')
  const fields = input as Fields
  const unknown = Object.keys(fields).find((key) => !KEYS.includes(key))
  if (unknown !== undefined)
    throw new InvalidInput(`"${unknown}" is not known; these are: ${KEYS.join(', ')}`)
  const prompt = textOf(fields, 'prompt')
  if (prompt === '') throw new InvalidInput('"prompt" is missing: say what is to be seen')
  const steps = wholeOf(fields, 'steps', 20, 1, 150)
  return {
    prompt,
    negativePrompt: textOf(fields, 'negative_prompt'),
    steps,
    guidance: numberOf(fields, 'guidance', 7, 0, 30),
    sampler: samplerOf(fields),
    seed: fields['seed'] === undefined ? null : wholeOf(fields, 'seed', 0, 0, SEEDS - 1),
    count: wholeOf(fields, 'count', 1, 1, 16),
    start: startOf(fields, files, steps),
  }
}

/** The input that makes one image again, of those that an order is for. */
export function inputFor(order: Order, seed: number): Readonly<Record<string, string | number>> {
  const { prompt, negativePrompt, steps, guidance, sampler, start } = order
  return {
    prompt,
    negative_prompt: negativePrompt,
    ...(start.kind === 'noise'
      ? { width: start.width, height: start.height }
      : { init_image: start.file, strength: start.strength }),
    steps,
    guidance,
    sampler,
    seed,
  }
}

/** Presets fill in what was not said: so a size is no mistake beside an image, nor a strength without one. */
function startOf(fields: Fields, files: readonly string[], steps: number): Start {
  const file = textOf(fields, 'init_image')
  const [width, height] = [sideOf(fields, 'width'), sideOf(fields, 'height')]
  const strength = numberOf(fields, 'strength', 0.75, 0, 1)
  if (file === '') return { kind: 'noise', width, height }
  if (!files.includes(file)) throw new InvalidInput(`the task has no file "${file}"`)
  if (steps * strength < 1)
    throw new InvalidInput(`"strength" is too small: of ${steps} steps it leaves none to be done`)
  return { kind: 'image', file, strength }
}

function samplerOf({ sampler = 'euler_a' }: Fields): Sampler {
  const found = SAMPLERS.find((name) => name === sampler)
  if (found === undefined) throw new InvalidInput(`"sampler" is one of ${SAMPLERS.join(', ')}`)
  return found
}

function textOf(fields: Fields, key: string): string {
  const value = fields[key] ?? ''
  if (typeof value !== 'string' || value.length > 10_000)
    throw new InvalidInput(`"${key}" is a text of at most 10000 letters`)
  return value
}

function sideOf(fields: Fields, key: string): number {
  const value = numberOf(fields, key, 512, SIDE_STEP, MOST_SIDE)
  if (value % SIDE_STEP !== 0) throw new InvalidInput(`"${key}" is a multiple of ${SIDE_STEP}`)
  return value
}

function wholeOf(fields: Fields, key: string, otherwise: number, least: number, most: number): number {
  const value = numberOf(fields, key, otherwise, least, most)
  if (!Number.isInteger(value)) throw new InvalidInput(`"${key}" is a whole number`)
  return value
}

function numberOf(fields: Fields, key: string, otherwise: number, least: number, most: number): number {
  const value = fields[key] === undefined ? otherwise : fields[key]
  if (typeof value !== 'number' || value < least || value > most)
    throw new InvalidInput(`"${key}" is a number from ${least} to ${most}`)
  return value
}
