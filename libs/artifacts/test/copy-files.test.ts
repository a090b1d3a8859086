import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { artifactsWithoutFile, copyArtifactFiles } from '../src/index.ts'

/** Another disk than that of the temporary folder, on Linux. */
const MEMORY = '/dev/shm'
const isOtherDisk = await Promise.all([stat(MEMORY), stat(tmpdir())]).then(
  ([memory, temporary]) => memory.dev !== temporary.dev,
  () => false,
)

describe.each([
  ['on the same disk', tmpdir(), false],
  ['on another disk', MEMORY, !isOtherDisk],
])('artifacts copied to a folder %s', (_where, place, isSkipped) => {
  let from: string
  let to: string
  beforeEach(async () => {
    if (isSkipped) return
    from = await mkdtemp(join(tmpdir(), 'artifacts-'))
    to = await mkdtemp(join(place, 'artifacts-copy-'))
    await writeFile(join(from, 'one'), 'first', { mode: 0o600 })
  })
  afterEach(async () => {
    if (isSkipped) return
    await rm(from, { recursive: true })
    await rm(to, { recursive: true })
  })

  it.skipIf(isSkipped)('outlive their originals, and are added to by the next copy', async () => {
    await copyArtifactFiles(from, to)
    await rm(join(from, 'one'))
    await writeFile(join(from, 'two'), 'second')
    await copyArtifactFiles(from, to)
    expect((await readdir(to)).sort()).toEqual(['one', 'two'])
    expect(await readFile(join(to, 'one'), 'utf8')).toBe('first')
    expect((await stat(join(to, 'one'))).mode & 0o777).toBe(0o600)
    expect(artifactsWithoutFile(to, ['one', 'three', 'two'])).toEqual(['three'])
  })

  it.skipIf(isSkipped)('are whole ones only', async () => {
    await writeFile(join(from, 'half.partial'), 'ha')
    await copyArtifactFiles(from, to)
    expect(await readdir(to)).toEqual(['one'])
  })
})
