import {
  BUSYBOX_IMAGE,
  ensureTestImage,
  privateEngineObstacle,
  startPrivateEngine,
  type PrivateEngine,
} from '@gpu-service/test-engine'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, countingScript, countingSession, numbersTo, script } from './scripts.ts'
import { faultsOf, TestService, type SeenEvent } from './service.ts'

/** A longer outage: `ENGINE_OUTAGE_SECONDS=60 npx vitest run --root apps/api test/e2e/engine-restart.test.ts`. */
const OUTAGE_MS = Number(process.env['ENGINE_OUTAGE_SECONDS'] ?? 10) * 1_000
const LINES = 2_000

function deltasOf(events: readonly SeenEvent[]): string[] {
  return events.flatMap((event) => (event.__typename === 'TextDeltaEvent' ? [String(event['delta'])] : []))
}

function stderrOf(events: readonly SeenEvent[]): string[] {
  return events.flatMap((event) =>
    event.__typename === 'LogEvent' && event['stream'] === 'STDERR' ? [String(event['line'])] : [],
  )
}

describe.skipIf(privateEngineObstacle() !== null)('an engine that restores its containers', () => {
  let engine: PrivateEngine
  let service: TestService
  beforeAll(async () => {
    engine = await startPrivateEngine({ liveRestore: true })
    await ensureTestImage(engine.dockerHost, BUSYBOX_IMAGE)
    service = await TestService.start({
      runner: 'docker',
      env: { DOCKER_HOST: engine.dockerHost },
      presets: {
        counting: countingScript(LINES),
        numbered: countingScript(LINES, { numbered: true }),
        warm: countingSession(LINES),
        short: script(`${CONNECTED}; ${FINISHED}`),
      },
    })
  })
  afterAll(async () => {
    await service[Symbol.asyncDispose]()
    await engine[Symbol.asyncDispose]()
  })

  async function midStream(id: string): Promise<void> {
    await service.events(id, 0, ({ __typename }) => __typename === 'TextDeltaEvent')
  }

  test('restarted in order in mid-stream loses nothing of a one-off task and of a session', async () => {
    const ids = await Promise.all(['counting', 'warm'].map((kind) => service.submit(kind)))
    await Promise.all(ids.map(midStream))
    for (let restart = 0; restart < 2; restart++) {
      await engine.stop('TERM')
      await engine.start()
      await delay(500)
    }
    for (const id of ids) {
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      expect(await service.task(id)).toMatchObject({ status: 'COMPLETED', attempt: 1 })
      expect(deltasOf(events)).toEqual(numbersTo(LINES))
      expect(stderrOf(events)).toEqual(numbersTo(LINES))
    }
  })

  test('killed in mid-stream loses nothing silently', async () => {
    const ids = await Promise.all(['counting', 'numbered', 'warm'].map((kind) => service.submit(kind)))
    await Promise.all(ids.map(midStream))
    for (let restart = 0; restart < 2; restart++) {
      await engine.stop('KILL')
      await engine.start()
      await delay(500)
    }
    for (const id of ids) {
      const events = await service.events(id)
      const task = await service.history(id)
      console.log(task.status, task.error, deltasOf(events).length, stderrOf(events).length, task.explanation)
      expect(faultsOf(events)).toEqual([])
    }
  })

  test(`is waited for ${OUTAGE_MS} ms`, { timeout: 60_000 + OUTAGE_MS }, async () => {
    const running = await service.submit('counting')
    await midStream(running)
    await engine.stop('TERM')
    const waiting = await service.submit('short')
    await delay(OUTAGE_MS)
    expect(await service.task(waiting)).toMatchObject({ status: 'QUEUED' })
    console.log(await (await fetch(new URL('/readyz', service.url))).text())
    await engine.start()
    expect(await service.ended(waiting)).toMatchObject({ status: 'COMPLETED' })
    expect(await service.ended(running)).toMatchObject({ status: 'COMPLETED' })
  })
})
