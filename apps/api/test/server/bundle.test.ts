import { execFile } from 'node:child_process'
import { createHash, generateKeyPairSync } from 'node:crypto'
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { TaskStore } from '@gpu-service/tasks'
import { EXAMPLE_SPEC } from '@gpu-service/tasks/testing'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { verifyBundle } from '../../../../tools/verify-bundle.mjs'
import { bundleOf } from '../../src/export/bundle.ts'
import { openSigningKey, type SigningKey } from '../../src/export/signing-key.ts'
import { freshStore } from '../dispatch/fresh-store.ts'
import { GPU, liveThrough, newTask } from './history.ts'

const run = promisify(execFile)
const tool = fileURLToPath(new URL('../../../../tools/verify-bundle.mjs', import.meta.url))
const FILE = Buffer.from('hello')
const SECRET = 'hunter2-is-a-secret'

let folder: string
let file: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bundle-'))
  file = join(folder, 'task.bundle')
})
afterAll(() => rm(folder, { recursive: true }))

describe("a task's bundle", () => {
  let store: TaskStore
  let signingKey: SigningKey
  let bundle: Buffer

  beforeEach(async () => {
    store = await freshStore()
    signingKey = await openSigningKey(folder)
    const task = newTask({ input: { prompt: 'é "x"' }, spec: { ...EXAMPLE_SPEC, env: { TOKEN: SECRET } } })
    const sha256 = createHash('sha256').update(FILE).digest('hex')
    await liveThrough(store, task, 'Hello', { name: 'a.txt', bytes: FILE.length, sha256 })
    bundle = await made(task.id)
  })
  afterEach(() => store[Symbol.asyncDispose]())

  async function made(id: Parameters<TaskStore['task']>[0], key: SigningKey = signingKey): Promise<Buffer> {
    const task = await store.task(id)
    if (task === null) throw new Error('There is no such task.')
    const gpus = { list: () => [{ id: GPU, name: 'NVIDIA H200' }] as never }
    let text = ''
    for await (const line of bundleOf({ store, gpus, version: '1.2.3', signingKey: key }, task)) text += line
    return Buffer.from(text)
  }

  async function verdict(bytes: Buffer, options: Parameters<typeof verifyBundle>[1] = {}): Promise<string> {
    const { ok, lines } = await verifyBundle(bytes, options)
    return `${ok ? 'ok' : 'not ok'}: ${lines.join(' ')}`
  }

  test('tells all that is stored of it, and no secret', () => {
    const lines = bundle
      .toString()
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as { part?: string; value: Record<string, unknown> })
    const of = (part: string) => lines.filter((line) => line.part === part).map(({ value }) => value)
    expect(of('task')).toMatchObject([{ status: 'COMPLETED', attempt: 2, input: { prompt: 'é "x"' } }])
    expect(of('attempt')).toMatchObject([
      {
        ...{
          attempt: 1,
          status: 'FAILED',
          imageDigest: 'sha256:abc',
          gpus: [{ id: GPU, name: 'NVIDIA H200' }],
        },
        evidence: { cause: 'crashed', spec: { env: ['TOKEN'] } },
      },
      { attempt: 2, status: 'COMPLETED' },
    ])
    expect(of('output')).toMatchObject([{ text: 'Hello', result: { ok: true } }])
    expect(of('artifact')).toMatchObject([{ name: 'a.txt', bytes: 5 }])
    expect(of('event').map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
    expect(of('audit').map(({ action }) => action)).toEqual([
      ...['task.end', 'task.run', 'task.start', 'task.requeue', 'task.start', 'task.submit'],
    ])
    expect(bundle.toString()).not.toContain(SECRET)
  })

  test('is verified where neither the service nor its database is', async () => {
    expect(await verdict(bundle)).toMatch(/^ok: The bundle is whole .* Whose that is /)
    expect(await verdict(bundle, { key: signingKey.fingerprint })).toMatch(/^ok: .*with the given key/)
    const publicKeyFile = join(folder, 'public.pem')
    await writeFile(publicKeyFile, signingKey.publicKey)
    expect(await verdict(bundle, { key: publicKeyFile })).toMatch(/^ok: /)
    await writeFile(file, bundle)
    expect((await verifyBundle(file)).ok).toBe(true)
    const { stdout } = await run(process.execPath, [tool, file, '--key', signingKey.fingerprint])
    expect(stdout).toContain('The bundle is whole and as it was signed')
    await writeFile(file, bundle.subarray(1))
    await expect(run(process.execPath, [tool, file])).rejects.toMatchObject({
      ...{ code: 1, stdout: expect.stringContaining('NOT as it was made') as string },
    })
  })

  test('is found wrong whichever single byte of it was changed', async () => {
    const unseen: number[] = []
    for (let at = 0; at < bundle.length; at++) {
      const changed = Buffer.from(bundle)
      changed[at] = (bundle[at] ?? 0) ^ 1
      if ((await verdict(changed)).startsWith('ok')) unseen.push(at)
    }
    expect(unseen).toEqual([])
    // Of the signature, whose encoding has bits that say nothing, every other value.
    const signature = bundle.lastIndexOf('{"signature"')
    for (const byte of [bundle.lastIndexOf('=') - 2, bundle.indexOf('=', signature) - 1])
      for (let bits = 1; bits < 128; bits++) {
        const changed = Buffer.from(bundle)
        changed[byte] = (bundle[byte] ?? 0) ^ bits
        expect(await verdict(changed), `${byte} ${bits}`).toMatch(/^not ok/)
      }
  }, 60_000)

  test('is found wrong where something is missing, added or in another place', async () => {
    const lines = bundle.toString().split(/(?<=\n)/)
    const without = lines.map((_, index) => lines.toSpliced(index, 1))
    const doubled = lines.map((line, index) => lines.toSpliced(index, 0, line))
    const swapped = lines.slice(1).map((line, index) => lines.toSpliced(index, 2, line, lines[index] ?? ''))
    for (const parts of [...without, ...doubled, ...swapped])
      expect(await verdict(Buffer.from(parts.join('')))).toMatch(/^not ok/)
    for (const length of [0, 1, bundle.length - 1, bundle.length - 10])
      expect(await verdict(bundle.subarray(0, length))).toMatch(/^not ok/)
    expect(await verdict(Buffer.concat([bundle, Buffer.from('\n')]))).toMatch(/^not ok/)
  })

  test('is found wrong where somebody else has signed it', async () => {
    const other = await mkdtemp(join(folder, 'other-'))
    const [id] = (await store.tasks({ filter: {}, first: 1, after: null })).tasks.map((task) => task.id)
    const forged = await made(id ?? ('' as never), await openSigningKey(other))
    expect(await verdict(forged)).toMatch(/^ok/)
    expect(await verdict(forged, { key: signingKey.fingerprint })).toMatch(
      /^not ok: .*signed with another key/,
    )
    await expect(verdict(bundle, { key: 'no-such-file' })).rejects.toThrow('no-such-file')
  })

  test("tells whether an artifact's file is the one that the task made", async () => {
    const artifacts = await mkdtemp(join(folder, 'artifacts-'))
    expect(await verdict(bundle)).toContain('1 artifacts and files were not looked at')
    expect(await verdict(bundle, { artifacts })).toMatch(/^not ok: .*there is no file/)
    await writeFile(join(artifacts, 'a.txt'), FILE)
    expect(await verdict(bundle, { artifacts })).toMatch(/^ok: .*a.txt is the file/)
    await writeFile(join(artifacts, 'a.txt'), 'hellO')
    expect(await verdict(bundle, { artifacts })).toMatch(/^not ok: .*is not the one/)
  })
})

describe("the installation's key", () => {
  test('is made once, for its owner alone, and stays', async () => {
    const place = await mkdtemp(join(folder, 'key-'))
    const made = await openSigningKey(place)
    const path = join(place, 'signing-key.pem')
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    await chmod(path, 0o644)
    expect((await openSigningKey(place)).fingerprint).toBe(made.fingerprint)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(made.publicKey).not.toContain('PRIVATE')
  })

  test('is not replaced where it is damaged, or of another kind', async () => {
    const place = await mkdtemp(join(folder, 'key-'))
    const path = join(place, 'signing-key.pem')
    await writeFile(path, 'nonsense')
    await expect(openSigningKey(place)).rejects.toThrow('cannot be read as a key')
    expect(await readFile(path, 'utf8')).toBe('nonsense')
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    await writeFile(path, privateKey.export({ type: 'pkcs8', format: 'pem' }))
    await expect(openSigningKey(place)).rejects.toThrow('not an Ed25519 key')
  })
})
