import { type Grade, type GradeOptions, gradeWorker } from '../src/index.ts'

/** Grades a command, of the template unless told, with short tasks and one that is long enough to be stopped. */
export function grade(command: string, options: Partial<GradeOptions>): Promise<Grade> {
  return gradeWorker({
    subject: { kind: 'command', command, cwd: import.meta.dirname },
    mode: 'auto',
    input: { tokens: 3, interval: 0.02 },
    longInput: { tokens: 1_000, interval: 0.02 },
    env: {},
    modelsDir: null,
    concurrency: 1,
    limits: {},
    signal: new AbortController().signal,
    onCheck: () => undefined,
    ...options,
  })
}
