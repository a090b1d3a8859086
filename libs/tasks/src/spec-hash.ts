import { createHash } from 'node:crypto'
import { canonicalJson, type JsonValue } from './json.ts'
import type { WorkerSpec } from './spec.ts'

/**
 * Equal for specs whose workers can stand in for one another: all of the spec counts but what a task may ask for itself (which GPUs it
 * may have, how long it may wait and run) and how it is tried again. 16 hexadecimal digits.
 */
export function specHashOf(spec: WorkerSpec): string {
  const { timeouts, gpus } = spec
  const worker = {
    ...spec,
    retry: null,
    timeouts: { ...timeouts, runMs: null, queueMs: null, silenceMs: null },
    gpus: { ...gpus, ids: null },
  }
  return createHash('sha256')
    .update(canonicalJson(worker as unknown as JsonValue))
    .digest('hex')
    .slice(0, 16)
}
