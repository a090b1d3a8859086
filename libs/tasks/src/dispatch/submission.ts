import { createHash } from 'node:crypto'
import type { DispatcherOptions, RefusalCode, SubmitProblem, SubmitRequest } from '../dispatcher.ts'
import type { Artifact } from '../event.ts'
import type { Gpu } from '../gpu.ts'
import type { GpuId, PresetId, TaskId } from '../ids.ts'
import { canonicalJson } from '../json.ts'
import { allowedGpus, gpuCount } from '../planner/index.ts'
import type { Preset } from '../presets.ts'
import type { GpuNeed, WorkerSpec } from '../spec.ts'
import { specHashOf } from '../spec-hash.ts'
import type { NewTask } from '../store.ts'
import type { Task } from '../task.ts'

/** A request as it would be stored. */
export type Prepared = { readonly status: 'prepared'; readonly task: NewTask } | SubmitProblem

/** Resolves a request against the presets and the GPUs that there are. */
export function prepare(
  request: SubmitRequest,
  files: readonly Artifact[],
  index: number,
  { presets, gpus, newId, clock }: Pick<DispatcherOptions, 'presets' | 'gpus' | 'newId' | 'clock'>,
  retryOf: TaskId | null = null,
): Prepared {
  const gpuIds = request.gpuIds as readonly GpuId[] | null
  const resolved = presets.resolve({ ...request, gpuIds })
  if (resolved.status !== 'resolved') return { ...resolved, index }
  const inventory = gpus.list()
  const spec = settled(resolved.spec, inventory)
  const missing = missingGpus(spec.gpus, inventory)
  if (missing !== null) return { status: 'refused', index, code: 'NO_SUCH_GPU', message: missing }
  const { owner, keyId, privacy, priority, labels, idempotencyKey, affinity } = request
  const task: NewTask = {
    ...{ owner, keyId, privacy, priority, labels, idempotencyKey, affinity, retryOf, spec, files },
    asked: { timeoutMs: request.timeoutMs, gpuIds },
    id: newId() as TaskId,
    presetId: request.presetId as PresetId,
    input: resolved.input,
    requestHash: hashOf(request),
    createdAt: clock.now(),
  }
  return { status: 'prepared', task }
}

/** What a request is known by under its idempotency key. */
export function hashOf(request: SubmitRequest): string {
  const { presetId, input, priority, labels, affinity, timeoutMs, gpuIds, files, privacy } = request
  // Left out where they are not asked for, as by the versions that knew of none.
  const asked = {
    ...(files.length > 0 && { files: files.map(({ uploadId, name }) => ({ uploadId, name })) }),
    ...(privacy !== 'full' && { privacy }),
  }
  return createHash('sha256')
    .update(canonicalJson({ presetId, input, priority, labels, affinity, timeoutMs, gpuIds, ...asked }))
    .digest('hex')
}

export function conflict({ id }: Task, index: number): SubmitProblem {
  const message = `The idempotency key was used for another request, which became task ${id}.`
  return { status: 'refused', index, code: 'IDEMPOTENCY_CONFLICT', message }
}

export function refused(
  code: RefusalCode,
  message: string,
  index = 0,
): Extract<SubmitProblem, { status: 'refused' }> {
  return { status: 'refused', index, code, message }
}

/** Of a preset's spec, by the number of GPUs. */
const settledSpecs = new WeakMap<WorkerSpec, Map<number, WorkerSpec>>()

/** What a task needs must not change with the cards that come and go while it waits: the number of GPUs is settled. */
export function settled(spec: WorkerSpec, gpus: readonly Gpu[]): WorkerSpec {
  const count = gpuCount(spec.gpus, gpus)
  const byCount = settledSpecs.get(spec) ?? new Map<number, WorkerSpec>()
  settledSpecs.set(spec, byCount)
  const known = byCount.get(count)
  if (known !== undefined) return known
  const result = Object.freeze({ ...spec, gpus: Object.freeze({ ...spec.gpus, count }) })
  byCount.set(count, result)
  return result
}

/** The hash of the workers that a preset's tasks would get now. */
export function hashInForce({ spec }: Preset, gpus: readonly Gpu[]): string {
  return specHashOf(settled(spec, gpus))
}

/** Why this machine can never serve the need; `null`: it can. */
function missingGpus(need: GpuNeed, gpus: readonly Gpu[]): string | null {
  const unknown = (need.ids ?? []).filter((id) => !gpus.some((gpu) => gpu.id === id))
  if (need.count !== 0 && unknown.length > 0) return `This machine has no GPU ${unknown.join(', ')}.`
  const count = gpuCount(need, gpus)
  const divided = new Set(gpus.map(({ parentId }) => parentId))
  const whole = gpus.filter(({ id }) => !divided.has(id))
  const allowed = allowedGpus(need, whole).length
  if (count <= allowed) return null
  const memory = need.memoryMb === null ? '' : ` with ${need.memoryMb} MB each`
  return allowed === whole.length
    ? `The task needs ${count} GPUs, and this machine has ${whole.length === 0 ? 'none' : whole.length}.`
    : `The task needs ${count} GPUs${memory}, and of those that it may use this machine has ${allowed}.`
}
