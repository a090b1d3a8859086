import type { JsonValue } from '@gpu-service/event-parser'

export type { JsonObject, JsonValue } from '@gpu-service/event-parser'

/** Text by text, as in environments and labels. */
export type TextMap = Readonly<Record<string, string>>

/**
 * The same text for equal values: object keys sorted, no white space. Used to tell whether two submissions with one idempotency key
 * are the same.
 */
export function canonicalJson(value: JsonValue): string {
  return JSON.stringify(value, (_key, inner: JsonValue) =>
    inner !== null && typeof inner === 'object' && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  )
}
