declare const brand: unique symbol

/** A task's id: a UUID of version 7, so that ids sort in the order of submission. */
export type TaskId = string & { readonly [brand]: 'TaskId' }
/** A worker's id: a UUID of version 7. */
export type WorkerId = string & { readonly [brand]: 'WorkerId' }
/** The name under which a runner knows a worker: `gpu-<installation>-<worker>`. */
export type WorkerName = string & { readonly [brand]: 'WorkerName' }
/** A GPU's UUID as its driver reports it, or the made-up one of a simulated GPU. */
export type GpuId = string & { readonly [brand]: 'GpuId' }
/** `<model>/<kind>`. */
export type PresetId = string & { readonly [brand]: 'PresetId' }
/** An artifact's id: a UUID of version 7. */
export type ArtifactId = string & { readonly [brand]: 'ArtifactId' }

/** What a worker calls its task: `<task>.<attempt>`, unique per attempt. */
export function runIdOf(task: TaskId, attempt: number): string {
  return `${task}.${attempt}`
}
