import { createWriteStream, statfsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { privateEngineObstacle, type PrivateEngine } from '@gpu-service/test-engine'
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
import { faultsOf, type TestService, type SeenEvent } from './service.ts'

/** At 5 ms each they last longer than the disk is full. */
const LINES = 1_500
/** What an administrator may have set for the containers of everybody: each of it would lose lines, or keep workers from starting. */
const LOSSY = {
  'log-driver': 'json-file',
  'log-opts': { 'max-size': '8k', 'max-file': '3', compress: 'true', mode: 'non-blocking' },
}

function gapsOf(events: readonly SeenEvent[]): SeenEvent[] {
  return events.filter(({ __typename }) => __typename === 'GapEvent')
}

describe.skipIf(privateEngineObstacle() !== null)('an engine with a small disk and a lossy log', () => {
  let stage: OwnEngineStage
  let engine: PrivateEngine
  let service: TestService
  beforeAll(async () => {
    stage = await OwnEngineStage.open(
      { daemonConfig: LOSSY, diskMib: 256 },
      {
        flood: script(`seq 1 20000 | sed 's/.*/{"event":"text_delta","delta":"& "}/'; ${FINISHED}`),
        silent: countingScript(LINES, {}, { pauseMs: 5 }),
        numbered: countingScript(LINES, {}, { pauseMs: 5, isNumbered: true }),
        warm: countingSession(LINES, {}, { pauseMs: 5 }),
        short: script(`${CONNECTED}; ${FINISHED}`),
      },
    )
    ;({ engine, service } = stage)
  })
  afterAll(() => stage[Symbol.asyncDispose]())

  const filler = () => join(engine.dataRoot, 'filler')

  async function fill(): Promise<void> {
    const zeros = Buffer.alloc(64 * 1024)
    function* endless() {
      for (;;) yield zeros
    }
    await expect(pipeline(Readable.from(endless()), createWriteStream(filler()))).rejects.toThrow(/ENOSPC/)
    expect(statfsSync(engine.dataRoot).bfree).toBe(0)
  }

  test('keeps all that a worker says', async () => {
    const id = await service.submit('flood')
    const events = await service.events(id)
    expect(await service.task(id)).toMatchObject({ status: 'COMPLETED' })
    expect(deltasOf(events)).toEqual(numbersTo(20_001).slice(1))
  })

  test('full for a while leaves no task COMPLETED that lost output, and none FAILED that counts and lost none', async () => {
    const ids = await stage.begin(['silent', 'numbered', 'warm'])
    await fill()
    await vi.waitFor(
      async () => {
        expect(await runnerCheck(service)).toMatchObject({
          ok: false,
          detail: expect.stringMatching(/is full/) as string,
        })
        const events = await service.events(ids[1] ?? '', 0, ({ line }) => /was full/.test(String(line)))
        expect(events.at(-1)).toMatchObject({ level: 'warning' })
      },
      { timeout: 5_000 },
    )
    await rm(filler())
    const [silent = '', numbered = '', warm = ''] = ids
    for (const id of [silent, warm]) {
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      expect(gapsOf(events)).toMatchObject([{ detail: expect.stringMatching(/disk .* was full/) as string }])
      expect(await service.history(id)).toMatchObject({
        status: 'FAILED',
        error: { code: 'OUTPUT_LOST' },
        attempts: [{ failureClass: 'ENGINE' }],
      })
    }
    const events = await service.events(numbered)
    const missing = LINES - new Set(deltasOf(events)).size
    const told = gapsOf(events).map(({ detail }) =>
      Number(/: (\d+) of its events are missing/.exec(String(detail))?.[1]),
    )
    expect(missing).toBeGreaterThan(0)
    expect(told.reduce((sum, count) => sum + count, 0)).toBe(missing)
    expect(await service.task(numbered)).toMatchObject({ status: 'FAILED', error: { code: 'OUTPUT_LOST' } })
    expect(await runnerCheck(service)).toMatchObject({
      ok: true,
      detail: expect.stringMatching(/nearly full/) as string,
    })
  })

  test('full at the start of a worker is told', async () => {
    await fill()
    const task = await service.run('short')
    await rm(filler())
    expect(task).toMatchObject({ status: 'FAILED', error: { code: 'START_FAILED' } })
    expect(task.error?.message).toMatch(/no space left on device.*docker system prune/s)
    expect(task.attempts).toMatchObject([{ failureClass: 'ENGINE' }])
    expect(await service.run('short')).toMatchObject({ status: 'COMPLETED' })
  })
})
