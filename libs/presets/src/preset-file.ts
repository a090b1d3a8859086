import { realpath, stat } from 'node:fs/promises'
import type { Preset, PresetId, PresetIssue, Volume, WorkerSpec } from '@gpu-service/tasks'
import { causeOf } from './bounded-file.ts'
import { isWithin, realFolders } from './host-folders.ts'
import type { InputSchema } from './input-schema.ts'
import { presetFile } from './preset-format.ts'
import type { WrittenPreset } from './preset-format.ts'
import { createFileReport } from './report.ts'
import type { FileReport, HostPath } from './report.ts'
import { fileRefusal, variableRefusal } from './secret-sources.ts'
import type { SecretPolicy } from './secret-sources.ts'
import { readYamlTree } from './yaml-tree.ts'

/** A preset with what its tasks' inputs are checked by. */
export interface LoadedPreset {
  readonly preset: Preset
  readonly input: InputSchema | null
}

export type ParsedFile =
  | { readonly status: 'valid'; readonly presets: readonly LoadedPreset[] }
  | { readonly status: 'invalid'; readonly issues: readonly PresetIssue[] }

export interface ParseOptions extends SecretPolicy {
  /** For the issues. */
  readonly file: string
  /** Folders of the host in which the sources of volumes must lie. */
  readonly volumeRoots: readonly string[]
}

/** Reads a presets file whole. Never throws for what it holds; touches the disk only to look for the sources of volumes and secrets. */
export async function parsePresetFile(bytes: Uint8Array, options: ParseOptions): Promise<ParsedFile> {
  const report = createFileReport(options.file)
  const tree = readYamlTree(bytes, report)
  if (tree === null) return report.count > 0 ? invalid(report) : { status: 'valid', presets: [] }

  const file = presetFile.read({ tree, path: '', keyAt: { line: 1, column: 1 } }, report)
  const sources = await realSources(report, options.volumeRoots)
  await refuseSecrets(report, options)
  if (file === undefined || report.count > 0) return invalid(report)
  const presets = file.models.flatMap(({ name: model, value: kinds }) =>
    kinds.map(({ name: kind, value: written }) => {
      const volumes = written.volumes.map(({ source, target, readOnly }): Volume => {
        return { source: sources.get(source) ?? source.path, target, readOnly }
      })
      return loadedPreset(model, kind, written, volumes)
    }),
  )
  return { status: 'valid', presets }
}

function invalid(report: FileReport): ParsedFile {
  return { status: 'invalid', issues: report.issues() }
}

function loadedPreset(
  model: string,
  kind: string,
  written: WrittenPreset,
  volumes: readonly Volume[],
): LoadedPreset {
  const id = `${model}/${kind}` as PresetId
  const { gpus, timeouts, resources, output, allow, retry, session } = written
  const spec: WorkerSpec = {
    presetId: id,
    model,
    kind,
    mode: written.mode,
    image: written.docker_image,
    command: written.command,
    localCommand: written.local,
    pull: written.pull,
    env: { ...(written.model_name !== null && { MODEL_NAME: written.model_name }), ...written.env_vars },
    secrets: written.secrets,
    modelPath: written.model_path,
    gpus: {
      count: gpus.count ?? 'default',
      share: gpus.share,
      memoryMb: gpus.memory ?? gpus.memory_mb,
      ids: gpus.ids,
      names: gpus.names,
    },
    limits: {
      memoryMb: resources.memory,
      cpus: resources.cpus,
      processes: resources.processes,
      sharedMemoryMb: resources.shared_memory,
      tmpMb: resources.tmp,
    },
    output: {
      mb: output.size,
      events: output.events,
      artifacts: output.artifacts,
      artifactsMb: output.artifacts_size,
    },
    network: written.network,
    volumes,
    relax: { user: allow.user, writableRoot: allow.writable_root, capabilities: allow.capabilities },
    timeouts: {
      queueMs: timeouts.queue,
      startMs: timeouts.start,
      runMs: timeouts.run,
      silenceMs: timeouts.silence,
      ackMs: timeouts.acknowledge,
      stopGraceMs: timeouts.stop_grace,
      finishGraceMs: timeouts.finish_grace,
    },
    retry: { maxAttempts: retry.max_attempts, backoffMs: retry.backoff, on: retry.on },
    session:
      written.mode === 'SESSION'
        ? {
            maxConcurrency: session.max_concurrency,
            maxWorkers: session.max_workers,
            idleMs: session.idle,
            maxTasks: session.max_tasks,
            maxAgeMs: session.max_age,
            minResidencyMs: session.min_residency,
            pinned: session.pinned,
            prewarm: session.prewarm,
            isolation: session.isolation,
          }
        : null,
  }
  const inputSchema = written.input?.schema ?? null
  const preset: Preset = { id, description: written.description, inputSchema, spec }
  return { preset: deepFrozen(preset), input: written.input }
}

/** Freezes a value of plain objects and arrays, and gives it back. */
export function deepFrozen<T extends object>(value: T): T {
  for (const inner of Object.values(value) as unknown[])
    if (typeof inner === 'object' && inner !== null && !Object.isFrozen(inner)) deepFrozen(inner)
  return Object.freeze(value)
}

/** Each path with every symbolic link in it followed, so that a link that is turned later leads nowhere else. Reports those that may not be mounted. */
async function realSources(report: FileReport, roots: readonly string[]): Promise<Map<HostPath, string>> {
  const real = new Map<HostPath, string>()
  const allowed = await realFolders(roots)
  for (const source of report.hostPaths) {
    const complain = (message: string) => {
      report.add(source.at, `${source.keyPath}: ${source.path} ${message}`)
    }
    if (roots.length === 0) {
      complain('may not be mounted: the service allows no folder of the host (VOLUME_ROOTS is empty)')
      continue
    }
    try {
      const path = await realpath(source.path)
      const found = await stat(path)
      if (!allowed.some((root) => isWithin(path, root)))
        complain(`is outside of the folders that may be mounted (${roots.join(', ')})`)
      else if (!found.isDirectory() && !found.isFile()) complain('is neither a folder nor a file')
      else real.set(source, path)
    } catch (error) {
      complain(`may not be mounted: ${causeOf(error)}`)
    }
  }
  return real
}

/** Reports the secrets whose sources the service does not allow. One that is not there yet may come before the first worker. */
async function refuseSecrets(
  report: FileReport,
  { secretRoots, secretEnvPrefix }: SecretPolicy,
): Promise<void> {
  const allowed = await realFolders(secretRoots)
  for (const { from, source, keyPath, at } of report.secretSources) {
    if (from === 'variable') {
      if (!source.startsWith(secretEnvPrefix))
        report.add(at, `${keyPath}: ${variableRefusal(secretEnvPrefix)}`)
      continue
    }
    const real = await realpath(source).catch(() => null)
    const isAllowed =
      real === null
        ? secretRoots.some((root) => isWithin(source, root))
        : allowed.some((root) => isWithin(real, root))
    if (!isAllowed) report.add(at, `${keyPath}: ${fileRefusal(secretRoots)}`)
  }
}
