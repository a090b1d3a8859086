import type { GpuId, PresetId } from './ids.ts'
import type { JsonObject, JsonValue } from './json.ts'
import type { WorkerSpec } from './spec.ts'

/** One runnable configuration: `models.<model>.<kind>` of the presets file. */
export interface Preset {
  readonly id: PresetId
  readonly description: string | null
  /** JSON Schema of a task's input, where the preset declares one. */
  readonly inputSchema: JsonObject | null
  /** What a task of this preset is started with, before the task's own wishes. */
  readonly spec: WorkerSpec
}

/** What is wrong with a place of a task's input. */
export interface InputIssue {
  /** JSON Pointer into the input, `''` for the whole; of another argument of the submission its name (`timeoutMs`, `labels.team`). */
  readonly path: string
  readonly message: string
}

/** What is wrong with a place of a presets file; lines and columns count from 1. */
export interface PresetIssue {
  readonly file: string
  readonly line: number
  readonly column: number
  readonly message: string
}

export interface PresetDiff {
  readonly added: readonly PresetId[]
  readonly changed: readonly PresetId[]
  readonly removed: readonly PresetId[]
}

/** What a task may ask for beyond its preset. */
export interface ResolveRequest {
  readonly presetId: string
  readonly input: JsonValue
  /** Replaces the preset's run timeout. */
  readonly timeoutMs: number | null
  /** Narrows the preset's allowed GPUs. */
  readonly gpuIds: readonly GpuId[] | null
}

export type Resolved =
  | { readonly status: 'resolved'; readonly spec: WorkerSpec; readonly input: JsonValue }
  | { readonly status: 'unknown-preset'; readonly message: string }
  | { readonly status: 'invalid-input'; readonly issues: readonly InputIssue[] }

export type ReloadResult =
  | { readonly status: 'reloaded'; readonly diff: PresetDiff }
  /** The old presets stay in force. */
  | { readonly status: 'invalid'; readonly issues: readonly PresetIssue[] }

/** The presets in force. */
export interface PresetCatalog extends AsyncDisposable {
  presets(): readonly Preset[]
  preset(id: string): Preset | null
  /** A complete, frozen spec for one task, or the reason why there is none. */
  resolve(request: ResolveRequest): Resolved
  /** Reads the file again and applies what differs. */
  reload(): Promise<ReloadResult>
  /** What is wrong with the file as it is now; empty while the presets in force are those of the file. */
  issues(): readonly PresetIssue[]
  /** Calls back after the presets in force have changed. Gives the function that ends it. */
  onChange(listener: (diff: PresetDiff) => void): () => void
}
