import { setTimeout as delay } from 'node:timers/promises'
import { clientOf, privateEngineObstacle, type PrivateEngine } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import {
  CONNECTED,
  countingScript,
  countingSession,
  deltasOf,
  FINISHED,
  numbersTo,
  runnerCheck,
  script,
  stderrOf,
} from './scripts.ts'
import { OwnEngineStage } from './own-engine.ts'
import { faultsOf, type TestService } from './service.ts'

/** At 5 ms each they last until a test has done what it does to them. */
const LINES = 600
const ENDLESS = `${CONNECTED}; i=0; while :; do echo '{"event":"text_delta","delta":"x"}'; sleep 0.1; done`

describe.skipIf(privateEngineObstacle() !== null)('an engine that takes its containers along', () => {
  let stage: OwnEngineStage
  let engine: PrivateEngine
  let docker: ReturnType<typeof clientOf>
  let service: TestService
  beforeAll(async () => {
    stage = await OwnEngineStage.open(
      {},
      {
        counting: countingScript(LINES, { retry: { on: ['engine'], backoff: '0s' } }, { pauseMs: 5 }),
        once: script(ENDLESS),
        heedful: script(
          `trap 'echo "{\\"event\\":\\"finish\\",\\"status\\":\\"cancelled\\"}"; exit 0' TERM; ${ENDLESS}`,
        ),
        warm: countingSession(LINES, { retry: { backoff: '0s' } }, { pauseMs: 5 }),
        short: script(`${CONNECTED}; ${FINISHED}`),
      },
    )
    ;({ engine, service } = stage)
    docker = clientOf(engine.dockerHost)
  })
  afterAll(() => stage[Symbol.asyncDispose]())

  const begin = async (kind: string): Promise<string> => (await stage.begin([kind]))[0] ?? ''

  async function containerOf(id: string) {
    const { worker } = await service.task(id)
    return docker.getContainer(worker?.containerId ?? '')
  }

  test.each(['TERM', 'KILL'] as const)(
    'has its tasks fail as LOST by it after SIG%s, or tried again where the preset says so',
    async (signal) => {
      const endless = await stage.begin(['once', 'heedful'])
      const retried = await stage.begin(['counting', 'warm'])
      await stage.restart(signal)
      for (const id of endless) {
        const task = await service.ended(id)
        expect(task).toMatchObject({ status: 'FAILED', attempt: 1, error: { code: 'LOST' } })
        expect(task.error?.message).toMatch(/The Docker engine was stopped or restarted/)
        expect((await service.history(id)).attempts).toMatchObject([{ failureClass: 'ENGINE' }])
      }
      for (const id of retried) {
        const events = await service.events(id)
        expect(faultsOf(events)).toEqual([])
        const { status, attempts } = await service.history(id)
        expect({ status, attempts: attempts.length }).toEqual({ status: 'COMPLETED', attempts: 2 })
        const second = events.filter(({ attempt }) => attempt === 2)
        expect(deltasOf(second)).toEqual(numbersTo(LINES))
        const first = deltasOf(events.filter(({ attempt }) => attempt === 1))
        expect(first).toEqual(numbersTo(first.length))
      }
      expect(await docker.listContainers({ all: true, filters: { status: ['exited'] } })).toEqual([])
    },
  )

  test('has what its containers said while nobody could read them read from their logs', async () => {
    const id = await begin('counting')
    const container = await containerOf(id)
    await service.down('SIGKILL')
    await stage.restart('TERM')
    const log = (await container.logs({ stdout: true, stderr: false })).toString('latin1')
    const said = log.split('text_delta').length - 1
    await service.up()
    const events = await service.events(id)
    expect(deltasOf(events.filter(({ attempt }) => attempt === 1))).toEqual(numbersTo(said))
    const { attempts, status } = await service.history(id)
    expect(status).toBe('COMPLETED')
    expect(attempts).toMatchObject([{ failureClass: 'ENGINE', error: { code: 'LOST' } }, { error: null }])
  })

  test('is waited for where it is down as the service starts, and tasks with it', async () => {
    await service.down()
    await engine.stop('TERM')
    await service.up()
    expect(await runnerCheck(service)).toMatchObject({ ok: false })
    const ids = [await service.submit('short'), await service.submit('short')]
    await delay(1_000)
    expect(await runnerCheck(service)).toMatchObject({ ok: false })
    for (const id of ids) expect(['QUEUED', 'STARTING']).toContain((await service.task(id)).status)
    await engine.start()
    for (const id of ids) expect(await service.ended(id)).toMatchObject({ status: 'COMPLETED' })
    expect(await runnerCheck(service)).toMatchObject({ ok: true })
  })

  test('that hangs in mid-stream is told by the readiness, and its tasks go on when it does', async () => {
    const id = await begin('counting')
    engine.freeze()
    const waiting = await service.submit('short')
    expect(await runnerCheck(service)).toMatchObject({ ok: false })
    engine.thaw()
    for (const each of [id, waiting])
      expect(await service.ended(each)).toMatchObject({ status: 'COMPLETED', attempt: 1 })
    expect(deltasOf(await service.events(id))).toEqual(numbersTo(LINES))
    await vi.waitFor(
      async () => {
        expect(await runnerCheck(service)).toMatchObject({ ok: true })
      },
      { timeout: 15_000, interval: 200 },
    )
  })

  test('whose container is removed by hand has its task FAILED within 10 s', async () => {
    const id = await begin('once')
    const before = performance.now()
    await (await containerOf(id)).remove({ force: true })
    expect(await service.ended(id)).toMatchObject({ status: 'FAILED', error: { code: 'LOST' } })
    expect(performance.now() - before).toBeLessThan(10_000)
  })

  test('whose container is stopped by hand has its task FAILED with its exit code', async () => {
    const id = await begin('once')
    await (await containerOf(id)).stop({ t: 1 })
    expect(await service.ended(id)).toMatchObject({
      status: 'FAILED',
      exitCode: 143,
      error: { code: 'WORKER_FAILED' },
    })
  })

  test('whose container is restarted by hand has its task FAILED, with the lines of the first run alone', async () => {
    const id = await begin('counting')
    await (await containerOf(id)).restart({ t: 1 })
    const events = await service.events(id)
    const { attempts } = await service.history(id)
    const first = events.filter(({ attempt }) => attempt === 1)
    expect(deltasOf(first)).toEqual(numbersTo(deltasOf(first).length))
    expect(stderrOf(first)).toEqual(numbersTo(stderrOf(first).length))
    // Seen between the two runs, it was stopped by hand.
    expect(attempts[0]?.error?.code).toMatch(/LOST|WORKER_FAILED/)
  })

  test.each([
    ['a moment ago', false],
    ['and has ended since', true],
  ])(
    'whose container is restarted by hand while the service is down %s has its task LOST',
    async (_how, isOver) => {
      const id = await begin('counting')
      const container = await containerOf(id)
      await service.down('SIGKILL')
      await container.restart({ t: 1 })
      if (isOver) await container.wait()
      await service.up()
      const events = await service.events(id)
      const first = deltasOf(events.filter(({ attempt }) => attempt === 1))
      expect(first).toEqual(numbersTo(first.length))
      const { attempts, status } = await service.history(id)
      expect(attempts[0]).toMatchObject({ error: { code: 'LOST' }, failureClass: 'ENGINE' })
      expect(attempts[0]?.error?.message).toMatch(/was started again at/)
      expect(status).toBe('COMPLETED')
    },
  )

  test('whose container is paused by hand says so, and the task can be cancelled or goes on', async () => {
    const ids = await stage.begin(['counting', 'once'])
    for (const id of ids) {
      await (await containerOf(id)).pause()
      const seen = await service.events(id, 0, ({ line }) => /is paused/.test(String(line)))
      expect(seen.at(-1)).toMatchObject({ level: 'warning' })
    }
    const [goesOn = '', cancelled = ''] = ids
    await (await containerOf(goesOn)).unpause()
    expect(await service.ended(goesOn)).toMatchObject({ status: 'COMPLETED' })
    await service.cancel(cancelled)
    expect(await service.ended(cancelled)).toMatchObject({ status: 'CANCELLED' })
  })

  test('whose container is renamed by hand is read, cancelled and removed all the same', async () => {
    const ids = await stage.begin(['counting', 'once'])
    for (const [index, id] of ids.entries())
      await (await containerOf(id)).rename({ name: `renamed-${index}` })
    const [goesOn = '', cancelled = ''] = ids
    await service.down('SIGKILL')
    await service.up()
    expect(await service.ended(goesOn)).toMatchObject({ status: 'COMPLETED', attempt: 1 })
    await service.cancel(cancelled)
    expect(await service.ended(cancelled)).toMatchObject({ status: 'CANCELLED' })
    await vi.waitFor(async () => {
      expect(await docker.listContainers({ all: true })).toEqual([])
    })
  })
})
