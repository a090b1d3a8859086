export type JsonValue =
  string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue }

export function isObject(value: unknown): value is Readonly<Record<string, JsonValue>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * JSON in ASCII: what reads a container's output may cut long lines in the middle of a character. NaN and the infinities become null,
 * typed arrays become arrays of numbers.
 */
export function toJson(value: object): string {
  return JSON.stringify(value, plain).replace(
    /[\u0080-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

function plain(_key: string, value: unknown): unknown {
  if (!ArrayBuffer.isView(value)) return value
  return Symbol.iterator in value ? Array.from(value as Iterable<unknown>) : {}
}
