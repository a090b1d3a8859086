import type { JsonValue, WorkerSpec } from '@gpu-service/tasks'

/** A spec as it may be seen: of the environment only the names, since what stands in it may be a secret. */
export function shownSpec(spec: WorkerSpec): JsonValue {
  return JSON.parse(JSON.stringify({ ...spec, env: Object.keys(spec.env) })) as JsonValue
}
