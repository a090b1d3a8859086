import { InvalidInput, type JsonValue } from '@gpu-service/worker'
import { checkedSchema } from './json-schema.ts'
import { isList, isObject, type JsonObject } from './json.ts'

export interface Message {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string
}

/** How the next token is chosen, and when the text ends. */
export interface Sampling {
  /** 0: always the most probable one. */
  readonly temperature: number
  readonly topP: number
  readonly topK: number
  readonly minP: number
  /** 1: none. */
  readonly repeatPenalty: number
  /** `null`: as many as there is room for. */
  readonly maxTokens: number | null
  /** `null`: one is drawn. */
  readonly seed: number | null
  readonly stop: readonly string[]
  /** JSON Schema that the text will fit, as JSON; `null`: any text. */
  readonly jsonSchema: object | null
}

export type Request =
  | { readonly kind: 'chat'; readonly messages: readonly Message[]; readonly sampling: Sampling }
  | { readonly kind: 'completion'; readonly prompt: string; readonly sampling: Sampling }
  | { readonly kind: 'embeddings'; readonly texts: readonly string[] }

export const MAX_SEED = 2 ** 32 - 1

/** Throws `InvalidInput`. */
export function parseInput(input: JsonValue): Request {
  if (!isObject(input)) throw new InvalidInput('the input must be an object')
  const { messages, prompt, embed } = input
  if ([messages, prompt, embed].filter((value) => value !== undefined).length !== 1) {
    throw new InvalidInput('the input needs one of `messages`, `prompt` and `embed`')
  }
  if (messages !== undefined) {
    return { kind: 'chat', messages: parseMessages(messages), sampling: parseSampling(input) }
  }
  if (prompt !== undefined) {
    return { kind: 'completion', prompt: textOf(prompt, 'prompt'), sampling: parseSampling(input) }
  }
  return { kind: 'embeddings', texts: textsOf(embed, 'embed') }
}

function parseMessages(value: JsonValue): readonly Message[] {
  if (!isList(value) || value.length === 0) throw new InvalidInput('`messages` must be a list, and not empty')
  return value.map((message, index) => {
    const place = `messages[${index}]`
    if (!isObject(message)) throw new InvalidInput(`\`${place}\` must be an object`)
    const { role, content } = message
    if (role !== 'system' && role !== 'user' && role !== 'assistant') {
      throw new InvalidInput(`\`${place}.role\` must be system, user or assistant`)
    }
    return { role, content: textOf(content, `${place}.content`) }
  })
}

function parseSampling(fields: JsonObject): Sampling {
  const { max_tokens: maxTokens, seed, stop, json_schema: jsonSchema } = fields
  const number = (name: string, otherwise: number, most: number): number =>
    fields[name] === undefined ? otherwise : numberOf(fields[name], name, 0, most)
  return {
    temperature: number('temperature', 0.8, 10),
    topP: number('top_p', 0.95, 1),
    topK: Math.round(number('top_k', 40, 1_000_000)),
    minP: number('min_p', 0.05, 1),
    repeatPenalty: number('repeat_penalty', 1, 10),
    maxTokens: maxTokens === undefined ? null : wholeOf(maxTokens, 'max_tokens', 1, 10_000_000),
    seed: seed === undefined ? null : wholeOf(seed, 'seed', 0, MAX_SEED),
    stop: stop === undefined ? [] : textsOf(stop, 'stop'),
    jsonSchema: jsonSchema === undefined ? null : checkedSchema(jsonSchema),
  }
}

function textOf(value: JsonValue | undefined, name: string): string {
  if (typeof value !== 'string' || value === '')
    throw new InvalidInput(`\`${name}\` must be a text, and not empty`)
  return value
}

/** One text, or a list of them. */
function textsOf(value: JsonValue | undefined, name: string): readonly string[] {
  if (value === undefined || !isList(value)) return [textOf(value, name)]
  if (value.length === 0) throw new InvalidInput(`\`${name}\` must not be empty`)
  return value.map((text, index) => textOf(text, `${name}[${index}]`))
}

function numberOf(value: JsonValue | undefined, name: string, least: number, most: number): number {
  if (typeof value !== 'number' || value < least || value > most)
    throw new InvalidInput(`\`${name}\` must be a number from ${least} to ${most}`)
  return value
}

function wholeOf(value: JsonValue, name: string, least: number, most: number): number {
  const number = numberOf(value, name, least, most)
  if (!Number.isInteger(number)) throw new InvalidInput(`\`${name}\` must be a whole number`)
  return number
}
