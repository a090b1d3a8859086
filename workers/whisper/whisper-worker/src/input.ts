import { InvalidInput, type JsonValue, type TaskFile } from '@gpu-service/worker'
import { LANGUAGES } from './languages.ts'

export interface Order {
  readonly file: TaskFile
  readonly language: string
  readonly translate: boolean
  readonly prompt: string
  readonly beamSize: number | null
  readonly temperature: number
  readonly temperatureIncrement: number
}

/** As many decoders as the engine has. */
const MOST_BEAMS = 8

const KEYS = [
  'file',
  'language',
  'translate',
  'prompt',
  'beam_size',
  'temperature',
  'temperature_increment',
] as const

/** Reads a task's input, and finds its file among those of the task. Throws an `InvalidInput` that says what is wrong. */
export function readOrder(input: JsonValue, files: readonly TaskFile[]): Order {
  const fields = fieldsOf(input)
  const language = textOf(fields, 'language', 'auto')
  if (language !== 'auto' && !LANGUAGES.includes(language))
    throw new InvalidInput(`"language" is "auto" or a code such as "en", not "${language}"`)
  const translate = fields['translate'] ?? false
  if (typeof translate !== 'boolean') throw new InvalidInput('"translate" is true or false')
  return {
    file: chosen(fields, files),
    language,
    translate,
    prompt: textOf(fields, 'prompt', ''),
    beamSize: beamSizeOf(fields),
    temperature: numberOf(fields, 'temperature', 0, 0, 1),
    temperatureIncrement: numberOf(fields, 'temperature_increment', 0.2, 0, 1),
  }
}

type Fields = Readonly<Record<string, JsonValue>>

function fieldsOf(input: JsonValue): Fields {
  if (input === null) return {}
  if (typeof input !== 'object' || Array.isArray(input)) throw new InvalidInput('the input is an object')
  const unknown = Object.keys(input).find((key) => !KEYS.some((known) => known === key))
  if (unknown !== undefined)
    throw new InvalidInput(`"${unknown}" is not known; these are: ${KEYS.join(', ')}`)
  return input as Fields
}

function chosen(fields: Fields, files: readonly TaskFile[]): TaskFile {
  const name = textOf(fields, 'file', '')
  if (name !== '') {
    const named = files.find((file) => file.name === name)
    if (named === undefined) throw new InvalidInput(`the task has no file "${name}"`)
    return named
  }
  const [only, ...others] = files
  if (only === undefined) throw new InvalidInput('the task has no file: give it one with the audio')
  if (others.length > 0) throw new InvalidInput(`the task has ${files.length} files: name one as "file"`)
  return only
}

function textOf(fields: Fields, key: string, otherwise: string): string {
  const value = fields[key] ?? otherwise
  if (typeof value !== 'string') throw new InvalidInput(`"${key}" is a text`)
  return value
}

function beamSizeOf({ beam_size: value = null }: Fields): number | null {
  if (value === null) return null
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > MOST_BEAMS)
    throw new InvalidInput(`"beam_size" is a whole number from 1 to ${MOST_BEAMS}`)
  return value
}

function numberOf(fields: Fields, key: string, otherwise: number, least: number, most: number): number {
  const value = fields[key] ?? otherwise
  if (typeof value !== 'number' || value < least || value > most)
    throw new InvalidInput(`"${key}" is a number from ${least} to ${most}`)
  return value
}
