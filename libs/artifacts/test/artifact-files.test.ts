import { createHash } from 'node:crypto'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { link, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ArtifactId } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { openArtifactFiles, type ArtifactFolder } from '../src/index.ts'

/** Puts a link in the place of a folder, and the folder back, for ever. */
const SWAP = `
  const { renameSync, symlinkSync, unlinkSync } = require('node:fs')
  const [, folder, target] = process.argv
  for (;;) {
    renameSync(folder, 'aside')
    symlinkSync(target, folder)
    unlinkSync(folder)
    renameSync('aside', folder)
  }
`

const id = '0190-test' as ArtifactId
let root: string
let output: string
let files: ArtifactFolder

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'artifacts-'))
  output = join(root, 'output')
  await mkdir(output)
  files = await openArtifactFiles({ folder: join(root, 'kept'), maxBytes: 1_000_000 })
})
afterEach(() => rm(root, { recursive: true }))

const take = (path: string): ReturnType<ArtifactFolder['take']> =>
  files.take(id, { kind: 'file', folder: { host: output, worker: '/output' }, path })

describe('taking a file', () => {
  test.each(['a/picture.png', '/output/a/picture.png', './a/../a/picture.png'])(
    'copies %s and tells its hash',
    async (path) => {
      const bytes = Buffer.alloc(300_000, 'abc')
      await mkdir(join(output, 'a'))
      await writeFile(join(output, 'a/picture.png'), bytes)
      expect(await take(path)).toEqual({
        status: 'taken',
        bytes: 300_000,
        sha256: createHash('sha256').update(bytes).digest('hex'),
      })
      const found = await files.find(id)
      expect(found?.bytes).toBe(300_000)
      expect(bytes.equals(await readFile(found?.path ?? ''))).toBe(true)
    },
  )

  test('keeps the copy when the worker changes its file', async () => {
    await writeFile(join(output, 'a'), 'first')
    await take('a')
    await writeFile(join(output, 'a'), 'second')
    expect(await readFile((await files.find(id))?.path ?? '', 'utf8')).toBe('first')
  })

  test.each(['../secret', '/etc/passwd', '/output/../secret', '', '.', 'a\0b', '/outputs/x'])(
    'refuses the path %j',
    async (path) => {
      await writeFile(join(root, 'secret'), 'x')
      expect(await take(path)).toMatchObject({ status: 'refused' })
      expect(await files.find(id)).toBeNull()
    },
  )

  test('refuses links that lead out, in the last place and before', async () => {
    await writeFile(join(root, 'secret'), 'x')
    await symlink(join(root, 'secret'), join(output, 'link'))
    await symlink(root, join(output, 'folder'))
    expect(await take('link')).toMatchObject({
      status: 'refused',
      message: expect.stringContaining('outside') as string,
    })
    expect(await take('folder/secret')).toMatchObject({
      status: 'refused',
      message: expect.stringContaining('outside') as string,
    })
  })

  test('refuses what is no plain file, without waiting on it', async () => {
    await mkdir(join(output, 'folder'))
    execFileSync('mkfifo', [join(output, 'pipe')])
    expect(await take('folder')).toMatchObject({ status: 'refused' })
    expect(await take('pipe')).toMatchObject({ status: 'refused' })
    expect(await take('missing')).toMatchObject({
      status: 'refused',
      message: 'There is no file "missing" in the output folder.',
    })
  })

  test('refuses a folder in whose place the worker has put a link', async () => {
    await writeFile(join(root, 'secret'), 'x')
    await rm(output, { recursive: true })
    await symlink(root, output)
    expect(await take('secret')).toMatchObject({ status: 'refused' })
    expect(await files.find(id)).toBeNull()
  })

  test('follows links that stay inside', async () => {
    await mkdir(join(output, 'step-1000'))
    await writeFile(join(output, 'step-1000/weights'), 'x')
    await symlink('step-1000', join(output, 'latest'))
    expect(await take('latest/weights')).toMatchObject({ status: 'taken', bytes: 1 })
  })

  test('takes a file with two names, as trainings make their latest checkpoint', async () => {
    await writeFile(join(output, 'step-1000'), 'x')
    await link(join(output, 'step-1000'), join(output, 'latest'))
    expect(await take('latest')).toMatchObject({ status: 'taken', bytes: 1 })
  })

  test('finds no file whose name is no text', async () => {
    await writeFile(Buffer.concat([Buffer.from(`${output}/`), Buffer.from([0xff, 0x61])]), 'x')
    expect(await take('\ufffda')).toMatchObject({ status: 'refused' })
  })

  test('refuses links that go in a circle, devices and sockets', async () => {
    await symlink('circle', join(output, 'circle'))
    await symlink('/dev/zero', join(output, 'zero'))
    await symlink('/proc/self/environ', join(output, 'environ'))
    const server = createServer().listen(join(output, 'socket'))
    await once(server, 'listening')
    try {
      for (const path of ['circle', 'zero', 'environ', 'socket'])
        expect(await take(path)).toMatchObject({ status: 'refused' })
    } finally {
      server.close()
    }
    expect(await files.find(id)).toBeNull()
  })

  test.each([
    ['a name longer than names can be', 'x'.repeat(300)],
    ['a path longer than paths can be', 'a/'.repeat(3_000)],
    ['another way to write a dot', '\uff0e\uff0e/secret'],
    ['backslashes', '..\\secret'],
    ['an encoded slash', '..%2fsecret'],
  ])('refuses %s, and says so in a few words', async (_what, path) => {
    await writeFile(join(root, 'secret'), 'x')
    const taken = await take(path)
    expect(taken).toMatchObject({ status: 'refused' })
    expect(JSON.stringify(taken).length).toBeLessThan(400)
  })

  test.each([
    ['control characters', 'a\n\u001b[2Jb', '"a\\n\\u001b[2Jb"'],
    ['marks of direction', 'photo\u202egpj.exe', '"photo\\u202egpj.exe"'],
  ])('takes a file with %s in its name, and shows them where there is none', async (_what, path, shown) => {
    expect(await take(path)).toMatchObject({
      status: 'refused',
      message: `There is no file ${shown} in the output folder.`,
    })
    await writeFile(join(output, path), 'x')
    expect(await take(path)).toMatchObject({ status: 'taken' })
  })

  test(
    'takes nothing from outside while the worker swaps a folder for a link',
    { timeout: 30_000 },
    async () => {
      await writeFile(join(root, 'file'), 'outside')
      await mkdir(join(output, 'folder'))
      await writeFile(join(output, 'folder/file'), 'inside')
      const swapping = spawn(process.execPath, ['-e', SWAP, 'folder', root], { cwd: output, stdio: 'ignore' })
      try {
        const seen = { taken: 0, refused: 0 }
        const contents = new Set<string>()
        await vi.waitFor(
          async () => {
            const { status } = await take('folder/file')
            seen[status]++
            if (status === 'taken') contents.add(await readFile((await files.find(id))?.path ?? '', 'utf8'))
            if (seen.taken < 50 || seen.refused < 50) throw new Error('not often enough yet')
          },
          { interval: 0, timeout: 20_000 },
        )
        expect([...contents]).toEqual(['inside'])
      } finally {
        swapping.kill('SIGKILL')
        await once(swapping, 'exit')
      }
    },
  )

  test('refuses a file that is too large, and leaves nothing of it', async () => {
    await writeFile(join(output, 'large'), Buffer.alloc(1_000_001))
    expect(await take('large')).toMatchObject({
      status: 'refused',
      message: expect.stringContaining('1000000') as string,
    })
    expect(await readdir(join(root, 'kept'))).toEqual([])
  })
})

test('refuses data that is not base64', async () => {
  expect(await files.take(id, { kind: 'data', data: '!!! no base64' })).toMatchObject({ status: 'refused' })
})

test('takes small data from the event itself, and removes it again', async () => {
  const data = Buffer.from('hello').toString('base64')
  expect(await files.take(id, { kind: 'data', data })).toMatchObject({ status: 'taken', bytes: 5 })
  await files.remove(id)
  expect(await files.find(id)).toBeNull()
})

describe('strays', () => {
  const never = new AbortController().signal
  const data = Buffer.from('hello').toString('base64')
  const known =
    (...ids: string[]) =>
    (asked: readonly ArtifactId[]) =>
      Promise.resolve(new Set(asked.filter((id) => ids.includes(id))))

  test('are the files of an earlier process that nobody knows, whole or cut off', async () => {
    const kept = join(root, 'kept')
    for (let n = 0; n < 1_200; n++) await writeFile(join(kept, `stray-${n}`), 'x')
    await writeFile(join(kept, 'stray-cut.partial'), 'x')
    await writeFile(join(kept, 'known'), 'x')
    // The copy was cut off before the one that was announced.
    await writeFile(join(kept, 'known.partial'), 'x')
    expect(await files.removeStrays(known('known'), never)).toBe(1_202)
    expect(await readdir(kept)).toEqual(['known'])
  })

  test('are not what this process has taken, before or meanwhile', async () => {
    const early = 'early' as ArtifactId
    const late = 'late' as ArtifactId
    await writeFile(join(root, 'kept', 'stray'), 'x')
    await files.take(early, { kind: 'data', data })
    const removed = await files.removeStrays(async () => {
      await files.take(late, { kind: 'data', data })
      return new Set()
    }, never)
    expect(removed).toBe(1)
    expect(await files.removeStrays(known(), never)).toBe(0)
    expect((await readdir(join(root, 'kept'))).sort()).toEqual(['early', 'late'])
  })
})

describe('a file that comes in pieces', () => {
  async function* pieces(...texts: readonly string[]): AsyncGenerator<Buffer, void> {
    for (const text of texts) yield await Promise.resolve(Buffer.from(text))
  }

  test('is kept whole, read-only, with its hash, and is found under a second name without being there twice', async () => {
    const sha256 = createHash('sha256').update('one two').digest('hex')
    expect(await files.receive(id, pieces('one ', 'two'))).toEqual({ bytes: 7, sha256 })
    const kept = join(root, 'kept', id)
    expect((await stat(kept)).mode & 0o777).toBe(0o444)
    const second = join(root, 'second name')
    await files.place(id, second)
    await files.place(id, second)
    expect((await stat(second)).ino).toBe((await stat(kept)).ino)
    await files.remove(id)
    expect(await readFile(second, 'utf8')).toBe('one two')
  })

  test('leaves nothing where it breaks off, and throws why', async () => {
    async function* broken(): AsyncGenerator<Buffer, void> {
      yield* pieces('one')
      throw new Error('the client is gone')
    }
    await expect(files.receive(id, broken())).rejects.toThrow('the client is gone')
    expect(await readdir(join(root, 'kept'))).toEqual([])
    expect(await files.missing([id])).toEqual([id])
    await expect(files.place(id, join(root, 'second'))).rejects.toThrow('ENOENT')
  })

  test('is no stray while it is under way', async () => {
    let go = (): void => undefined
    const held = new Promise<void>((resolve) => (go = resolve))
    async function* slow(): AsyncGenerator<Buffer, void> {
      yield Buffer.from('x')
      await held
    }
    const received = files.receive(id, slow())
    await vi.waitFor(async () => {
      expect(await readdir(join(root, 'kept'))).toEqual([`${id}.partial`])
    })
    const { signal } = new AbortController()
    expect(await files.removeStrays(() => Promise.resolve(new Set()), signal)).toBe(0)
    go()
    expect(await received).toMatchObject({ bytes: 1 })
  })
})
