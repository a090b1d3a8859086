import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import {
  createSecretSources,
  openPresetCatalog,
  type PresetCatalogOptions,
  presetIssueText,
} from '@gpu-service/presets'
import { createWorkerPackages } from '@gpu-service/process-runner'
import {
  type JsonValue,
  type Preset,
  type PresetCatalog,
  type Secret,
  secretSourceText,
  silentLogger,
} from '@gpu-service/tasks'
import Docker from 'dockerode'
import { type Examination, examinationText, messageOf } from './examination.ts'
import { examineGpus } from './gpu-examination.ts'
import { KitError } from './kit-error.ts'
import { examineWorker } from './worker-examination.ts'

export interface DoctorOptions extends Omit<PresetCatalogOptions, 'logger' | 'watch'> {
  readonly workersDir: string
  /** The one to try out; `null`: of all presets what they need is looked for, and no worker is started. */
  readonly presetId: string | null
  /** What its worker is given to do. */
  readonly input: JsonValue
  readonly print: (line: string) => void
  /** Aborted: what runs is removed, and its reason thrown. */
  readonly signal: AbortSignal
}

/** Looks whether presets can run on this machine, and says what to do where they cannot. Whether all is well. Throws a `KitError` for an unknown preset. */
export async function examine(options: DoctorOptions): Promise<boolean> {
  const { file, presetId, print } = options
  let isWell = true
  const tell = (examination: Examination): boolean => {
    print(examinationText(examination))
    if (examination.status === 'wrong') isWell = false
    return examination.status === 'well'
  }
  await using catalog = await openPresetCatalog({ ...options, logger: silentLogger, watch: false })
  if (!tell(examineFile(catalog, file))) return false
  const hasEngine = tell(await examineEngine())
  for (const preset of chosen(catalog, presetId)) {
    print(`\n${preset.id}`)
    const secrets = await examineSecrets(preset, options, tell)
    const isFed = tell(await examineModel(preset, options.modelsDir)) && secrets !== null
    if (!hasEngine || !tell(await examineImage(preset, options.workersDir)) || presetId === null) continue
    const gpus = await examineGpus(preset.spec)
    tell(gpus.examination)
    if (gpus.assigned === null || !isFed) continue
    const subject = { kind: 'preset', spec: preset.spec, gpus: gpus.assigned, secrets } as const
    tell(await examineWorker(catalog, subject, options))
  }
  return isWell
}

function chosen(catalog: PresetCatalog, presetId: string | null): readonly Preset[] {
  if (presetId === null) return catalog.presets()
  const preset = catalog.preset(presetId)
  if (preset !== null) return [preset]
  const answer = catalog.resolve({ presetId, input: null, timeoutMs: null, gpuIds: null })
  throw new KitError(answer.status === 'unknown-preset' ? answer.message : `there is no preset ${presetId}`)
}

function examineFile(catalog: PresetCatalog, file: string): Examination {
  const name = 'presets file'
  const issues = catalog.issues()
  const count = catalog.presets().length
  if (issues.length === 0)
    return { status: 'well', name, what: `${file}, ${count} preset${count === 1 ? '' : 's'}` }
  return {
    ...{ status: 'wrong', name, what: 'the service does not take it' },
    mend: issues.map(presetIssueText).join('\n    '),
  }
}

async function examineEngine(): Promise<Examination> {
  const name = 'Docker engine'
  try {
    const { Version, Arch } = await new Docker({ timeout: 5_000 }).version()
    return { status: 'well', name, what: `version ${Version} on ${Arch}` }
  } catch (error) {
    return {
      ...{ status: 'wrong', name, what: `it does not answer: ${messageOf(error)}` },
      mend: 'Check that Docker runs (systemctl status docker) and that you may use its socket (DOCKER_HOST, group docker).',
    }
  }
}

async function examineImage({ spec }: Preset, workersDir: string): Promise<Examination> {
  const name = 'image'
  try {
    const { Id, Size } = await new Docker().getImage(spec.image).inspect()
    return { status: 'well', name, what: `${spec.image}, ${Math.round(Size / 1e6)} MB, ${Id.slice(0, 19)}` }
  } catch (error) {
    if (spec.pull !== 'never')
      return {
        status: 'not-looked-at',
        name,
        what: `${spec.image} is not there (yet): the first task pulls it`,
      }
    const found = await createWorkerPackages({ workersDir, logger: silentLogger }).find(spec.image)
    return {
      ...{ status: 'wrong', name, what: `${spec.image}: ${messageOf(error)}` },
      mend:
        found === null
          ? `docker pull ${spec.image}, docker load it, or set \`pull: missing\` in the preset.`
          : `npm run build-worker -- ${found.folder.split('/').slice(-2).join('/')}`,
    }
  }
}

const READABLE_BY_ALL = 0o004

async function examineModel({ spec }: Preset, modelsDir: string): Promise<Examination> {
  const name = 'model'
  if (spec.modelPath === null) return { status: 'well', name, what: 'none is asked for (model_path)' }
  const path = join(modelsDir, spec.modelPath)
  const mend = `chmod -R a+rX ${path}, as workers run as user ${spec.relax.user ?? '65534'}.`
  try {
    const { mode, size } = await stat(path)
    if ((mode & READABLE_BY_ALL) === 0 && spec.relax.user === null)
      return { status: 'wrong', name, what: `${path} may not be read by everybody`, mend }
    return { status: 'well', name, what: `${path}, ${(size / 1e6).toFixed(1)} MB` }
  } catch (error) {
    return {
      ...{ status: 'wrong', name, what: messageOf(error) },
      mend: `Put it there, or correct the preset's model_path or MODELS_DIR (${modelsDir}).`,
    }
  }
}

/** `null` where one of them cannot be read. */
async function examineSecrets(
  { spec }: Preset,
  options: DoctorOptions,
  tell: (examination: Examination) => boolean,
): Promise<readonly Secret[] | null> {
  const sources = createSecretSources(options)
  const secrets: Secret[] = []
  for (const reference of spec.secrets) {
    const name = `secret ${reference.name}`
    const reading = await sources.read(reference)
    if (reading.status === 'read') {
      secrets.push(reading.secret)
      tell({ status: 'well', name, what: secretSourceText(reference) })
    } else
      tell({
        ...{ status: 'wrong', name, what: `${secretSourceText(reference)}: ${reading.message}` },
        mend: 'See PRESETS.md, secrets.',
      })
  }
  return secrets.length === spec.secrets.length ? secrets : null
}
