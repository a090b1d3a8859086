import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { JsonValue } from '@gpu-service/tasks'
import { BUSYBOX_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { examine } from '../src/index.ts'

const GOOD = `
echo '{"event": "connection", "status": "connected"}'
echo '{"event": "finish", "status": "completed"}'
`

describe.skipIf(testEngine() === null)('the doctor', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kit-doctor-'))
    await mkdir(join(folder, 'models'))
    // Workers in containers are somebody else.
    await chmod(folder, 0o755)
  })
  afterEach(() => rm(folder, { recursive: true }))

  async function ask(
    preset: Readonly<Record<string, unknown>>,
    { input = {}, presetId = 'a/b' }: { input?: JsonValue; presetId?: string | null } = {},
  ): Promise<{ isWell: boolean; said: string }> {
    const file = join(folder, 'model_presets.yaml')
    const whole = { docker_image: BUSYBOX_IMAGE, command: ['sh', '-c', GOOD], gpus: { count: 0 }, ...preset }
    await writeFile(file, stringify({ models: { a: { b: whole } } }))
    const lines: string[] = []
    const isWell = await examine({
      ...{ file, presetId, input },
      modelsDir: join(folder, 'models'),
      volumeRoots: [],
      secretRoots: [],
      secretEnvPrefix: 'WORKER_SECRET_',
      env: { WORKER_SECRET_TOKEN: 'open-sesame' },
      workersDir: join(folder, 'workers'),
      print: (line) => lines.push(line),
      signal: new AbortController().signal,
    })
    return { isWell, said: lines.join('\n') }
  }

  test('finds nothing where all is well, with all that the preset gives its worker', async () => {
    await writeFile(join(folder, 'models/small.gguf'), 'weights')
    const program = `test "$MODEL_PATH" = /models/small.gguf && cat "$MODEL_PATH" >&2 && cat "$SECRETS_DIR/token" >&2 && ${GOOD.trim()}`
    const { isWell, said } = await ask({
      command: ['sh', '-c', program],
      model_path: 'small.gguf',
      secrets: { token: 'env:WORKER_SECRET_TOKEN' },
    })
    expect(said).toMatch(/^✓ presets file: .*, 1 preset$/m)
    expect(said).toMatch(/^✓ Docker engine: version /m)
    expect(said).toMatch(/^✓ model: .*small\.gguf/m)
    expect(said).toMatch(/^✓ image: busybox:test, \d+ MB, sha256:/m)
    expect(said).toMatch(/^✓ GPU: none is asked for$/m)
    expect(said).toMatch(/^✓ worker: does its task and follows the protocol/m)
    expect(isWell).toBe(true)
  })

  test('tells no secret that a worker says as it fails', async () => {
    const { said } = await ask({
      command: ['sh', '-c', 'cat "$SECRETS_DIR/token" >&2; exit 1'],
      secrets: { token: 'env:WORKER_SECRET_TOKEN' },
    })
    expect(said).toMatch(/^✗ worker: CRASHED: .*\[secret token\]/m)
    expect(said).not.toContain('open-sesame')
    const unset = await ask({ secrets: { token: 'env:WORKER_SECRET_UNSET' } })
    expect(unset.said).toMatch(/^✗ secret token: .*the variable is not set/m)
    expect(unset.isWell).toBe(false)
  })

  test('of all presets looks for what they need, and starts no worker', async () => {
    const { isWell, said } = await ask({ command: ['false'] }, { presetId: null })
    expect(said).toMatch(/^a\/b\n✓ model: .*\n✓ image: .*$/m)
    expect(said).not.toContain('worker:')
    expect(isWell).toBe(true)
  })

  test('says how an image is made that one of our packages makes, and how others are got', async () => {
    const workers = join(folder, 'workers/text/mine')
    await mkdir(workers, { recursive: true })
    await writeFile(join(workers, 'worker.yaml'), 'name: mine\nimage: mine:latest\n')
    const mine = await ask({ docker_image: 'mine:latest' })
    expect(mine.said).toMatch(/^✗ image: mine:latest: .*\n {4}npm run build-worker -- text\/mine$/m)
    expect(mine.said).not.toContain('worker:')
    expect(mine.isWell).toBe(false)
    const theirs = await ask({ docker_image: 'theirs:latest' })
    expect(theirs.said).toContain('docker pull theirs:latest, docker load it, or set `pull: missing`')
    expect((await ask({ docker_image: 'theirs:latest', pull: 'missing' })).isWell).toBe(true)
  })

  test('misses a model file, and one that workers may not read', async () => {
    const missing = await ask({ model_path: 'large.gguf' })
    expect(missing.said).toMatch(/^✗ model: .*no such file.*large\.gguf'\n {4}Put it there/m)
    expect(missing.isWell).toBe(false)
    await writeFile(join(folder, 'models/large.gguf'), 'weights', { mode: 0o600 })
    const unreadable = await ask({ model_path: 'large.gguf' })
    expect(unreadable.said).toMatch(/^✗ model: .*may not be read by everybody\n {4}chmod -R a\+rX /m)
  })

  test('sees that containers reach no GPU, and says what is to be installed', async () => {
    const { isWell, said } = await ask({ gpus: { count: 1 } })
    expect(said).toMatch(/^✗ GPU: a container does not reach it: .*could not select device driver/m)
    expect(said).toContain('NVIDIA container toolkit')
    expect(isWell).toBe(false)
  })

  test.each([
    ['prints broken events', ['sh', '-c', `echo '{"event": "text_delta", '; ${GOOD.trim()}`], 'INVALID_JSON'],
    ['crashes', ['sh', '-c', 'echo no luck >&2; exit 3'], 'CRASHED'],
    ['does not start', ['/no/such/program'], 'CANNOT_START'],
  ])('shows a worker that %s, with the way to mend it', async (_what, command, code) => {
    const { isWell, said } = await ask({ command })
    expect(said).toMatch(new RegExp(`^✗ worker: ${code}: .*\\n {4}${code}: `, 'm'))
    expect(isWell).toBe(false)
  })

  test('asks for an input where the preset does not take the one it has', async () => {
    const schema = { input: { type: 'object', required: ['prompt'] } }
    const { isWell, said } = await ask(schema)
    expect(said).toMatch(/^✗ worker: the input \/prompt is required\n {4}Give an input .*--input/m)
    expect(isWell).toBe(false)
    expect((await ask(schema, { input: { prompt: 'hello' } })).isWell).toBe(true)
  })

  test('a presets file that the service does not take is told by line', async () => {
    const { isWell, said } = await ask({ colour: 'red' })
    expect(said).toMatch(/^✗ presets file: .*\n {4}.*model_presets\.yaml:\d+:\d+: .*colour: unknown key/m)
    expect(isWell).toBe(false)
  })
})
