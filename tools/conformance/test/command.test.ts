import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Grade } from '../src/index.ts'
import { noPython } from './grade.ts'

const PROGRAM = join(import.meta.dirname, '../../conformance.mjs')

describe('npm run conformance', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'conformance-command-'))
  })
  afterEach(async () => {
    // Nothing is left of what it has started.
    expect((await readdir(folder)).filter((name) => name.startsWith('conformance'))).toEqual([])
    await rm(folder, { recursive: true })
  })

  function start(...args: readonly string[]) {
    const child = spawn(process.execPath, [PROGRAM, ...args], {
      cwd: join(import.meta.dirname, 'workers'),
      env: { ...process.env, INIT_CWD: undefined, TMPDIR: folder },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const said = Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')])
    return {
      child,
      async ended() {
        const [stdout, stderr] = await said
        return { stdout, stderr, exitCode: child.exitCode }
      },
    }
  }

  test.skipIf(noPython)('passes a worker with 0, and tells machines all about it', async () => {
    const { stdout, exitCode } = await start('--command', 'python3 bare.py', '--json').ended()
    expect(JSON.parse(stdout)).toMatchObject<Partial<Grade>>({ isConformant: true, modes: ['one-off'] })
    expect(exitCode).toBe(0)
  })

  test('fails a worker with 1, and tells people what is wrong and how to mend it', async () => {
    const { stdout, exitCode } = await start('--command', 'true', '--mode', 'one-off').ended()
    expect(stdout).toContain('✗ one-off: does its task and exits\n    NO_FINISH: It has exited with code 0')
    expect(stdout).toContain('End every task with {"event": "finish", "status": "completed"}')
    expect(stdout).toContain('It does not follow the protocol: 1 defect.')
    expect(exitCode).toBe(1)
  })

  test.each([
    [[]],
    [['image', '--command', 'true']],
    [['image', '--env', 'NAME']],
    [['image', '--input', 'missing.json']],
  ])('says how it is used, with 2: %j', async (args) => {
    const { stderr, exitCode } = await start(...args).ended()
    expect(stderr).toContain('npm run conformance -- IMAGE')
    expect(exitCode).toBe(2)
  })

  test('a file that is not there is said to be, with 2', async () => {
    const { stderr, exitCode } = await start('--command', 'true', '--file', 'missing.wav').ended()
    expect(stderr).toMatch(/cannot be read: .*missing\.wav/)
    expect(exitCode).toBe(2)
  })

  test('an interrupt removes what runs', async () => {
    const grading = start(
      '--command',
      `sh -c 'echo begun >> ${folder}/begun; sleep 3600'`,
      '--mode',
      'one-off',
    )
    await expect.poll(() => readdir(folder), { timeout: 60_000 }).toContain('begun')
    await rm(join(folder, 'begun'))
    grading.child.kill('SIGINT')
    expect(await grading.ended()).toMatchObject({ exitCode: 130 })
  })
})
