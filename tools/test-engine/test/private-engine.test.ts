import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import Docker from 'dockerode'
import { describe, expect, test, vi } from 'vitest'
import { BUSYBOX_IMAGE, ensureTestImage } from '../src/images.ts'
import { leaksSince, takeSnapshot } from '../src/leaks.ts'
import { type PrivateEngine, privateEngineObstacle, startPrivateEngine } from '../src/private-engine.ts'

function clientOf({ dockerHost }: PrivateEngine): Docker {
  return new Docker({ socketPath: dockerHost.slice('unix://'.length) })
}

function folderOf(dockerHost: string): string {
  return dirname(dockerHost.slice('unix://'.length))
}

async function startSleeper(engine: PrivateEngine, labels: Record<string, string> = {}): Promise<string> {
  await ensureTestImage(engine.dockerHost, BUSYBOX_IMAGE)
  const container = await clientOf(engine).createContainer({
    Image: BUSYBOX_IMAGE,
    name: 'sleeper',
    Cmd: ['sleep', '3600'],
    Labels: labels,
    StopTimeout: 1,
    HostConfig: { NetworkMode: 'none' },
  })
  await container.start()
  return container.id
}

async function isRunning(engine: PrivateEngine, id: string): Promise<boolean> {
  return (await clientOf(engine).getContainer(id).inspect()).State.Running
}

function commandLines(): string[] {
  return readdirSync('/proc').flatMap((pid) => {
    try {
      return /^\d+$/.test(pid) ? [readFileSync(`/proc/${pid}/cmdline`, 'utf8')] : []
    } catch {
      // It has ended meanwhile.
      return []
    }
  })
}

function processesOf(dockerHost: string): string[] {
  return commandLines().filter((line) => line.includes(folderOf(dockerHost)))
}

describe.skipIf(privateEngineObstacle() !== null)('a private engine', { timeout: 60_000 }, () => {
  test('knows nothing of another one, and is gone without a trace when disposed', async () => {
    const first = await startPrivateEngine()
    await using second = await startPrivateEngine()
    await startSleeper(first)
    expect(await clientOf(first).listContainers()).toHaveLength(1)
    expect(await clientOf(second).listContainers()).toEqual([])
    expect(processesOf(first.dockerHost)).not.toEqual([])

    await first[Symbol.asyncDispose]()
    expect(processesOf(first.dockerHost)).toEqual([])
    expect(existsSync(folderOf(first.dockerHost))).toBe(false)
    expect(await clientOf(second).listContainers()).toEqual([])
  })

  test('goes on with its containers after dockerd was killed', async () => {
    await using engine = await startPrivateEngine({ liveRestore: true })
    const id = await startSleeper(engine)
    await engine.stop('KILL')
    await expect(clientOf(engine).ping()).rejects.toThrow()
    await engine.start()
    expect(await isRunning(engine, id)).toBe(true)
  })

  test('stops its containers with dockerd where live restore is off', async () => {
    await using engine = await startPrivateEngine()
    const id = await startSleeper(engine)
    await engine.stop('TERM')
    await engine.start()
    expect(await isRunning(engine, id)).toBe(false)
  })

  test('ends with the process that started it, even where that was killed', async () => {
    const script = `
      import { startPrivateEngine } from '${join(import.meta.dirname, '../src/private-engine.ts')}'
      console.log((await startPrivateEngine()).dockerHost)
    `
    const owner = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [dockerHost] = (await once(createInterface({ input: owner.stdout }), 'line')) as [string]
    expect(processesOf(dockerHost)).not.toEqual([])
    const exited = once(owner, 'exit')
    owner.kill('SIGKILL')
    await exited
    await vi.waitFor(
      () => {
        expect(processesOf(dockerHost)).toEqual([])
      },
      { timeout: 20_000 },
    )
    // The next engine clears away what the killed process could not.
    await (await startPrivateEngine())[Symbol.asyncDispose]()
    expect(existsSync(folderOf(dockerHost))).toBe(false)
  })

  test('has its leftovers named: our containers, and networks that came or went', async () => {
    await using engine = await startPrivateEngine()
    const before = await takeSnapshot(engine.dockerHost)
    expect(await leaksSince(engine.dockerHost, before)).toEqual([])
    const id = await startSleeper(engine, { 'gpu-service.installation': 'abcd1234' })
    const network = await clientOf(engine).createNetwork({ Name: 'made-by-a-test' })
    expect(await leaksSince(engine.dockerHost, before)).toEqual([
      'container sleeper (running) of installation abcd1234 is left',
      'network made-by-a-test is left',
    ])
    const docker = clientOf(engine)
    await docker.getContainer(id).remove({ force: true })
    await network.remove()
    expect(await leaksSince(engine.dockerHost, before)).toEqual([])
  })
})
