import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { relaxationsOf, secretSourceText } from '@gpu-service/tasks'
import type {
  GpuId,
  InputIssue,
  JsonValue,
  Logger,
  Preset,
  PresetCatalog,
  PresetDiff,
  PresetId,
  PresetIssue,
  ReloadResult,
  ResolveRequest,
  Resolved,
  WorkerSpec,
} from '@gpu-service/tasks'
import { fileSignature, readBoundedFile } from './bounded-file.ts'
import { suggestion } from './closest.ts'
import { startFileWatch } from './file-watch.ts'
import { boundedSize } from './input-schema.ts'
import { deepFrozen, parsePresetFile } from './preset-file.ts'
import type { LoadedPreset, ParsedFile } from './preset-file.ts'
import { presetIssueText, quoted } from './report.ts'
import { readSecret } from './secret-sources.ts'
import type { SecretSourcesOptions } from './secret-sources.ts'
import { MAX_RUN_MS } from './timeouts.ts'
import { MAX_FILE_BYTES } from './yaml-tree.ts'

export interface PresetCatalogOptions extends SecretSourcesOptions {
  /** The presets file. */
  readonly file: string
  /** The models folder; a preset whose `model_path` is not in it is warned of, as the model may come later. */
  readonly modelsDir: string
  /** Folders of the host that presets may mount from; none: no volumes. */
  readonly volumeRoots: readonly string[]
  readonly logger: Logger
  /** Whether a change of the file is noticed and applied (default: yes). */
  readonly watch?: boolean
}

/**
 * Opens the presets of a file. What is wrong with the file is never thrown: the catalog then starts without presets and `issues()` says why,
 * so it is the caller who decides whether to go on. Disposing it stops the watching and forgets the listeners.
 */
export async function openPresetCatalog(options: PresetCatalogOptions): Promise<PresetCatalog> {
  const catalog = new FileCatalog(options)
  await catalog.reload()
  if (options.watch ?? true) catalog.watch()
  return catalog
}

class FileCatalog implements PresetCatalog {
  readonly #options: PresetCatalogOptions
  readonly #listeners = new Set<(diff: PresetDiff) => void>()
  #inForce: ReadonlyMap<string, LoadedPreset> = new Map()
  #issues: readonly PresetIssue[] = []
  #signature: string | null = null
  /** The reload that is under way, and the one that will read the file after it. */
  #running: Promise<ReloadResult> | null = null
  #waiting: Promise<ReloadResult> | null = null
  #watch: Disposable | null = null

  constructor(options: PresetCatalogOptions) {
    this.#options = options
  }

  presets(): readonly Preset[] {
    return [...this.#inForce.values()].map(({ preset }) => preset)
  }

  preset(id: string): Preset | null {
    return this.#inForce.get(id)?.preset ?? null
  }

  issues(): readonly PresetIssue[] {
    return this.#issues
  }

  onChange(listener: (diff: PresetDiff) => void): () => void {
    // A wrapper, so that a listener that is given twice is called twice and ended one at a time.
    const entry = (diff: PresetDiff) => {
      listener(diff)
    }
    this.#listeners.add(entry)
    return () => this.#listeners.delete(entry)
  }

  resolve(request: ResolveRequest): Resolved {
    const loaded = this.#inForce.get(request.presetId)
    if (loaded === undefined) return { status: 'unknown-preset', message: this.#unknown(request.presetId) }

    const { spec } = loaded.preset
    const issues: InputIssue[] = []
    const gpuIds = narrowedGpus(spec, request.gpuIds, issues)
    if (request.timeoutMs !== null && !isRunTime(request.timeoutMs))
      issues.push({
        path: 'timeoutMs',
        message: `must be a whole number of milliseconds from 1 to ${MAX_RUN_MS}`,
      })
    const input = checkedInput(loaded, request.input, issues)
    if (issues.length > 0) return { status: 'invalid-input', issues }

    // One spec for all tasks that ask for nothing of their own: what is worked out from it is worked out once.
    if (request.gpuIds === null && request.timeoutMs === null) return { status: 'resolved', spec, input }
    const gpus = { ...spec.gpus, ids: gpuIds }
    const timeouts = { ...spec.timeouts, runMs: request.timeoutMs ?? spec.timeouts.runMs }
    return { status: 'resolved', spec: deepFrozen({ ...spec, gpus, timeouts }), input }
  }

  #unknown(id: string): string {
    const sorry = `there is no preset ${quoted(id)}`
    if (this.#inForce.size > 0) return `${sorry}${suggestion(id, this.#inForce.keys())}`
    const why =
      this.#issues.length > 0
        ? 'because the presets file has problems'
        : 'because the presets file names none'
    return `${sorry}: no presets are loaded, ${why}`
  }

  reload(): Promise<ReloadResult> {
    // A reload that waits will read the file after this call, so it serves every caller that comes meanwhile.
    if (this.#waiting) return this.#waiting
    if (this.#running === null) return this.#start()
    const next = () => {
      this.#waiting = null
      return this.#start()
    }
    this.#waiting = this.#running.then(next, next)
    return this.#waiting
  }

  #start(): Promise<ReloadResult> {
    const running = this.#reload().finally(() => {
      if (this.#running === running) this.#running = null
    })
    this.#running = running
    return running
  }

  async #reload(): Promise<ReloadResult> {
    const { file, logger } = this.#options
    const { signature, content } = await readBoundedFile(file, MAX_FILE_BYTES)
    const parsed: ParsedFile =
      content.status === 'read'
        ? await parsePresetFile(content.bytes, this.#options)
        : {
            status: 'invalid',
            issues: [
              { file, line: 1, column: 1, message: `the presets file cannot be read: ${content.message}` },
            ],
          }
    this.#signature = signature

    if (parsed.status === 'invalid') {
      const news = !isDeepStrictEqual(parsed.issues, this.#issues)
      this.#issues = parsed.issues
      if (news)
        logger.warn(
          { file, issues: parsed.issues.map(presetIssueText) },
          'The presets file has problems; the presets in force stay',
        )
      return parsed
    }
    const mended = this.#issues.length > 0
    this.#issues = []
    const diff = this.#apply(parsed.presets)
    const changed = diff.added.length + diff.changed.length + diff.removed.length > 0
    if (changed || mended)
      logger.info({ file, presets: this.#inForce.size, ...diff }, 'The presets file has been applied')
    if (changed) {
      this.#tell(diff)
      const news = [...diff.added, ...diff.changed]
      this.#warnOfRelaxations(news)
      await this.#warnOfMissingModels(news)
      await this.#warnOfSecrets(news)
    }
    return { status: 'reloaded', diff }
  }

  #apply(presets: readonly LoadedPreset[]): PresetDiff {
    const before = this.#inForce
    this.#inForce = new Map(presets.map((loaded) => [loaded.preset.id, loaded]))
    const ids = presets.map(({ preset }) => preset.id)
    return deepFrozen({
      added: ids.filter((id) => !before.has(id)),
      changed: ids.filter((id) => {
        const old = before.get(id)
        return old !== undefined && !isDeepStrictEqual(old.preset, this.preset(id))
      }),
      removed: [...before.values()].map(({ preset }) => preset.id).filter((id) => !this.#inForce.has(id)),
    })
  }

  #tell(diff: PresetDiff): void {
    for (const listener of [...this.#listeners])
      try {
        listener(diff)
      } catch (error) {
        this.#options.logger.error({ err: error }, 'A listener to changes of the presets has failed')
      }
  }

  #warnOfRelaxations(ids: readonly PresetId[]): void {
    for (const id of ids) {
      const spec = this.preset(id)?.spec
      const relaxations = spec === undefined ? [] : relaxationsOf(spec)
      if (relaxations.length > 0)
        this.#options.logger.warn(
          { preset: id, relaxations },
          'A preset relaxes the confinement of its workers',
        )
    }
  }

  async #warnOfSecrets(ids: readonly PresetId[]): Promise<void> {
    const { logger } = this.#options
    for (const id of ids)
      for (const reference of this.preset(id)?.spec.secrets ?? []) {
        const reading = await readSecret(reference, this.#options)
        const fields = { preset: id, secret: reference.name, source: secretSourceText(reference) }
        if (reading.status === 'refused')
          logger.warn(
            { ...fields, reason: reading.message },
            'A secret of a preset cannot be read (yet); its workers do not start',
          )
        else if (reading.isOpenToAll)
          logger.warn(fields, 'A secret of a preset can be read by every user of the host')
      }
  }

  async #warnOfMissingModels(ids: readonly PresetId[]): Promise<void> {
    const { modelsDir, logger } = this.#options
    for (const id of ids) {
      const modelPath = this.preset(id)?.spec.modelPath ?? null
      if (modelPath === null) continue
      const path = join(modelsDir, modelPath)
      try {
        await access(path)
      } catch {
        logger.warn({ preset: id, path }, 'The model of a preset is not in the models folder (yet)')
      }
    }
  }

  watch(): void {
    this.#watch = startFileWatch(this.#options.file, () => {
      this.#look().catch((error: unknown) => {
        this.#options.logger.error(
          { err: error, file: this.#options.file },
          'Reloading the presets has failed',
        )
      })
    })
  }

  async #look(): Promise<void> {
    const signature = await fileSignature(this.#options.file)
    if (this.#watch !== null && (signature === null || signature !== this.#signature)) await this.reload()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watch?.[Symbol.dispose]()
    this.#watch = null
    this.#listeners.clear()
    await Promise.allSettled([this.#running, this.#waiting])
  }
}

function isRunTime(ms: number): boolean {
  return Number.isSafeInteger(ms) && ms > 0 && ms <= MAX_RUN_MS
}

/** The GPUs that both the preset and the task allow; reports where that leaves too few. */
function narrowedGpus(
  { gpus: { count, ids } }: WorkerSpec,
  wanted: readonly GpuId[] | null,
  issues: InputIssue[],
): readonly GpuId[] | null {
  if (wanted === null) return ids
  const path = 'gpuIds'
  if (count === 0) {
    issues.push({ path, message: 'this preset takes no GPU' })
    return ids
  }
  const narrowed = [...new Set(wanted)].filter((id) => ids === null || ids.includes(id))
  const needed = count === 'default' ? 1 : count
  if (narrowed.length === 0)
    issues.push({
      path,
      message: ids === null ? 'names no GPU' : `names none of the preset's GPUs (${ids.join(', ')})`,
    })
  else if (narrowed.length < needed)
    issues.push({ path, message: `leaves ${narrowed.length} of the ${needed} GPUs that the preset needs` })
  return narrowed
}

/** The input with the schema's defaults; reports where it does not fit. */
function checkedInput({ input: schema }: LoadedPreset, input: JsonValue, issues: InputIssue[]): JsonValue {
  if (schema === null) {
    const bytes = boundedSize(input)
    if (typeof bytes === 'string') issues.push({ path: '', message: bytes })
    return input
  }
  const check = schema.check(input)
  if (check.status === 'valid') return check.input
  issues.push(...check.issues)
  return input
}
