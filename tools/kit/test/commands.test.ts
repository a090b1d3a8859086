import { execFile, spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BASE_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const TOOLS = join(import.meta.dirname, '../..')
const noPython = spawnSync('python3', ['--version']).status !== 0

describe('the commands of the kit', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kit-command-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  function run(command: string, ...args: readonly string[]) {
    return new Promise<{ stdout: string; stderr: string; exitCode: number | null }>((resolve) => {
      const child = execFile(
        process.execPath,
        [join(TOOLS, `${command}.mjs`), ...args],
        {
          cwd: folder,
          env: {
            ...process.env,
            INIT_CWD: undefined,
            PRESETS_FILE: join(folder, 'presets.yaml'),
            DOCKER_BUILDKIT: '0',
          },
        },
        (_error, stdout, stderr) => {
          resolve({ stdout, stderr, exitCode: child.exitCode })
        },
      )
    })
  }

  test.each([
    ['build-worker', []],
    ['run-worker', ['test/loading-worker', '--input', '{']],
    ['register-worker', ['--colour', 'red']],
    ['deploy-worker', ['test/loading-worker']],
    ['doctor', ['a/b', 'c/d']],
  ])('%s says how it is used, with 2, when it is called with %j', async (command, args) => {
    const { stderr, exitCode } = await run(command, ...args)
    expect(stderr).toContain(`Usage: npm run ${command}`)
    expect(stderr).not.toContain('    at ')
    expect(exitCode).toBe(2)
  })

  test('--help says how a command is used, with 0', async () => {
    const { stdout, exitCode } = await run('run-worker', '--help')
    expect(stdout).toContain('npm run run-worker -- CATEGORY/NAME')
    expect(exitCode).toBe(0)
  })

  test('a package that is not there is said to be, and how it is made', async () => {
    const { stderr, exitCode } = await run('build-worker', 'text/nobody')
    expect(stderr).toBe(
      'There is no worker package in workers/text/nobody: no worker.yaml. npm run new-worker -- text/nobody makes one.\n',
    )
    expect(exitCode).toBe(2)
  })

  test.skipIf(noPython)('run-worker gives a package a task, and ends with 0 where it is done', async () => {
    await writeFile(join(folder, 'input.json'), '{"text": "from a file"}')
    const args = ['test/loading-worker', '--local', '--env', 'LOAD_SECONDS=0']
    const done = await run('run-worker', ...args, '--input', 'input.json')
    expect(done.stdout).toContain('text         "from a file"')
    expect(done.exitCode).toBe(0)
    const failed = await run('run-worker', ...args, '--env', 'FAIL_AT=loading')
    expect(failed.stdout).toContain('finish       failed')
    expect(failed.exitCode).toBe(1)
  })

  test('doctor ends with 1 where something is missing', async () => {
    await writeFile(
      join(folder, 'presets.yaml'),
      'models: { a: { b: { docker_image: "none:latest", model_path: none.gguf } } }\n',
    )
    const { stdout, exitCode } = await run('doctor')
    expect(stdout).toContain('✗ model: ')
    expect(exitCode).toBe(1)
  })

  test('register-worker says what a package lacks, and leaves the presets as they are', async () => {
    await writeFile(join(folder, 'presets.yaml'), '# none yet\n')
    const { stderr, exitCode } = await run('register-worker', 'test/chaos-worker')
    expect(stderr).toContain('The package has no presets to register')
    expect(exitCode).toBe(2)
    expect(await readFile(join(folder, 'presets.yaml'), 'utf8')).toBe('# none yet\n')
  })

  test.skipIf(testEngine() === null)(
    'build-worker makes the image that the manifest names',
    async () => {
      await testEngine()?.ensureImage(BASE_IMAGE)
      const { stdout, exitCode } = await run('build-worker', 'test/loading-worker')
      expect(stdout).toMatch(/^loading-worker:latest: \d+ MB$/m)
      expect(exitCode).toBe(0)
    },
    300_000,
  )
})
