import { createHash } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ArtifactId } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openArtifactFiles, type ArtifactFolder } from '../src/index.ts'

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
