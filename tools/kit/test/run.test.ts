import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BUSYBOX_IMAGE, testEngine } from '@gpu-service/test-engine'
import { expect, test } from 'vitest'
import { gpusOf, runWorker } from '../src/index.ts'

test('a worker that fails is told, with what it says on standard error', async () => {
  const lines: string[] = []
  const isCompleted = await runWorker({
    input: {},
    subject: {
      kind: 'command',
      command: `sh -c 'echo "{\\"event\\": \\"text_delta\\"}"; echo oh dear >&2; exit 3'`,
      cwd: '/',
    },
    print: (line) => lines.push(line),
  })
  expect(isCompleted).toBe(false)
  expect(lines.join('\n')).toMatch(/BROKEN {7}INVALID_FIELDS/)
  expect(lines.join('\n')).toContain('stderr       oh dear')
  expect(lines.at(-1)).toContain('It has exited with code 3')
})

test('a worker is given files, and what it makes is there when it is gone', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'kit-'))
  try {
    await writeFile(join(folder, 'in.txt'), 'some words')
    const isCompleted = await runWorker({
      input: {},
      subject: {
        kind: 'command',
        command: `sh -c 'tr a-z A-Z < "$INPUT_DIR/in.txt" > "$OUTPUT_DIR/out.txt"; echo "{\\"event\\": \\"finish\\", \\"status\\": \\"completed\\"}"'`,
        cwd: '/',
      },
      files: [join(folder, 'in.txt')],
      outputDir: join(folder, 'made'),
      print: () => undefined,
    })
    expect(isCompleted).toBe(true)
    expect(await readdir(join(folder, 'made'))).toEqual(['out.txt'])
    expect(await readFile(join(folder, 'made/out.txt'), 'utf8')).toBe('SOME WORDS')
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('a file that is not there is said to be', async () => {
  const subject = { kind: 'command', command: 'true', cwd: '/' } as const
  const files = ['/nowhere/in.txt']
  await expect(runWorker({ input: {}, subject, files, print: () => undefined })).rejects.toThrow(
    /A file that it is to be given cannot be read: .*\/nowhere\/in\.txt/,
  )
})

test.skipIf(testEngine() === null)('a GPU that the engine cannot give is said to be', async () => {
  await testEngine()?.ensureImage(BUSYBOX_IMAGE)
  const subject = { kind: 'image', image: BUSYBOX_IMAGE, command: ['true'] } as const
  const gpus = gpusOf(['0'])
  await expect(runWorker({ input: {}, subject, gpus, print: () => undefined })).rejects.toThrow(
    'Install the NVIDIA container toolkit',
  )
})
