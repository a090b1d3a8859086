import { spawnSync } from 'node:child_process'
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gradeWorker } from '@gpu-service/conformance'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { flac, mp3, wav } from './audio.ts'
import { FOLDER } from './build.ts'
import { tinyModel } from './tiny-model.ts'

type Said = Readonly<Record<string, unknown>>

let root: string
let model: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'whisper-worker-'))
  model = join(root, 'tiny.bin')
  await writeFile(model, tinyModel())
})
afterAll(() => rm(root, { recursive: true }))

/** Runs it once, by hand; gives its events and what it says on standard error. */
function run(env: Readonly<Record<string, string>>, folder = FOLDER): { said: Said[]; stderr: string } {
  const { stdout, stderr } = spawnSync(process.execPath, ['dist/worker.js'], {
    cwd: folder,
    env: { MODEL_PATH: model, THREADS: '1', TASK_INPUT: '{"temperature_increment":0}', ...env },
    encoding: 'utf8',
    timeout: 50_000,
  })
  const lines = stdout.trimEnd().split('\n')
  return { said: lines.map((line) => JSON.parse(line) as Said), stderr }
}

async function given(name: string, content: Buffer): Promise<string> {
  const folder = join(root, name)
  await mkdir(folder)
  await writeFile(join(folder, name), content)
  return folder
}

describe('the whisper worker', () => {
  test.each([
    ['WAV', 'a.wav', wav(2)],
    ['MP3', 'a.mp3', mp3(2)],
    ['FLAC', 'a.flac', flac(2)],
  ])('transcribes %s', async (_format, name, content) => {
    const { said } = run({ INPUT_DIR: await given(name, content) })
    expect(said.map(({ event }) => event)).toEqual(
      expect.arrayContaining(['segment', 'text_delta', 'artifact', 'result', 'finish']),
    )
    expect(said.at(-1)).toMatchObject({ event: 'finish', status: 'completed' })
  })

  test('follows the protocol, once and as a session', async ({ signal }) => {
    const short = await given('short.wav', wav(1))
    const long = await given('long.wav', wav(120))
    const grade = await gradeWorker({
      subject: { kind: 'command', command: 'node dist/worker.js', cwd: FOLDER },
      input: { file: 'short.wav', temperature_increment: 0 },
      longInput: { file: 'long.wav', temperature_increment: 0 },
      files: [join(short, 'short.wav'), join(long, 'long.wav')],
      env: { MODEL_PATH: model, THREADS: '1' },
      signal,
    })
    expect(grade.findings).toEqual([])
    expect(grade.modes).toEqual(['one-off', 'session'])
  })

  test.each([
    ['a text', 'notes.txt', Buffer.from('no audio')],
    ['a file that is cut after its header', 'cut.wav', wav(1).subarray(0, 44)],
    ['nothing', 'empty.mp3', Buffer.alloc(0)],
  ])('refuses %s', async (_what, name, content) => {
    const { said } = run({ INPUT_DIR: await given(name, content) })
    expect(said.at(-1)).toMatchObject({
      status: 'failed',
      error: { code: 'INVALID_INPUT', message: `"${name}" is no audio that can be read: WAV, MP3 or FLAC` },
    })
  })

  test.each([
    ['there is no model', { MODEL_PATH: '/nowhere/model.bin' }, 'there is none at "/nowhere/model.bin"'],
    ['the model is a folder', { MODEL_PATH: '/' }, 'there is none at "/"'],
    ['the model is none', { MODEL_PATH: import.meta.filename }, 'Failed to initialize whisper context'],
    ['the backend is unknown', { WHISPER_BACKEND: 'tpu' }, 'is one of cpu, cuda, vulkan, not tpu'],
  ])('fails, and says why, where %s', (_what, env, message) => {
    const { said } = run(env)
    expect(said.at(-1)).toMatchObject({
      status: 'failed',
      error: { message: expect.stringContaining(message) as string },
    })
  })

  test('fails where the engine of its backend cannot be loaded, instead of taking another one', async () => {
    const folder = await installed('cuda')
    const { said } = run({ WHISPER_BACKEND: 'cuda' }, folder)
    expect(said.at(-1)).toMatchObject({
      status: 'failed',
      error: { message: expect.stringContaining('node-whisper-linux-x64-cuda') as string },
    })
  })

  test('fails where the engine finds no GPU, instead of going on with the CPU', async () => {
    // The engine for the CPU, under the name of another one, is one that never finds any.
    const folder = await installed('vulkan')
    const packages = join(folder, 'engine/vulkan/node_modules/@fugood')
    await mkdir(packages, { recursive: true })
    const cpu = join(FOLDER, 'engine/cpu/node_modules/@fugood/node-whisper-linux-x64')
    await symlink(cpu, join(packages, 'node-whisper-linux-x64-vulkan'))
    const { said, stderr } = run({ WHISPER_BACKEND: 'vulkan' }, folder)
    expect(said.at(-1)).toMatchObject({
      status: 'failed',
      error: { message: 'the engine finds no GPU that it can use by vulkan' },
    })
    expect(stderr).toContain('no GPU found')
  })
})

/** The worker's program in a folder of its own, where no engine is. */
async function installed(name: string): Promise<string> {
  const folder = join(root, name)
  await cp(join(FOLDER, 'dist'), join(folder, 'dist'), { recursive: true })
  return folder
}
