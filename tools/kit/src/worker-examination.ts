import { gradeWorker, type Subject } from '@gpu-service/conformance'
import { createRedactor } from '@gpu-service/event-parser'
import type { JsonValue, PresetCatalog } from '@gpu-service/tasks'
import type { Examination } from './examination.ts'

const NAME = 'worker'

interface WorkerOptions {
  readonly modelsDir: string
  readonly input: JsonValue
  readonly signal: AbortSignal
}

/** Whether a preset's worker starts without the service, does a task and follows the protocol. */
export async function examineWorker(
  catalog: PresetCatalog,
  subject: Subject & { kind: 'preset' },
  { modelsDir, input, signal }: WorkerOptions,
): Promise<Examination> {
  const { presetId, mode } = subject.spec
  const resolved = catalog.resolve({ presetId, input, timeoutMs: null, gpuIds: null })
  if (resolved.status !== 'resolved') {
    const what =
      resolved.status === 'invalid-input'
        ? resolved.issues
            .map(({ path, message }) => `the input ${path || 'as a whole'} ${message}`)
            .join('; ')
        : resolved.message
    return { status: 'wrong', name: NAME, what, mend: 'Give an input that it can do, with --input.' }
  }
  const { findings, isConformant, figures } = await gradeWorker({
    ...{ subject, modelsDir, signal },
    mode: mode === 'SESSION' ? 'session' : 'one-off',
    input: resolved.input,
    longInput: resolved.input,
    concurrency: subject.spec.session?.maxConcurrency ?? 1,
    limits: { taskMs: subject.spec.timeouts.startMs },
  })
  if (isConformant) {
    const measured = figures.map(({ name, ms }) => `${name} ${ms} ms`)
    return {
      status: 'well',
      name: NAME,
      what: `does its task and follows the protocol (${measured.join(', ')})`,
    }
  }
  const defects = findings.filter(({ severity }) => severity === 'defect')
  // What a worker says last may be what it should keep to itself.
  const redactor = createRedactor(
    subject.secrets.map((secret) => ({
      name: secret.name,
      text: Buffer.from(secret.reveal()).toString('utf8'),
    })),
  )
  const what = defects.map((defect) => `${defect.code}: ${defect.what}`).join('; ')
  return {
    ...{ status: 'wrong', name: NAME, what: redactor?.line(what, false) ?? what },
    mend: defects.map(({ code, mend }) => `${code}: ${mend}`).join('\n    '),
  }
}
