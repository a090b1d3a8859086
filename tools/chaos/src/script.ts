import type { PresetName } from './presets.ts'
import type { Random } from './random.ts'

/** A task as the seed wants it, and how it has to end where nothing is done to it. */
export interface Script {
  readonly preset: PresetName
  readonly mode: 'one-off' | 'session'
  /** For the chaos worker. */
  readonly input: Readonly<Record<string, unknown>> & { readonly lines: number; readonly interval_ms: number }
  readonly timeoutMs: number
  /** `COMPLETED`, `FAILED WORKER_FAILED`, … */
  readonly outcome: string
  readonly cancel: Cancel | null
  /** Who follows it from when and where on, beside the one who does from its start. */
  readonly followers: readonly { readonly delayMs: number; readonly skip: number }[]
  /** It is submitted twice at once, under one key. */
  readonly twice: boolean
}

export type Cancel =
  | { readonly kind: 'after'; readonly ms: number }
  /** When its worker has said that it is about to finish. */
  | { readonly kind: 'at the end'; readonly ms: number }

const GARBAGE = ['stray', 'broken', 'fields', 'unknown', 'deep', 'text', 'long'] as const
/** Of a session's line that cannot be read nobody can say whose it was. */
const SESSION_GARBAGE = ['stray', 'fields', 'unknown', 'text'] as const

interface Course {
  readonly preset: PresetName
  readonly input: Readonly<Record<string, unknown>>
  readonly outcome: string
  readonly timeoutMs?: number
}

const ONE_OFF: Readonly<Record<string, readonly [weight: number, Course]>> = {
  steady: [40, { preset: 'plain', input: {}, outcome: 'COMPLETED' }],
  failed: [5, { preset: 'plain', input: { end: 'failed' }, outcome: 'FAILED WORKER_FAILED' }],
  'cancelled by itself': [
    2,
    { preset: 'plain', input: { end: 'cancelled' }, outcome: 'FAILED WORKER_FAILED' },
  ],
  exit: [4, { preset: 'plain', input: { end: 'exit', exit_code: 3 }, outcome: 'FAILED WORKER_FAILED' }],
  signal: [3, { preset: 'plain', input: { end: 'signal', signal: 11 }, outcome: 'FAILED WORKER_FAILED' }],
  'no finish': [3, { preset: 'plain', input: { end: 'no_finish' }, outcome: 'FAILED NO_FINISH' }],
  'other exit code': [3, { preset: 'plain', input: { exit_code: 7 }, outcome: 'COMPLETED' }],
  'hung after finish': [3, { preset: 'plain', input: { end: 'hang_after_finish' }, outcome: 'COMPLETED' }],
  stubborn: [
    3,
    { preset: 'plain', input: { ignore_stop: true, end: 'hang_after_finish' }, outcome: 'COMPLETED' },
  ],
  'child left behind': [3, { preset: 'plain', input: { fork: true }, outcome: 'COMPLETED' }],
  silent: [4, { preset: 'watched', input: { end: 'silent' }, outcome: 'TIMED_OUT SILENCE_TIMEOUT' }],
  watched: [4, { preset: 'watched', input: {}, outcome: 'COMPLETED' }],
  'too long': [
    3,
    { preset: 'plain', input: { end: 'silent' }, outcome: 'TIMED_OUT RUN_TIMEOUT', timeoutMs: 4_000 },
  ],
  'out of memory': [3, { preset: 'small', input: { allocate_mb: 200 }, outcome: 'FAILED OUT_OF_MEMORY' }],
  'tried again': [
    7,
    { preset: 'retried', input: { end: 'exit', exit_code: 1, until_attempt: 1 }, outcome: 'COMPLETED' },
  ],
  'given up': [2, { preset: 'retried', input: { end: 'signal' }, outcome: 'FAILED WORKER_FAILED' }],
  'slow start': [3, { preset: 'plain', input: { start_delay_ms: 2_500 }, outcome: 'COMPLETED' }],
}

const SESSION: Readonly<Record<string, readonly [weight: number, Course]>> = {
  steady: [40, { preset: 'warm', input: {}, outcome: 'COMPLETED' }],
  pair: [20, { preset: 'pair', input: {}, outcome: 'COMPLETED' }],
  failed: [5, { preset: 'warm', input: { end: 'failed' }, outcome: 'FAILED WORKER_FAILED' }],
  exit: [4, { preset: 'warm', input: { end: 'exit', until_attempt: 1 }, outcome: 'COMPLETED' }],
  'signal, with a neighbour': [
    4,
    { preset: 'pair', input: { end: 'signal', until_attempt: 1 }, outcome: 'COMPLETED' },
  ],
  deaf: [3, { preset: 'warm', input: { acknowledge: false, until_attempt: 1 }, outcome: 'COMPLETED' }],
  silent: [3, { preset: 'listening', input: { end: 'silent' }, outcome: 'TIMED_OUT SILENCE_TIMEOUT' }],
  listening: [3, { preset: 'listening', input: {}, outcome: 'COMPLETED' }],
  'silent and stubborn': [
    2,
    {
      preset: 'listening',
      input: { end: 'silent', ignore_stop: true },
      outcome: 'TIMED_OUT SILENCE_TIMEOUT',
    },
  ],
  'too long': [
    2,
    { preset: 'warm', input: { end: 'silent' }, outcome: 'TIMED_OUT RUN_TIMEOUT', timeoutMs: 4_000 },
  ],
}

/** The next task of a lane of the load. */
export function writeScript(random: Random, runner: 'docker' | 'process'): Script {
  const mode = random.chance(0.5) ? 'one-off' : 'session'
  const courses = mode === 'one-off' ? ONE_OFF : SESSION
  const weights = Object.fromEntries(Object.entries(courses).map(([name, [weight]]) => [name, weight]))
  const course = courses[random.weighted(weights)]?.[1]
  if (course === undefined) throw new Error('there is no such course')
  const isLong = random.chance(0.15)
  const lines = isLong ? random.int(400, 900) : random.int(5, 150)
  const intervalMs = random.pick([2, 5, 10, 20])
  const kinds = mode === 'one-off' ? GARBAGE : SESSION_GARBAGE
  const garbage = random.chance(0.2) ? Array.from({ length: random.int(1, 4) }, () => random.pick(kinds)) : []
  const durationMs = lines * (intervalMs + 1) + Number(course.input['start_delay_ms'] ?? 0)
  return {
    preset: course.preset,
    mode,
    input: {
      lines,
      interval_ms: intervalMs,
      size: random.pick([0, 10, 10, 60, 60, 2_000]),
      seq: !random.chance(0.1),
      stderr: !random.chance(0.1),
      garbage,
      artifacts: random.chance(0.1) ? random.int(1, 3) : 0,
      ...course.input,
    },
    timeoutMs: course.timeoutMs !== undefined ? course.timeoutMs + durationMs : 180_000,
    // A process may take as much memory as it likes.
    outcome: runner === 'process' && course.preset === 'small' ? 'COMPLETED' : course.outcome,
    cancel: random.chance(0.15) ? writeCancel(random, durationMs) : null,
    followers: Array.from({ length: random.pick([0, 0, 1, 2]) }, () => ({
      delayMs: random.int(0, durationMs),
      skip: random.pick([0, 0, 3, 20]),
    })),
    twice: random.chance(0.1),
  }
}

function writeCancel(random: Random, durationMs: number): Cancel {
  return random.chance(0.5)
    ? { kind: 'after', ms: random.int(0, 1_000 + durationMs) }
    : { kind: 'at the end', ms: random.pick([0, 0, 1, 2, 5, 20, 100]) }
}

/** Whether a loss of any of its lines on stdout must show: those that bear no number may go unseen. */
export function isCounted({ input }: Script): boolean {
  const garbage = input['garbage']
  return input['seq'] === true && !(Array.isArray(garbage) && garbage.includes('stray'))
}
