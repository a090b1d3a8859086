import { randomUUID } from 'node:crypto'
import type { AssignedGpu, JsonValue, TextMap } from '@gpu-service/tasks'
import { examineBareInput } from './bare-input.ts'
import { CannotStart } from './cannot-start.ts'
import type { Check, Figure, Finding } from './findings.ts'
import { type Limits, LIMITS } from './limits.ts'
import { Notebook } from './notebook.ts'
import { examineOneOff } from './one-off.ts'
import { MARK } from './remaining-processes.ts'
import { examineSession, isSession } from './session.ts'
import { openStage } from './stage.ts'
import type { Subject } from './subject.ts'

export interface GradeOptions {
  readonly subject: Subject
  /** `auto`, unless told: as a one-off worker, and as a session worker where it becomes ready as one. */
  readonly mode?: 'one-off' | 'session' | 'auto'
  /** What its tasks get. */
  readonly input: JsonValue
  /** What those get that are to be stopped, `input` unless told: it should keep them busy for some 15 s. */
  readonly longInput?: JsonValue
  /** The files of this machine that they are given; none unless told. */
  readonly files?: readonly string[]
  /** What an image or a command holds; none unless told. A preset says it itself. */
  readonly gpus?: readonly AssignedGpu[]
  /** Variables that a preset would give it; none unless told. */
  readonly env?: TextMap
  /** `null`, unless told: an empty one. */
  readonly modelsDir?: string | null
  /** How many tasks a session worker is to do at a time; one unless told. */
  readonly concurrency?: number
  readonly limits?: Partial<Limits>
  /** Aborted: whatever runs is removed, and its reason thrown. */
  readonly signal?: AbortSignal
  /** Told of each check when it is over. */
  readonly onCheck?: (check: Check) => void
}

/** What a worker is like. */
export interface Grade {
  /** Nothing is wrong with it: there may be advice, but no defect. */
  readonly isConformant: boolean
  readonly modes: readonly ('one-off' | 'session')[]
  readonly checks: readonly Check[]
  readonly findings: readonly Finding[]
  readonly figures: readonly Figure[]
}

/** Grades a worker against the protocol: starts it some times, as the service does, and says what is wrong with it. */
export async function gradeWorker(options: GradeOptions): Promise<Grade> {
  const {
    subject,
    input,
    longInput = input,
    mode = 'auto',
    files = [],
    gpus = [],
    modelsDir = null,
  } = options
  const { concurrency = 1, signal = new AbortController().signal, onCheck = () => undefined } = options
  const limits = { ...LIMITS, ...options.limits }
  const notebook = new Notebook(onCheck)
  const mark = randomUUID()
  const env = { ...options.env, [MARK]: mark }
  const modes: ('one-off' | 'session')[] = []
  await using stage = await openStage({ subject, files, gpus, modelsDir, concurrency, signal, env })
  const examination = {
    ...{ stage, notebook, limits, input, longInput, concurrency, env, signal },
    mark: subject.kind === 'command' ? mark : null,
  }
  try {
    if (mode !== 'session') {
      modes.push('one-off')
      await examineOneOff(examination)
    }
    if (mode === 'session' || (mode === 'auto' && (await isSession(examination)))) {
      modes.push('session')
      const goesOn = await examineSession(examination)
      // That one has only what the protocol names, and not what a preset may give it.
      if (goesOn && subject.kind !== 'preset')
        await examineBareInput({ ...examination, subject, modelsDir, gpus })
    }
  } catch (error) {
    if (!(error instanceof CannotStart)) throw error
    await notebook.check('starts', () => {
      notebook.find('CANNOT_START', error.message)
      return Promise.resolve(null)
    })
  }
  const findings = notebook.checks.flatMap((check) => check.findings)
  const isConformant = findings.every(({ severity }) => severity === 'advice')
  return { isConformant, modes, checks: notebook.checks, findings, figures: notebook.figures }
}
