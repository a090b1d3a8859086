import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { WorkerPackage } from '@gpu-service/process-runner'
import {
  BUSYBOX_IMAGE,
  clientOf,
  ensureTestImage,
  type PrivateEngine,
  privateEngineObstacle,
  startPrivateEngine,
} from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type DeployOptions, deployWorker } from '../src/index.ts'
import { type SshServer, startSshServer } from './ssh-server.ts'

const IMAGE = 'deployed-worker:latest'
const MB = 1_000_000

describe.skipIf(privateEngineObstacle() !== null)('a worker gets to a server by ssh', () => {
  let folder: string
  let here: PrivateEngine
  let there: PrivateEngine
  let ssh: SshServer
  let worker: WorkerPackage

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kit-deploy-'))
    ;[here, there] = await Promise.all([startPrivateEngine(), startPrivateEngine()])
    ssh = await startSshServer(there.dockerHost)
    vi.stubEnv('DOCKER_HOST', here.dockerHost)
    vi.stubEnv('DOCKER_BUILDKIT', '0')
    vi.stubEnv('XDG_CACHE_HOME', join(folder, 'cache'))
    // Both have the same base image, as they would after a pull.
    await ensureTestImage(here.dockerHost, BUSYBOX_IMAGE)
    const base = await clientOf(here.dockerHost).getImage(BUSYBOX_IMAGE).get()
    await text(await clientOf(there.dockerHost).loadImage(base))
    const source = join(folder, 'deployed-worker')
    await mkdir(source)
    worker = { name: 'deployed-worker', image: IMAGE, description: null, folder: source, localCommand: null }
    await writeFile(
      join(source, 'Dockerfile'),
      `FROM ${BUSYBOX_IMAGE}\nCOPY weights /weights\nCMD ["true"]\n`,
    )
    await writeFile(join(source, 'weights'), randomBytes(12 * MB))
    await writeFile(
      join(source, 'build.sh'),
      `#!/bin/sh\nset -e\ndocker build --network none -t ${IMAGE} .\n`,
    )
    await chmod(join(source, 'build.sh'), 0o755)
    await writeFile(
      join(source, 'presets.yaml'),
      `models:\n  new:\n    run:\n      docker_image: '${IMAGE}'\n`,
    )
    build()
  }, 120_000)
  afterAll(async () => {
    vi.unstubAllEnvs()
    await ssh[Symbol.asyncDispose]()
    await Promise.all([here, there].map((engine) => engine[Symbol.asyncDispose]()))
    await rm(folder, { recursive: true })
  })

  function build(): void {
    execFileSync(join(worker.folder, 'build.sh'), { cwd: worker.folder, stdio: ['ignore', 'ignore', 'pipe'] })
  }

  async function deploy(options: Partial<DeployOptions> = {}): Promise<{ said: string; sentMb: number }> {
    const lines: string[] = []
    await deployWorker(worker, {
      host: 'server',
      sshConfig: ssh.config,
      buildThere: false,
      folder: join(ssh.home, 'workers'),
      presetsFile: null,
      print: (line) => lines.push(line),
      signal: new AbortController().signal,
      ...options,
    })
    return { said: lines.join('\n'), sentMb: Number(/\(([\d.]+) MB sent\)/.exec(lines[0] ?? '')?.[1]) }
  }

  const idOn = async (engine: PrivateEngine) =>
    (await clientOf(engine.dockerHost).getImage(IMAGE).inspect()).Id

  test('as an image: after a cut the rest of the missing layer is sent, and then nothing more', async () => {
    await expect(deploy({ host: 'cut' })).rejects.toThrow('the next try goes on where it ended')
    // The server's rsync puts away what it has got when it sees that the line is broken.
    await expect
      .poll(() => readdir(join(ssh.home, 'workers/.images'), { recursive: true }), { timeout: 20_000 })
      .toContainEqual(expect.stringMatching(/\.partial\/.+/))

    const first = await deploy()
    expect(first.said).toContain(`${IMAGE} on server: is there now`)
    expect(first.sentMb).toBeLessThan(11)
    expect(first.sentMb).toBeGreaterThan(6)
    expect(await idOn(there)).toBe(await idOn(here))
    // Neither side keeps files of it.
    expect(await readdir(join(ssh.home, 'workers/.images'))).toEqual([])
    expect(await readdir(join(folder, 'cache/gpu-service/deploy'))).toEqual([])

    expect(await deploy()).toEqual({ said: `${IMAGE} on server: was there already (0.0 MB sent)`, sentMb: 0 })
    await clientOf(there.dockerHost).getImage(IMAGE).tag({ repo: 'other', tag: 'name' })
    await clientOf(there.dockerHost).getImage(IMAGE).remove()
    expect((await deploy()).said).toContain('was there under another name')
    expect(await idOn(there)).toBe(await idOn(here))
  })

  test('as an image of which only the last layer is new: the others stay here', async () => {
    await deploy()
    await writeFile(
      join(worker.folder, 'Dockerfile'),
      `FROM ${BUSYBOX_IMAGE}\nCOPY weights /weights\nCOPY build.sh /build.sh\nCMD ["true"]\n`,
    )
    build()
    expect((await deploy()).sentMb).toBeLessThan(0.2)
    expect(await idOn(there)).toBe(await idOn(here))
  })

  test('as a folder that is built there, once', async () => {
    await clientOf(there.dockerHost).getImage(IMAGE).remove({ force: true })
    expect(await deploy({ buildThere: true })).toMatchObject({
      said: expect.stringContaining('is there now') as string,
    })
    await idOn(there)
    expect((await deploy({ buildThere: true })).said).toContain('was there already')
    await writeFile(join(worker.folder, 'notes.txt'), 'changed')
    const { said, sentMb } = await deploy({ buildThere: true })
    expect(said).toContain('is there now')
    expect(sentMb).toBeLessThan(0.1)
    await clientOf(there.dockerHost).getImage(IMAGE).remove({ force: true })
    expect((await deploy({ buildThere: true })).said).toContain('is there now')
  })

  test('and into the presets there, which keep their layout; a broken preset is not written', async () => {
    const file = join(ssh.home, 'model presets.yaml')
    const before = '# ours\nmodels:\n    old:\n        run: {docker_image: "old"}\n'
    await writeFile(file, before)
    const { said } = await deploy({ presetsFile: file })
    expect(said).toContain(`Added new/run to ${file} on server`)
    expect(await readFile(file, 'utf8')).toBe(
      `${before}    new:\n      run:\n        docker_image: '${IMAGE}'\n`,
    )
    expect((await deploy({ presetsFile: file })).said).toContain('new/run is in')

    await writeFile(join(worker.folder, 'presets.yaml'), 'models: { bad: { run: { image: x } } }\n')
    await expect(deploy({ presetsFile: file })).rejects.toThrow('models.bad.run.image: unknown key')
    expect(await readdir(ssh.home)).not.toContain('model presets.yaml.draft')
  })

  test('a server that is not there, and an image that is not here, are said', async () => {
    await expect(deploy({ host: 'nowhere.invalid' })).rejects.toThrow(/nowhere\.invalid: .*resolve/)
    worker = { ...worker, image: 'never-built:latest' }
    await expect(deploy()).rejects.toThrow('There is no image never-built:latest here: build it first')
  })
})
