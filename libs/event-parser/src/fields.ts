import type { JsonObject, JsonValue } from './events.ts'
import { plainJson, plainObject, plainText } from './plain.ts'

type Field = JsonValue | undefined

/**
 * Reads the fields of one object by type, and collects what is wrong with them. A field is handed in as name and value: reading it where
 * its name is written is several times faster than looking it up by name here. `null` and absent are the same.
 */
export class FieldReader {
  /** What is wrong with the fields read so far, naming each; empty where nothing is. */
  complaint = ''
  readonly #escaped: boolean

  /** `escaped`: the texts and keys may hold NUL or lone surrogates; what is read of them then does not. */
  constructor(escaped: boolean) {
    this.#escaped = escaped
  }

  complain(detail: string): void {
    this.complaint += this.complaint === '' ? detail : `; ${detail}`
  }

  /** `null`, and a complaint, where there is none. */
  text(name: string, value: Field): string | null {
    if (typeof value === 'string') return this.plain(value)
    this.complain(`\`${name}\` must be a text`)
    return null
  }

  /** `null` where there is none; a complaint too where there is something else. */
  optionalText(name: string, value: Field): string | null {
    return value === undefined || value === null ? null : this.text(name, value)
  }

  /** A number that `accepts`, or `null` and a complaint with what was `expected`. */
  number(
    name: string,
    value: Field,
    expected = 'a number',
    accepts: (value: number) => boolean = Number.isFinite,
  ): number | null {
    if (typeof value === 'number' && accepts(value)) return value
    this.complain(`\`${name}\` must be ${expected}`)
    return null
  }

  optionalNumber(
    name: string,
    value: Field,
    expected?: string,
    accepts?: (value: number) => boolean,
  ): number | null {
    return value === undefined || value === null ? null : this.number(name, value, expected, accepts)
  }

  /** The text with nothing in it that could not be stored. */
  plain(text: string): string {
    return this.#escaped ? plainText(text) : text
  }

  /** The value with nothing in it that could not be stored or written as JSON. */
  json(value: JsonValue): JsonValue {
    return plainJson(value, this.#escaped)
  }

  /** The same for an object. */
  object(object: JsonObject): JsonObject {
    return plainObject(object, this.#escaped)
  }
}
