import type { JsonObject, JsonValue } from './events.ts'

const ESCAPED = /\\u(?:0000|[dD][89a-fA-F])/

/** Whether the JSON text may stand for a NUL or a lone surrogate: neither can be in it other than escaped. */
export function mayEscapeUnstorable(json: string): boolean {
  return json.includes('\\u') && ESCAPED.test(json)
}

/** The text with U+FFFD for each NUL and lone surrogate, which not every database can store. */
export function plainText(text: string): string {
  return withoutNul(text.toWellFormed())
}

/** The text with U+FFFD for each NUL. */
export function withoutNul(text: string): string {
  return text.includes('\0') ? text.replaceAll('\0', '\uFFFD') : text
}

/**
 * The value as any database and any JSON writer can keep it: its texts and keys plain (of two keys that become equal by it the last
 * counts), `null` for a number too large for a double. Recurses as deep as the value is nested. `escaped`: there may be texts that are
 * not plain.
 */
export function plainJson(value: JsonValue, escaped: boolean): JsonValue {
  return escaped || hasOverflow(value) ? plainCopy(value) : value
}

/** The same for what is known to be an object. */
export function plainObject(object: JsonObject, escaped: boolean): JsonObject {
  return escaped || hasOverflow(object) ? plainCopyOfObject(object) : object
}

function hasOverflow(value: JsonValue): boolean {
  if (typeof value === 'number') return !Number.isFinite(value)
  if (typeof value !== 'object' || value === null) return false
  return isObject(value) ? Object.values(value).some(hasOverflow) : value.some(hasOverflow)
}

function plainCopy(value: JsonValue): JsonValue {
  if (typeof value === 'string') return plainText(value)
  if (typeof value === 'number') return Number.isFinite(value) ? value : null
  if (value === null || typeof value === 'boolean') return value
  return isObject(value) ? plainCopyOfObject(value) : value.map(plainCopy)
}

function plainCopyOfObject(object: JsonObject): JsonObject {
  // `fromEntries` defines its keys, `__proto__` too, where an assignment would set the prototype.
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [plainText(key), plainCopy(value)]))
}

export function isObject(value: JsonValue): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
