import type { JsonValue } from '@gpu-service/worker'

export type JsonObject = Readonly<Record<string, JsonValue>>

export function isList(value: JsonValue | undefined): value is readonly JsonValue[] {
  return Array.isArray(value)
}

export function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
