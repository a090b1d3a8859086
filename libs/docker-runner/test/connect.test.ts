import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { connectDocker } from '../src/engine.ts'

/** docker-modem knows where it turns to, but does not tell in its types. */
function targetOf(dockerHost?: string): Record<string, unknown> {
  const { modem }: { modem: object } = connectDocker(dockerHost)
  return Object.fromEntries(
    ['protocol', 'host', 'port', 'socketPath', 'cert', 'key'].map((key) => {
      const value: unknown = Reflect.get(modem, key)
      return [key, Buffer.isBuffer(value) ? value.toString() : value]
    }),
  )
}

describe('the address of an engine', () => {
  afterEach(() => {
    vi.unstubAllEnvs()
  })

  it.each([
    ['tcp://engine.example', 'http', 2375],
    ['tcp://engine.example:1', 'http', '1'],
    ['http://engine.example:80', 'http', '80'],
    ['https://engine.example', 'https', 2376],
    ['https://engine.example:443', 'https', '443'],
  ])('%s is one of %s at port %s, also as DOCKER_HOST', (dockerHost, protocol, port) => {
    vi.stubEnv('DOCKER_HOST', 'unix:///elsewhere.sock')
    expect(targetOf(dockerHost)).toMatchObject({ protocol, host: 'engine.example', port })
    vi.stubEnv('DOCKER_HOST', dockerHost)
    expect(targetOf(dockerHost)).toMatchObject({ protocol, host: 'engine.example', port })
    expect(targetOf()).toMatchObject({ protocol, host: 'engine.example', port })
  })

  it('is taken with the certificates of the environment where it is that of DOCKER_HOST', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'certificates-'))
    try {
      await writeFile(join(folder, 'ca.pem'), '-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n')
      for (const name of ['cert', 'key']) await writeFile(join(folder, `${name}.pem`), `the ${name}`)
      vi.stubEnv('DOCKER_CERT_PATH', folder)
      vi.stubEnv('DOCKER_TLS_VERIFY', '1')
      for (const dockerHost of ['tcp://engine.example', 'https://engine.example']) {
        vi.stubEnv('DOCKER_HOST', dockerHost)
        const expected = {
          protocol: 'https',
          host: 'engine.example',
          port: 2376,
          cert: 'the cert',
          key: 'the key',
        }
        expect(targetOf(dockerHost)).toMatchObject(expected)
      }
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  it('that is a socket is used whatever DOCKER_HOST says', () => {
    vi.stubEnv('DOCKER_HOST', 'tcp://engine.example:2376')
    expect(targetOf('unix:///here.sock')).toMatchObject({
      protocol: 'http',
      host: undefined,
      socketPath: '/here.sock',
    })
  })

  it('is refused where it is of another kind', () => {
    expect(() => connectDocker('ftp://engine.example')).toThrow(/must begin with unix:/)
  })
})
