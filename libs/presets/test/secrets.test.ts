import { execFileSync } from 'node:child_process'
import { chmod, mkdir, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger, SecretReference } from '@gpu-service/tasks'
import { silentLogger } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import { createSecretSources } from '../src/index.ts'
import { issuesOf, presetFileWith, presetsFolder, presetWith } from './presets-folder.ts'

const CANARY = 'canary-51c2-do-not-tell'

describe('the secrets of a preset', () => {
  it('are references, in the order of their names', async () => {
    const keys = 'secrets: {b.key: /srv/secrets/b, A: env:WORKER_SECRET_A}'
    expect((await presetWith(keys, { secretRoots: ['/srv/secrets'] })).spec.secrets).toEqual([
      { name: 'A', from: 'variable', source: 'WORKER_SECRET_A' },
      { name: 'b.key', from: 'file', source: '/srv/secrets/b' },
    ])
  })

  it.each([
    ['env:PATH', 'only variables of the service whose names begin with WORKER_SECRET_'],
    ['/etc/shadow', 'it is outside of the folders that may hold secrets (/srv/secrets)'],
    ['/srv/secrets-of-others/x', 'it is outside of the folders that may hold secrets'],
  ])('may not come from %s', async (source, says) => {
    const issues = await issuesOf(presetFileWith(`secrets: {a: "${source}"}`), {
      secretRoots: ['/srv/secrets'],
    })
    expect(issues).toEqual([expect.stringMatching(/^5:20 models\.m\.k\.secrets\.a: /)])
    expect(issues[0]).toContain(says)
  })

  it('may come from no file where no folder is allowed', async () => {
    expect(await issuesOf(presetFileWith('secrets: {a: /srv/x}'))).toEqual([
      expect.stringContaining('SECRET_ROOTS is empty'),
    ])
  })

  it('may not leave the folders by a link', async () => {
    await using host = await presetsFolder()
    await mkdir(join(host.path, 'secrets'))
    await writeFile(join(host.path, 'outside'), CANARY)
    await symlink(join(host.path, 'outside'), join(host.path, 'secrets', 'link'))
    const file = presetFileWith(`secrets: {a: ${host.path}/secrets/link}`)
    expect(await issuesOf(file, { secretRoots: [join(host.path, 'secrets')] })).toEqual([
      expect.stringContaining('it is outside of the folders'),
    ])
  })

  it.each([CANARY, `/${CANARY}/../x`, `env:${CANARY}`, `[${CANARY}]`, `{x: ${CANARY}}`, '1234567890123'])(
    'are never shown where the value %s itself stands in their place',
    async (value) => {
      const issues = await issuesOf(presetFileWith(`secrets: {a: ${value}}`), {
        secretRoots: ['/srv/secrets'],
      })
      expect(issues).toEqual([expect.stringContaining('secrets.a: expected the absolute path of a file')])
      expect(issues.join()).not.toMatch(/canary|1234567890123/)
    },
  )

  it('are at most 32', async () => {
    const many = Array.from({ length: 33 }, (_, n) => `s${n}: env:WORKER_SECRET_${n}`).join(', ')
    expect(await issuesOf(presetFileWith(`secrets: {${many}}`))).toEqual([
      expect.stringContaining('names 33 secrets; there may be 32'),
    ])
  })

  it('are warned of when they are not there, or everybody may read them, but are read when they are needed', async () => {
    await using folder = await presetsFolder()
    await writeFile(join(folder.path, 'open'), CANARY)
    await chmod(join(folder.path, 'open'), 0o644)
    await folder.write(
      presetFileWith(
        `secrets: {open: ${folder.path}/open, absent: ${folder.path}/absent, unset: env:WORKER_SECRET_X}`,
      ),
    )
    const told: [object, string][] = []
    const logger: Logger = { ...silentLogger, warn: (fields, message) => told.push([fields, message]) }
    const catalog = await folder.open({ secretRoots: [folder.path], logger })
    expect(catalog.issues()).toEqual([])
    expect(told).toMatchObject(
      [
        [{ secret: 'absent', reason: 'there is no file of that name.' }, /cannot be read \(yet\)/],
        [{ secret: 'open', source: join(folder.path, 'open') }, /can be read by every user/],
        [
          { secret: 'unset', source: 'env:WORKER_SECRET_X', reason: 'the variable is not set.' },
          /cannot be read/,
        ],
      ].map(([fields, message]) => [fields, expect.stringMatching(message as RegExp) as unknown]),
    )
    expect(JSON.stringify(told)).not.toContain(CANARY)
  })
})

describe('reading a secret', () => {
  it('gives the bytes of the file as they are now, through links that stay inside', async () => {
    await using host = await presetsFolder()
    await mkdir(join(host.path, 'secrets/..data'), { recursive: true })
    const bytes = Buffer.from([0, 255, 10, 1])
    await writeFile(join(host.path, 'secrets/..data/token'), bytes)
    await symlink('..data/token', join(host.path, 'secrets/token'))
    await symlink(join(host.path, 'secrets'), join(host.path, 'root'))
    const reading = await read('file', join(host.path, 'secrets/token'), [join(host.path, 'root')])
    expect(reading.status === 'read' && Buffer.from(reading.secret.reveal())).toEqual(bytes)
  })

  it('gives a variable of the service, of the allowed beginning alone', async () => {
    const env = { WORKER_SECRET_A: CANARY, WORKER_SECRET_EMPTY: '', DATABASE_PASSWORD: 'x' }
    const sources = createSecretSources({ secretRoots: [], secretEnvPrefix: 'WORKER_SECRET_', env })
    const from = (source: string) => sources.read({ name: 'a', from: 'variable', source })
    const reading = await from('WORKER_SECRET_A')
    expect(reading.status === 'read' && Buffer.from(reading.secret.reveal()).toString()).toBe(CANARY)
    expect(await from('WORKER_SECRET_EMPTY')).toEqual({
      status: 'refused',
      message: 'the variable is not set.',
    })
    expect(await from('DATABASE_PASSWORD')).toMatchObject({ status: 'refused' })
  })

  it('refuses what is outside, missing, empty, too large, or no file, without waiting on it', async () => {
    await using host = await presetsFolder()
    const inside = (name: string) => join(host.path, 'secrets', name)
    await mkdir(inside('folder'), { recursive: true })
    await writeFile(join(host.path, 'outside'), CANARY)
    await symlink(join(host.path, 'outside'), inside('link'))
    await symlink('/dev/zero', inside('device'))
    await symlink('loop', inside('loop'))
    await writeFile(inside('empty'), '')
    await writeFile(inside('large'), Buffer.alloc(65_537))
    execFileSync('mkfifo', [inside('pipe')])
    const messages = await Promise.all(
      ['link', 'device', 'loop', 'absent', 'empty', 'large', 'pipe', 'folder'].map(async (name) => {
        const reading = await read('file', inside(name), [join(host.path, 'secrets')])
        return reading.status === 'refused' ? reading.message : reading.status
      }),
    )
    const outside = expect.stringContaining('it is outside of the folders') as unknown
    expect(messages).toEqual([
      outside,
      outside,
      'its symbolic links go in a circle.',
      'there is no file of that name.',
      'it is empty.',
      'it is larger than 65536 bytes.',
      'it is not a regular file.',
      'it is not a regular file.',
    ])
  })

  function read(from: SecretReference['from'], source: string, secretRoots: readonly string[]) {
    const sources = createSecretSources({ secretRoots, secretEnvPrefix: 'WORKER_SECRET_', env: {} })
    return sources.read({ name: 'a', from, source })
  }
})
