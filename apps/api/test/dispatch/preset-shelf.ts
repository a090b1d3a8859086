import type {
  Preset,
  PresetCatalog,
  PresetDiff,
  PresetId,
  ReloadResult,
  Resolved,
  ResolveRequest,
  WorkerSpec,
} from '@gpu-service/tasks'

/** Presets that are put there, changed and taken away by hand. */
export class PresetShelf implements PresetCatalog {
  readonly #presets = new Map<string, Preset>()
  readonly #listeners = new Set<(diff: PresetDiff) => void>()

  /** Puts a preset there under the id of its spec, in the place of the one that may have it. */
  put(spec: WorkerSpec): void {
    const { presetId } = spec
    const isNew = !this.#presets.has(presetId)
    this.#presets.set(presetId, Object.freeze({ id: presetId, description: null, inputSchema: null, spec }))
    this.#tell({ added: isNew ? [presetId] : [], changed: isNew ? [] : [presetId], removed: [] })
  }

  remove(id: PresetId): void {
    if (this.#presets.delete(id)) this.#tell({ added: [], changed: [], removed: [id] })
  }

  presets(): readonly Preset[] {
    return [...this.#presets.values()]
  }

  preset(id: string): Preset | null {
    return this.#presets.get(id) ?? null
  }

  resolve({ presetId, input, timeoutMs, gpuIds }: ResolveRequest): Resolved {
    const preset = this.#presets.get(presetId)
    if (preset === undefined) return { status: 'unknown-preset', message: `There is no preset ${presetId}.` }
    const { spec } = preset
    if (timeoutMs === null && gpuIds === null) return { status: 'resolved', spec, input }
    const timeouts = { ...spec.timeouts, runMs: timeoutMs ?? spec.timeouts.runMs }
    const gpus = { ...spec.gpus, ids: gpuIds ?? spec.gpus.ids }
    return { status: 'resolved', spec: Object.freeze({ ...spec, timeouts, gpus }), input }
  }

  reload(): Promise<ReloadResult> {
    return Promise.resolve({ status: 'reloaded', diff: { added: [], changed: [], removed: [] } })
  }

  issues(): readonly [] {
    return []
  }

  onChange(listener: (diff: PresetDiff) => void): () => void {
    this.#listeners.add(listener)
    return () => {
      this.#listeners.delete(listener)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  /** Those who want to hear of changes. */
  get listeners(): number {
    return this.#listeners.size
  }

  #tell(diff: PresetDiff): void {
    for (const listener of this.#listeners) listener(diff)
  }
}
