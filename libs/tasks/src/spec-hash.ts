import { createHash } from 'node:crypto'
import { canonicalJson, type JsonValue } from './json.ts'
import type { WorkerSpec } from './spec.ts'

/** Specs are frozen and shared by their tasks. */
const hashes = new WeakMap<WorkerSpec, string>()

/**
 * Equal for specs whose workers can stand in for one another: all of the spec counts but what a task may ask for itself (which GPUs it
 * may have, how long it may wait and run), how much it may say, and how it is tried again. 16 hexadecimal digits.
 */
export function specHashOf(spec: WorkerSpec): string {
  const known = hashes.get(spec)
  if (known !== undefined) return known
  const { timeouts, gpus } = spec
  const worker = {
    ...spec,
    retry: null,
    output: null,
    timeouts: { ...timeouts, runMs: null, queueMs: null, silenceMs: null },
    gpus: { ...gpus, ids: null },
  }
  const hash = createHash('sha256')
    .update(canonicalJson(worker as unknown as JsonValue))
    .digest('hex')
    .slice(0, 16)
  hashes.set(spec, hash)
  return hash
}
