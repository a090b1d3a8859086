import { execFile, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { BASE_IMAGE, testEngine } from '@gpu-service/test-engine'
import { describe, expect, test } from 'vitest'
import { parseWorkerName, runWorker, openPackage, subjectOf } from '../src/index.ts'
import { freshWorker } from './fresh-worker.ts'

const run = promisify(execFile)
const BIN = join(import.meta.dirname, '../../../node_modules/.bin')
const noPython = spawnSync('python3', ['--version']).status !== 0

describe.each(['python', 'typescript'] as const)('a new worker in %s', (language) => {
  test.skipIf(language === 'python' && noPython)(
    'passes its own test, is well formatted, and does a task by its local command',
    async () => {
      await using worker = await freshWorker('text/my-worker', language)
      await run(join(BIN, 'vitest'), ['run', '--root', worker.folder], { env: cleanEnvironment() })
      await run(join(BIN, 'prettier'), [
        '--check',
        '--config',
        join(import.meta.dirname, '../../../.prettierrc.json'),
        `${worker.folder}/**/*.{ts,json,yaml,md}`,
        `!${worker.folder}/dist/**`,
      ])

      const lines: string[] = []
      const isCompleted = await runWorker({
        subject: subjectOf(await openPackage(worker.root, 'text/my-worker'), true),
        input: { prompt: 'Hello you' },
        print: (line) => lines.push(line.replace(/^ *[\d.]+ {2}/, '')),
      })
      expect(isCompleted).toBe(true)
      expect(lines).toEqual(
        expect.arrayContaining([
          'worker       loading 100 %: Loaded',
          'text_delta   "Hello "',
          'text_delta   "you "',
          'result       {"finish_reason":"stop"}',
          'finish       completed',
        ]),
      )
      expect(lines.at(-1)).toBe('It has exited with code 0')
    },
  )
})

test.skipIf(testEngine() === null)(
  'a new worker builds its image, and does a task in a container',
  async () => {
    await testEngine()?.ensureImage(BASE_IMAGE)
    await using worker = await freshWorker('text/kit-test-worker', 'python')
    const found = await openPackage(worker.root, 'text/kit-test-worker')
    await run(join(worker.folder, 'build.sh'), { env: { ...process.env, DOCKER_BUILDKIT: '0' } })
    try {
      const lines: string[] = []
      const isCompleted = await runWorker({
        subject: subjectOf(found, false),
        input: { prompt: 'Hello you' },
        print: (line) => lines.push(line),
      })
      expect(lines.join('\n')).toContain('text_delta   "you "')
      expect(isCompleted).toBe(true)
    } finally {
      await run('docker', ['image', 'rm', found.image])
    }
  },
  300_000,
)

test.each(['worker', 'a/b/c', 'Text/worker', 'text/../x', 'text/my_worker', '/text/worker', ''])(
  '%j is no name of a worker',
  (name) => {
    expect(() => parseWorkerName(name)).toThrow('A worker is named <category>/<name>')
  },
)

test('a name that a shell has completed is one', () => {
  expect(parseWorkerName('workers/text/my-worker/')).toEqual({ category: 'text', name: 'my-worker' })
})

/** Without what Vitest tells its own children. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(VITEST|TEST$)/.test(name)))
}
