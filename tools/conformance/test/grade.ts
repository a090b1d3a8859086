import { spawnSync } from 'node:child_process'
import { type Grade, type GradeOptions, gradeWorker } from '../src/index.ts'

/** Without it the tests of workers in Python are skipped, which the run says aloud. */
export const noPython = spawnSync('python3', ['--version']).status !== 0

/** Grades a command, of the template unless told, with short tasks and one that is long enough to be stopped. */
export function grade(command: string, options: Partial<GradeOptions>): Promise<Grade> {
  return gradeWorker({
    subject: { kind: 'command', command, cwd: import.meta.dirname },
    input: { tokens: 3, interval: 0.02 },
    longInput: { tokens: 1_000, interval: 0.02 },
    ...options,
  })
}
