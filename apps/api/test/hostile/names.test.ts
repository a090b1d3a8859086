import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, normalize } from 'node:path'
import { openArtifactFiles } from '@gpu-service/artifacts'
import { openPresetCatalog } from '@gpu-service/presets'
import { type ArtifactId, type ArtifactSource, silentLogger } from '@gpu-service/tasks'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CONNECTED, FINISHED, script } from '../e2e/scripts.ts'
import { TestService } from '../e2e/service.ts'
import { NO_ARTIFACTS, startWorld } from '../server/harness.ts'
import { RawConnection } from './raw-connection.ts'

const UPWARDS = [
  ...['..', '%2e%2e', '%252e%252e', '.%2e', '..%00', '%c0%ae%c0%ae', '..;', '....', '. .', '.. ', '..\0'],
  ...['\u2025', '\uff0e\uff0e', '\u2024\u2024', '..\u200b', '..\u202e', '\ud800..'],
]
const SEPARATORS = ['/', '\\', '%2f', '%5c', '//', '/./', '%c0%af', '\u2215', '\u2044', '\uff0f', '\u29f8']
const LOOSE = [
  ...['/secret', '//secret', '/proc/self/environ', '/dev/stdin', '/output/../secret', '/outputs/../secret'],
  ...['file:///secret', 'C:\\secret', '\\\\host\\share\\secret', '~/secret', '$HOME/secret', '`id`', '$(id)'],
  ...['link', 'link/', 'folder/secret', 'folder/../../secret', './../secret', 'a/../../secret', '-rf', '--'],
  ...['.', '..', './', '../', '', ' ', '\n', 'a\nb', 'a\r\nSet-Cookie: x', 'secret\0.txt', '\0', '\ud800'],
  ...[
    'x'.repeat(4_096),
    'a/'.repeat(2_048),
    '../'.repeat(500),
    '__proto__',
    'constructor',
    '*',
    '?',
    '[a-z]',
  ],
]
/** Ways to say a file called `secret` that lies outside, and other names that lead somewhere. */
const NAMES = [
  ...UPWARDS.flatMap((up) => SEPARATORS.map((separator) => `${up}${separator}secret`)),
  ...UPWARDS.map((up) => `a/${up}/${up}/secret`),
  ...LOOSE,
]

let folder: string
beforeAll(async () => {
  expect(NAMES.length).toBeGreaterThan(200)
  folder = await mkdtemp(join(tmpdir(), 'names-'))
  await writeFile(join(folder, 'secret'), 'the secret')
  await mkdir(join(folder, 'output/a'), { recursive: true })
  await symlink(join(folder, 'secret'), join(folder, 'output/link'))
  await symlink(folder, join(folder, 'output/folder'))
})
afterAll(() => rm(folder, { recursive: true }))

describe('no name leads out of its folder', () => {
  test('of a file that a worker announces', async () => {
    const files = await openArtifactFiles({ folder: join(folder, 'kept'), maxBytes: 1_000 })
    for (const path of NAMES) {
      const at = { host: join(folder, 'output'), worker: '/output' }
      const source: ArtifactSource = { kind: 'file', path, folder: at }
      expect(await files.take('one' as ArtifactId, source), path).toMatchObject({ status: 'refused' })
    }
    expect(await readdir(join(folder, 'kept'))).toEqual([])
  })

  test('that an artifact is offered under', async () => {
    await using world = await startWorld({
      artifacts: {
        ...NO_ARTIFACTS,
        open: (id) =>
          Promise.resolve({
            ...{ path: join(folder, 'secret'), name: NAMES[Number(id)] ?? '', mediaType: 'text/plain' },
            sha256: '00',
          }),
      },
    })
    for (const index of NAMES.keys()) {
      const response = await fetch(new URL(`/artifacts/${index}`, world.server.url))
      expect(response.status).toBe(200)
      expect(response.headers.get('set-cookie')).toBeNull()
      expect(response.headers.get('content-disposition')).toMatch(
        /^attachment; filename="[\w.+ -]*"; filename\*=UTF-8''[\w.~!%-]*$/,
      )
      await response.text()
    }
  })

  test('of a model, a volume, and a secret of a preset', async () => {
    const modelsDir = join(folder, 'models')
    await mkdir(modelsDir)
    const file = join(folder, 'presets.json')
    for (const name of NAMES) {
      const written = JSON.stringify(name)
      const open = async (keys: string) => {
        await writeFile(file, `{"models":{"m":{"k":{"docker_image":"x",${keys}}}}}`)
        await using catalog = await openPresetCatalog({
          ...{ file, modelsDir, volumeRoots: [join(folder, 'output')], logger: silentLogger },
          ...{ secretRoots: [join(folder, 'output')], secretEnvPrefix: 'NONE_', env: {} },
        })
        return { issues: catalog.issues().length, spec: catalog.presets()[0]?.spec }
      }
      const { spec } = await open(`"model_path":${written}`)
      const path = spec?.modelPath ?? 'nothing'
      expect(normalize(join(modelsDir, path)).startsWith(`${modelsDir}/`), name).toBe(true)
      const source = JSON.stringify(`${folder}/output/${name}`)
      const volume = await open(`"volumes":[{"source":${source},"target":"/sets"}]`)
      // What is left of some of them is the allowed folder itself, or what is in it.
      for (const each of volume.spec?.volumes ?? [])
        expect(`${each.source}/`.startsWith(`${folder}/output/`), name).toBe(true)
      expect((await open(`"secrets":{${written}:"env:NONE_X"}`)).spec?.secrets ?? [], name).toEqual(
        /^[A-Za-z0-9][\w.-]{0,63}$/.test(name) ? [expect.anything()] : [],
      )
    }
  })

  test('that somebody asks for', async () => {
    await using service = await TestService.start({
      runner: 'process',
      presets: { short: script(`${CONNECTED}; ${FINISHED}`) },
    })
    const port = Number(new URL(service.url).port)
    for (const [index, name] of NAMES.entries()) {
      // As it is where a request can hold it, and encoded.
      const plain = /^[\x21-\x7e]*$/.test(name) ? [name] : []
      for (const each of new Set([...plain, encodeURIComponent(Buffer.from(name).toString())])) {
        const all = [`/artifacts/${each}`, `/export/tasks/${each}/bundle`, `/export/events?task=${each}`]
        const path = all[index % all.length] ?? ''
        using connection = new RawConnection({ port })
        connection.say(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)
        await connection.closed
        expect(connection.received.slice(0, 12), path).toMatch(/^HTTP\/1\.1 (400|404|414)$/)
        expect(connection.received).not.toContain('the secret')
      }
    }
    expect(service.output).not.toContain('unexpectedly')
  })
})
