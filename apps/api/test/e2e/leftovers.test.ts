import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { BUSYBOX_IMAGE, SESSION_WORKER_IMAGE, testEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, noDocker, script } from './scripts.ts'
import { TestService } from './service.ts'
import { callEngine, session } from './sessions.ts'

const LABEL = 'gpu-service.installation'
const PHASES = ['created', 'running', 'exited', 'paused'] as const

interface Container {
  readonly Id: string
  readonly Names: readonly string[]
  readonly State: string
}

/** The names of all containers that carry the label. */
async function containers(label: string): Promise<string[]> {
  const filters = encodeURIComponent(JSON.stringify({ label: [label] }))
  const listed = (await callEngine('GET', `/containers/json?all=1&filters=${filters}`)) as Container[]
  return listed.map(({ Names }) => (Names[0] ?? '').slice(1)).sort()
}

async function installationOf(containerId: string): Promise<string> {
  const { Config } = (await callEngine('GET', `/containers/${containerId}/json`)) as {
    readonly Config: { readonly Labels: Readonly<Record<string, string>> }
  }
  return Config.Labels[LABEL] ?? ''
}

async function phaseOf(name: string): Promise<string | null> {
  const found = (await callEngine('GET', `/containers/${name}/json`)) as {
    readonly State: { readonly Status: string }
  } | null
  return found?.State.Status ?? null
}

/** Makes a container as somebody would by hand. */
async function plant(
  name: string,
  phase: (typeof PHASES)[number],
  labels: Readonly<Record<string, string>>,
): Promise<string> {
  const body = { Image: BUSYBOX_IMAGE, Cmd: ['sleep', phase === 'exited' ? '0' : '600'], Labels: labels }
  await callEngine('POST', `/containers/create?name=${name}`, body)
  if (phase !== 'created') await callEngine('POST', `/containers/${name}/start`)
  if (phase === 'exited') await callEngine('POST', `/containers/${name}/wait`)
  if (phase === 'paused') await callEngine('POST', `/containers/${name}/pause`)
  expect(await phaseOf(name)).toBe(phase)
  return name
}

describe.skipIf(noDocker)('two services on one engine', () => {
  let a: TestService
  let b: TestService
  const planted: string[] = []

  beforeAll(async () => {
    await testEngine()?.ensureImage(SESSION_WORKER_IMAGE)
    const open = (): Promise<TestService> =>
      TestService.start({
        runner: 'docker',
        env: { HOUSEKEEPING_SECONDS: '0.5' },
        presets: {
          short: script(`${CONNECTED}; ${FINISHED}`),
          long: script(`${CONNECTED}; sleep 600`),
          warm: session(),
        },
      })
    ;[a, b] = await Promise.all([open(), open()])
  })
  afterAll(async () => {
    for (const name of planted) await callEngine('DELETE', `/containers/${name}?force=1`)
    for (const service of [a, b]) {
      for (const { tasks } of await service.workers('long'))
        for (const { id } of tasks) {
          await service.cancel(id)
          await service.ended(id)
        }
      await service[Symbol.asyncDispose]()
    }
  })

  async function busy(service: TestService): Promise<{ long: string; warm: string; installation: string }> {
    const long = await service.submit('long')
    await service.reached(long, 'RUNNING')
    await service.run('warm', { input: { text: 'hello', tokens: 2 } })
    const [worker] = await service.workers('warm')
    const { containerId = null } = worker ?? {}
    if (containerId === null) throw new Error('there is no warm worker')
    return { long, warm: containerId, installation: await installationOf(containerId) }
  }

  test("each removes its own orphans, in every phase, and nothing of the other's or of anybody else", async () => {
    const [ofA, ofB] = [await busy(a), await busy(b)]
    expect(ofA.installation).not.toBe(ofB.installation)
    const own = { [LABEL]: ofA.installation }
    const before = {
      a: await containers(`${LABEL}=${ofA.installation}`),
      b: await containers(`${LABEL}=${ofB.installation}`),
    }
    expect([before.a.length, before.b.length]).toEqual([2, 2])

    await a.down('SIGKILL')
    const foreign: string[] = []
    for (const phase of PHASES) {
      planted.push(await plant(`gpu-${ofA.installation}-planted-${phase}`, phase, own))
      foreign.push(
        // Our name without our label, our label with another installation, and somebody's of no name of ours at all.
        await plant(`gpu-${ofA.installation}-foreign-${phase}`, phase, {}),
        await plant(`gpu-other${ofA.installation}-${phase}`, phase, { [LABEL]: `other${ofA.installation}` }),
        await plant(`somebody-${ofA.installation}-${phase}`, phase, { 'gpu-service.note': 'mine' }),
      )
    }
    const orphans = [...planted]
    planted.push(...foreign)
    const files = join(a.dataDir, 'workers', `gpu-${ofA.installation}-files-only`)
    await mkdir(join(files, 'runs'), { recursive: true })
    await a.up()

    await vi.waitFor(
      async () => {
        expect(await containers(`${LABEL}=${ofA.installation}`)).toEqual(before.a)
        expect(existsSync(files)).toBe(false)
      },
      { timeout: 20_000, interval: 100 },
    )
    for (const name of orphans) expect(await phaseOf(name)).toBeNull()

    // Also while it runs.
    for (const phase of PHASES)
      planted.push(await plant(`gpu-${ofA.installation}-later-${phase}`, phase, own))
    await vi.waitFor(
      async () => {
        expect(await containers(`${LABEL}=${ofA.installation}`)).toEqual(before.a)
      },
      { timeout: 20_000, interval: 100 },
    )

    for (const name of foreign) expect(name.endsWith(String(await phaseOf(name)))).toBe(true)
    expect(await containers(`${LABEL}=${ofB.installation}`)).toEqual(before.b)
    for (const [service, { long, warm }] of [
      [a, ofA],
      [b, ofB],
    ] as const) {
      expect((await service.task(long)).status).toBe('RUNNING')
      expect((await service.workers('warm')).map(({ containerId }) => containerId)).toEqual([warm])
      expect((await service.run('warm', { input: { text: 'again', tokens: 2 } })).status).toBe('COMPLETED')
      expect((await service.run('short')).status).toBe('COMPLETED')
    }
  })
})
