import { clientOf, privateEngineObstacle, type PrivateEngine } from '@gpu-service/test-engine'
import { setTimeout as delay } from 'node:timers/promises'
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
} from './scripts.ts'
import { OwnEngineStage } from './own-engine.ts'
import { faultsOf, type TestService } from './service.ts'

/** A longer outage: `ENGINE_OUTAGE_SECONDS=60 npx vitest run --root apps/api test/e2e/engine-restart.test.ts`. */
const OUTAGE_MS = Number(process.env['ENGINE_OUTAGE_SECONDS'] ?? 10) * 1_000
const LINES = 1_000
const FLOOD = 100_000
/** So many that they last longer than the outage, at 20 ms each. */
const LASTING = OUTAGE_MS / 20 + 200

/** So long a worker lives that then ends as one does that the kernel kills for want of memory. */
const KILLED_AFTER_S = 2

/** How many numbers of 0 to `count` - 1 are missing of what is in order and without a repeat. */
function missingOf(said: readonly string[], count: number): number {
  const wanted = new Set(said)
  expect(numbersTo(count).filter((number) => wanted.has(number))).toEqual(said)
  return count - said.length
}

describe.skipIf(privateEngineObstacle() !== null)('an engine that restores its containers', () => {
  let stage: OwnEngineStage
  let engine: PrivateEngine
  let service: TestService
  beforeAll(async () => {
    stage = await OwnEngineStage.open(
      { liveRestore: true },
      {
        counting: countingScript(LINES, {}, { pauseMs: 5 }),
        numbered: countingScript(LINES, {}, { isNumbered: true, pauseMs: 5 }),
        lasting: countingScript(LASTING, {}, { pauseMs: 20 }),
        ending: countingScript(LINES, { retry: { on: ['engine'], backoff: '0s' } }),
        warm: countingSession(LINES, {}, { pauseMs: 5 }),
        flood: script(
          `awk 'BEGIN { for (i = 0; i < ${FLOOD}; i++) printf "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"%d \\",\\"seq\\":%d}\\n", i, i + 1
           printf "{\\"event\\":\\"finish\\",\\"status\\":\\"completed\\",\\"seq\\":%d}\\n", i + 1 }'`,
        ),
        brief: script(`sleep ${KILLED_AFTER_S}; ${CONNECTED}; ${FINISHED}`),
        killed: script(`echo '{"event":"text_delta","delta":"x"}'; sleep ${KILLED_AFTER_S}; kill -9 $$`),
        short: script(`${CONNECTED}; ${FINISHED}`),
      },
    )
    ;({ engine, service } = stage)
  })
  afterAll(() => stage[Symbol.asyncDispose]())

  // Also an engine that ends in order loses a line now and then that it has read and not yet written.
  test.each(['TERM', 'KILL'] as const)(
    'restarted by SIG%s in mid-stream loses nothing silently',
    async (signal) => {
      const kinds = ['counting', 'numbered', 'warm', 'flood']
      const ids = await stage.begin(kinds)
      const stoppedAt = Date.now()
      await stage.restart(signal)
      for (const [index, id] of ids.entries()) {
        const kind = kinds[index] ?? ''
        const events = await service.events(id)
        expect(faultsOf(events)).toEqual([])
        const warned = events.filter(
          ({ level, line }) =>
            level === 'warning' &&
            /The Docker engine (was|broke off)|the Docker engine was not there/.test(String(line)),
        )
        const missing = missingOf(deltasOf(events), kind === 'flood' ? FLOOD : LINES)
        const { status, error, attempts, finishedAt } = await service.history(id)
        // The flood's worker may have ended before, and have been read only since.
        if (kind === 'flood') expect(warned.length).toBeLessThanOrEqual(1)
        else if (Date.parse(finishedAt ?? '') > stoppedAt) expect(warned).toHaveLength(1)
        if (kind === 'counting' || kind === 'warm') {
          expect({ kind, status }).toEqual({ kind, status: 'COMPLETED' })
          continue
        }
        // Its own count makes it exact.
        const told = events
          .filter(({ __typename }) => __typename === 'GapEvent')
          .map(({ detail }) => Number(/: (\d+) of its events are missing/.exec(String(detail))?.[1]))
        if (error?.code === 'LOST') {
          // It ended meanwhile, and its finish is among what is missing.
          expect({ kind, isSaid: missing > 0 && warned.length > 0 }).toEqual({ kind, isSaid: true })
          continue
        }
        // The halves of two lines that have become one are a fault that stands for one event.
        const faults = events.filter(({ __typename }) => __typename === 'ProtocolFaultEvent')
        expect({ kind, told: told.reduce((sum, count) => sum + count, faults.length) }).toEqual({
          kind,
          told: missing,
        })
        expect({ kind, status, code: error?.code }).toEqual(
          missing === 0
            ? { kind, status: 'COMPLETED', code: undefined }
            : { kind, status: 'FAILED', code: 'OUTPUT_LOST' },
        )
        if (missing > 0) expect(attempts).toMatchObject([{ failureClass: 'ENGINE' }])
      }
    },
  )

  test('has a worker that is killed while it is away told as one that ended then, not as one that it took along', async () => {
    const [id = ''] = await stage.begin(['killed'])
    await engine.stop('KILL')
    await delay(2 * KILLED_AFTER_S * 1_000)
    await engine.start()
    const { status, error, exitCode } = await service.ended(id)
    expect({ status, code: error?.code, exitCode }).toEqual({ status: 'FAILED', code: 'LOST', exitCode: 137 })
    expect(error?.message).toMatch(/ended while the Docker engine was not there/)
  })

  test('killed as it starts a worker, which ends while it is away, has the task end as it should, or lost, but not unfinished', async () => {
    const id = await service.submit('brief')
    await service.reached(id, 'STARTING')
    // At the earliest moment at which its container runs, maybe before the service has heard of it.
    const docker = clientOf(engine.dockerHost)
    await vi.waitFor(
      async () => {
        expect(await docker.listContainers()).not.toEqual([])
      },
      { timeout: 20_000, interval: 5 },
    )
    await engine.stop('KILL')
    await delay(2 * KILLED_AFTER_S * 1_000)
    await engine.start()
    const { status, error } = await service.ended(id)
    // What it has said into the pipe may still be there.
    expect(['COMPLETED', 'LOST']).toContain(error?.code ?? status)
  })

  test(`is waited for ${OUTAGE_MS} ms`, { timeout: 60_000 + OUTAGE_MS }, async () => {
    const [running = '', ending = ''] = await stage.begin(['lasting', 'ending'])
    await engine.stop('TERM')
    const ids = [await service.submit('short'), await service.submit('short')]
    await delay(OUTAGE_MS)
    for (const id of ids) expect(['QUEUED', 'STARTING']).toContain((await service.task(id)).status)
    expect(await service.task(running)).toMatchObject({ status: 'RUNNING' })
    expect(await runnerCheck(service)).toMatchObject({ ok: false })
    await engine.start()
    for (const id of [running, ...ids])
      expect(await service.ended(id)).toMatchObject({ status: 'COMPLETED', attempt: 1 })
    expect(missingOf(deltasOf(await service.events(running)), LASTING)).toBeLessThan(5)
    expect(await runnerCheck(service)).toMatchObject({ ok: true })

    // What a worker says into the pipe of an engine that is not there may be gone with it.
    const events = await service.events(ending)
    const { status, attempts } = await service.history(ending)
    expect(status).toBe('COMPLETED')
    const last = events.filter(({ attempt }) => attempt === attempts.length)
    expect(deltasOf(last)).toEqual(numbersTo(LINES))
    const gaps = events.filter(({ __typename }) => __typename === 'GapEvent')
    expect(gaps.map(({ attempt }) => attempt)).toEqual(attempts.length === 1 ? [] : [1])
    if (attempts.length > 1)
      expect(attempts[0]).toMatchObject({ error: { code: 'LOST' }, failureClass: 'ENGINE', exitCode: 0 })
  })
})
