import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '@gpu-service/tasks'
import type { PresetCatalog, Preset, Resolved, ResolveRequest } from '@gpu-service/tasks'
import { openPresetCatalog } from '../src/index.ts'
import type { PresetCatalogOptions } from '../src/index.ts'

/** A folder with a presets file of its own, and catalogs of it; all gone at the end of the block that uses it. */
export interface PresetsFolder extends AsyncDisposable {
  readonly path: string
  readonly file: string
  write(content: string | Uint8Array): Promise<void>
  open(options?: Partial<PresetCatalogOptions>): Promise<PresetCatalog>
}

export async function presetsFolder(content?: string | Uint8Array): Promise<PresetsFolder> {
  const path = await mkdtemp(join(tmpdir(), 'presets-'))
  const file = join(path, 'model_presets.yaml')
  const catalogs: PresetCatalog[] = []
  if (content !== undefined) await writeFile(file, content)
  return {
    path,
    file,
    write: (next) => writeFile(file, next),
    async open(options = {}) {
      const catalog = await openPresetCatalog({
        file,
        modelsDir: path,
        volumeRoots: [],
        secretRoots: [],
        secretEnvPrefix: 'WORKER_SECRET_',
        env: {},
        logger: silentLogger,
        watch: false,
        ...options,
      })
      catalogs.push(catalog)
      return catalog
    },
    async [Symbol.asyncDispose]() {
      for (const catalog of catalogs) await catalog[Symbol.asyncDispose]()
      await rm(path, { recursive: true, force: true })
    },
  }
}

/** A file with the one preset `m/k`, these lines among its keys. */
export function presetFileWith(keys: string): string {
  const image = /^docker_image/m.test(keys.replace('¦', '')) ? '' : 'docker_image: worker:1\n'
  const lines = `${image}${keys}`.split('\n').map((line) => (line === '' ? '' : `      ${line}`))
  return `models:\n  m:\n    k:\n${lines.join('\n')}\n`
}

/** The preset `m/k` with these keys; throws the issues where there are any. */
export async function presetWith(keys: string, options?: Partial<PresetCatalogOptions>): Promise<Preset> {
  await using folder = await presetsFolder(presetFileWith(keys))
  const catalog = await folder.open(options)
  const preset = catalog.preset('m/k')
  if (preset === null) throw new Error(JSON.stringify(catalog.issues()))
  return preset
}

/** The issues of a file as `line:column message`. */
export async function issuesOf(
  content: string | Uint8Array,
  options?: Partial<PresetCatalogOptions>,
): Promise<string[]> {
  await using folder = await presetsFolder(content)
  const catalog = await folder.open(options)
  return catalog.issues().map((issue) => `${issue.line}:${issue.column} ${issue.message}`)
}

/** A text with one `¦` in it: the text without it, and where it stood. */
export function marked(content: string): { content: string; position: string } {
  const [before, after, ...more] = content.split('¦')
  if (before === undefined || after === undefined || more.length > 0) throw new Error(`one ¦ in: ${content}`)
  const lines = before.split('\n')
  return { content: before + after, position: `${lines.length}:${(lines.at(-1) ?? '').length + 1}` }
}

/** What a task of `m/k` gets where the preset has these keys. */
export async function resolved(keys: string, request: Partial<ResolveRequest>): Promise<Resolved> {
  await using folder = await presetsFolder(presetFileWith(keys))
  const catalog = await folder.open()
  if (catalog.issues().length > 0) throw new Error(JSON.stringify(catalog.issues()))
  return catalog.resolve({ presetId: 'm/k', input: null, timeoutMs: null, gpuIds: null, ...request })
}
