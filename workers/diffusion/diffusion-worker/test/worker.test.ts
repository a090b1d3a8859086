import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { gradeWorker } from '@gpu-service/conformance'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { DIST, FOLDER, MODEL } from './build.ts'
import { UNUSABLE_IMAGES } from './images.ts'

type Said = Readonly<Record<string, unknown>>

const SMALL = { prompt: 'a red fox', width: 64, height: 64, steps: 2, seed: 1 }

describe('the diffusion worker', () => {
  let root: string
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'diffusion-worker-'))
  })
  afterAll(() => rm(root, { recursive: true }))

  /** Runs it once, by hand; gives its events and what it says on standard error. */
  function run(input: object, env: Readonly<Record<string, string>> = {}): { said: Said[]; stderr: string } {
    const { stdout, stderr } = spawnSync(process.execPath, ['app/worker.js'], {
      cwd: DIST,
      env: { MODEL_PATH: MODEL, THREADS: '1', TASK_INPUT: JSON.stringify(input), ...env },
      encoding: 'utf8',
      timeout: 50_000,
    })
    const lines = stdout.trimEnd().split('\n')
    return { said: lines.map((line) => JSON.parse(line) as Said), stderr }
  }

  const failure = (message: string, code?: string): object => ({
    event: 'finish',
    status: 'failed',
    error: { message: expect.stringContaining(message) as string, ...(code !== undefined && { code }) },
  })

  test('follows the protocol, once and as a session', async ({ signal }) => {
    const grade = await gradeWorker({
      subject: { kind: 'command', command: 'node dist/cpu/app/worker.js', cwd: FOLDER },
      input: { ...SMALL, steps: 1 },
      longInput: { ...SMALL, width: 256, height: 256, steps: 150 },
      env: { MODEL_PATH: MODEL, THREADS: '1' },
      signal,
    })
    expect(grade.findings).toEqual([])
    expect(grade.modes).toEqual(['one-off', 'session'])
  })

  test.each(UNUSABLE_IMAGES)('does not begin with %s', async (what, bytes, message) => {
    const folder = join(root, what)
    await mkdir(folder)
    await writeFile(join(folder, 'a.png'), bytes)
    const { said } = run({ ...SMALL, init_image: 'a.png' }, { INPUT_DIR: folder })
    expect(said.at(-1)).toMatchObject(failure(message, 'INVALID_INPUT'))
  })

  test('says which model file there is none of, or why it is none', async () => {
    const cut = join(root, 'cut.gguf')
    await copyFile(MODEL, cut)
    await truncate(cut, 40_000_000)
    for (const [file, message] of [
      [
        '/nowhere/model.gguf',
        'MODEL_PATH does not name a model file: there is none at "/nowhere/model.gguf"',
      ],
      ['/', 'there is none at "/"'],
      [import.meta.filename, 'get sd version from file failed'],
      [cut, 'model manager load tensors failed'],
    ] as const) {
      expect(run(SMALL, { MODEL_PATH: file }).said.at(-1)).toMatchObject(failure(message))
    }
  })

  test('fails where its preset gives it a GPU that the engine does not find, instead of going on with the CPU', () => {
    const { said } = run(SMALL, { GPU_DEVICE: '0' })
    expect(said.at(-1)).toMatchObject(
      failure('the preset gives a GPU, and the engine cannot load the model there'),
    )
    expect(said.at(-1)).toMatchObject(failure("backend 'vulkan0' was not found"))
  })

  test('tells of a cancel that the engine does not heed in time, and ends with it', async () => {
    const worker = spawn(process.execPath, ['worker.js'], {
      cwd: await withDeafEngine(join(root, 'deaf')),
      env: { PATH: process.env['PATH'], MODEL_PATH: MODEL, CANCEL_SECONDS: '1' },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    const command = (fields: object): void => {
      worker.stdin.write(`${JSON.stringify({ task_id: 'a.1', ...fields })}\n`)
    }
    command({ command: 'run', input: SMALL })
    const said: Said[] = []
    createInterface({ input: worker.stdout }).on('line', (line) => {
      said.push(JSON.parse(line) as Said)
      if (said.at(-1)?.['event'] === 'progress') command({ command: 'cancel' })
    })
    const [stderr, ended] = await Promise.all([text(worker.stderr), once(worker, 'close')])
    expect(said.at(-1)).toMatchObject({ event: 'finish', task_id: 'a.1', status: 'cancelled' })
    expect(stderr).toContain('the engine has not heeded a cancel for 1 s, and was killed')
    expect(ended).toEqual([1, null])
  })

  test('leaves no engine behind where it is killed', async () => {
    const launcher = spawn(process.execPath, ['app/worker.js'], {
      cwd: DIST,
      env: { MODEL_PATH: MODEL, THREADS: '1' },
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    for await (const line of createInterface({ input: launcher.stdout })) if (line.includes('"ready"')) break
    const worker = await childOf(launcher.pid)
    const engine = await childOf(worker)
    expect(isRunning(engine)).toBe(true)
    process.kill(worker, 'SIGKILL')
    await vi.waitFor(
      () => {
        expect(isRunning(engine)).toBe(false)
      },
      { timeout: 20_000 },
    )
  })
})

/** The worker in a folder of its own, with a program in the place of its engine that begins whatever it is told, and heeds no cancel. */
async function withDeafEngine(folder: string): Promise<string> {
  const bin = join(folder, 'node_modules/bare-runtime-linux-x64/bin')
  await mkdir(bin, { recursive: true })
  await copyFile(join(DIST, 'app/worker.js'), join(folder, 'worker.js'))
  await copyFile(join(DIST, 'app/package.json'), join(folder, 'package.json'))
  await writeFile(join(folder, 'node_modules/bare-runtime-linux-x64/package.json'), '{}')
  await writeFile(
    join(bin, 'bare'),
    `#!/usr/bin/env node
     const pipe = new (require('node:net').Socket)({ fd: 3 })
     const say = (message) => pipe.write(JSON.stringify(message) + '\\n')
     require('node:readline').createInterface({ input: pipe }).on('line', (line) => {
       const { command } = JSON.parse(line)
       if (command === 'load') say({ said: 'loaded' })
       if (command === 'paint') say({ said: 'step', step: 1, steps: 2 })
     })`,
    { mode: 0o755 },
  )
  return folder
}

async function childOf(pid = 0): Promise<number> {
  return Number.parseInt(await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8'))
}

function isRunning(pid: number): boolean {
  // Of one that has ended, and that nobody has asked after, this is there no more.
  return existsSync(`/proc/${pid}/exe`)
}
