import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Grade, GradeOptions } from '../src/index.ts'
import { grade, noPython } from './grade.ts'

const SDK_WORKERS = join(import.meta.dirname, '../../../workers/sdk/behaviours/workers')

function codes({ findings }: Grade): string[] {
  return findings.map(({ code }) => code)
}

function notJudged({ checks }: Grade): string[] {
  return checks.flatMap((check) => (check.notJudged === null ? [] : [check.name]))
}

describe.skipIf(noPython)('a worker that follows the protocol', () => {
  const sdk: Partial<GradeOptions> = {
    subject: { kind: 'command', command: '', cwd: SDK_WORKERS },
    input: { do: 'stream', pieces: ['a', 'b'], value: 1 },
    longInput: { do: 'endless' },
    env: { SLOTS: '2' },
    concurrency: 2,
  }

  test.concurrent.each([
    ['made with the SDK for Python', 'python3 behaviours.py', sdk],
    ['made with the SDK for TypeScript', 'node behaviours.mjs', sdk],
    ['made by hand', `python3 ${join(import.meta.dirname, 'workers/template.py')}`, { concurrency: 2 }],
  ])('is found to do so: %s', async (_name, command, options) => {
    const found = await grade(command, {
      ...options,
      subject: { kind: 'command', command, cwd: SDK_WORKERS },
    })
    expect(found.findings).toEqual([])
    expect(found.modes).toEqual(['one-off', 'session'])
    expect(notJudged(found)).toEqual([])
    expect(found.isConformant).toBe(true)
    expect(found.figures.map(({ name }) => name)).toContain('from the start to ready')
  })

  test.concurrent('has the files of its tasks, once and as a session', async () => {
    const found = await grade('node behaviours.mjs', {
      ...sdk,
      subject: { kind: 'command', command: 'node behaviours.mjs', cwd: SDK_WORKERS },
      input: { do: 'need a file' },
      files: [import.meta.filename],
    })
    expect(found.findings).toEqual([])
    expect(found.modes).toEqual(['one-off', 'session'])
  })

  test.concurrent('is found to do so: the smallest there is, with the advice to count', async () => {
    const found = await grade('python3 workers/bare.py', {})
    expect(codes(found)).toEqual(['NO_SEQ'])
    expect(found).toMatchObject({ isConformant: true, modes: ['one-off'] })
  })
})
