import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import Docker from 'dockerode'
import { describe, expect, test } from 'vitest'
import { BASE_IMAGE, BUSYBOX_IMAGE, ensureTestImage } from '../src/images.ts'
import { privateEngineObstacle, startPrivateEngine } from '../src/private-engine.ts'

const SCRIPT = join(import.meta.dirname, '../../base-images/base-images.mjs')

function makeBaseImages(dockerHost: string, args: readonly string[] = []) {
  const env = { ...process.env, DOCKER_HOST: dockerHost }
  return spawnSync(process.execPath, [SCRIPT, ...args], { encoding: 'utf8', env })
}

test('without an engine base-images says so in one line', () => {
  const { status, stderr } = makeBaseImages('unix:///nowhere/docker.sock')
  expect(status).toBe(1)
  expect(stderr.trim().split('\n')).toHaveLength(1)
  expect(stderr).toContain('No Docker engine answers at unix:///nowhere/docker.sock')
})

describe.skipIf(privateEngineObstacle() !== null)('base-images', { timeout: 60_000 }, () => {
  test('leaves an image alone that is there under the name', async () => {
    await using engine = await startPrivateEngine()
    const docker = new Docker({ socketPath: engine.dockerHost.slice('unix://'.length) })
    await ensureTestImage(engine.dockerHost, BUSYBOX_IMAGE)
    const present = docker.getImage(BUSYBOX_IMAGE)
    const [repo = '', tag = ''] = BASE_IMAGE.split(':')
    await present.tag({ repo, tag })

    const { status, stdout } = makeBaseImages(engine.dockerHost, [BASE_IMAGE])
    expect(stdout).toContain(`${BASE_IMAGE}: is there already`)
    expect(status).toBe(0)
    expect((await docker.getImage(BASE_IMAGE).inspect()).Id).toBe((await present.inspect()).Id)
  })

  test('names the images that it can make when asked for another', async () => {
    await using engine = await startPrivateEngine()
    const { status, stderr } = makeBaseImages(engine.dockerHost, ['ubuntu:latest'])
    expect(status).toBe(1)
    expect(stderr).toContain('no recipe for ubuntu:latest')
    expect(stderr).toContain(BASE_IMAGE)
  })
})
