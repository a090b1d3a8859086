import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { FINDINGS } from '../src/index.ts'
import { type Defect, DEFECTS } from './defects.ts'
import { grade, noPython } from './grade.ts'

/** The smallest worker shows it, and is a good one nevertheless. */
const SHOWN_ELSEWHERE = ['NO_SEQ']

describe.skipIf(noPython)('a worker that is broken in one place', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'conformance-test-'))
  })
  afterAll(async () => {
    await rm(folder, { recursive: true })
  })

  async function broken({ code, edits }: Defect): Promise<string> {
    let program = await readFile(join(import.meta.dirname, 'workers/template.py'), 'utf8')
    for (const [whole, instead] of edits) {
      if (!program.includes(whole)) throw new Error(`the template has no ${whole}`)
      program = program.replaceAll(whole, instead)
    }
    const file = join(folder, `${code}.py`)
    await writeFile(file, program)
    return file
  }

  const rows = DEFECTS.map((defect) => [`${defect.mode}: ${defect.how}: ${defect.code}`, defect] as const)

  test.concurrent.for(rows)('%s', async ([, defect], { skip }) => {
    if (defect.options?.subject?.kind === 'image' && testEngine() === null) skip()
    const { mode, code, limits = {}, options } = defect
    const { findings, isConformant } = await grade(`python3 ${await broken(defect)}`, {
      mode,
      limits,
      ...options,
    })
    expect(findings.map((finding) => finding.code)).toContain(code)
    expect(isConformant).toBe(FINDINGS[code].severity === 'advice')
    // It says what was seen and how to mend it, and little else that would lead astray.
    expect(new Set(findings.map((finding) => finding.code)).size).toBeLessThanOrEqual(3)
  })

  test('each kind of finding is shown by one', () => {
    const shown = new Set([...DEFECTS.map(({ code }) => code), ...SHOWN_ELSEWHERE])
    expect(Object.keys(FINDINGS).filter((code) => !shown.has(code))).toEqual([])
  })
})
