import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gradeWorker } from '@gpu-service/conformance'
import { testEngine, TEXT_TRAINER_IMAGE } from '@gpu-service/test-engine'
import { expect, test } from 'vitest'

const TINY = {
  context: 16,
  batch_size: 8,
  model: { width: 16, layers: 1, heads: 2, kv_heads: 1 },
}

test.skipIf(testEngine() === null)(
  'the text trainer follows the protocol',
  async ({ signal }) => {
    await testEngine()?.ensureImage(TEXT_TRAINER_IMAGE)
    const folder = await mkdtemp(join(tmpdir(), 'text-trainer-'))
    try {
      await writeFile(join(folder, 'text.txt'), 'again and again. '.repeat(20))
      const grade = await gradeWorker({
        subject: { kind: 'image', image: TEXT_TRAINER_IMAGE, command: [] },
        mode: 'one-off',
        input: { ...TINY, epochs: 2 },
        longInput: { ...TINY, epochs: 100_000 },
        files: [join(folder, 'text.txt')],
        env: { THREADS: '1' },
        signal,
      })
      expect(grade.findings).toEqual([])
      expect(grade.checks.filter(({ notJudged }) => notJudged !== null)).toEqual([])
    } finally {
      await rm(folder, { recursive: true })
    }
  },
  300_000,
)
