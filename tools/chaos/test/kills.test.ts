import { privateEngineObstacle } from '@gpu-service/test-engine'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { leftOn } from '../src/aftermath.ts'
import { STREAMS } from '../src/watched-task.ts'
import { openStage, type Stage, untilAllSpeak } from './stage.ts'

const KILLS = 10
const RACES = 50

describe.skipIf(privateEngineObstacle() !== null)('whatever dies in the middle of live streams', () => {
  let stage: Stage
  beforeAll(async () => {
    stage = await openStage()
  })
  afterAll(() => stage[Symbol.asyncDispose]())

  /** Two workers of each mode, which print on both streams until they are released. */
  function fourTalkers(until: string): Promise<(string | null)[]> {
    const input = { lines: 1, interval_ms: 10, size: 40, until }
    return Promise.all([
      stage.run(`${until} 1`, { input }),
      stage.run(`${until} 2`, { input }),
      stage.run(`${until} 3`, { mode: 'session', preset: 'warm', input }),
      stage.run(`${until} 4`, { mode: 'session', preset: 'warm', input }),
    ])
  }

  test(`${KILLS} kills of the service lose and repeat nothing, of one-off workers and sessions, on stdout and stderr`, async () => {
    const { site, load, timeline } = stage
    const ended = fourTalkers('killed enough')
    let since = 0
    for (let kill = 0; kill < KILLS; kill++) {
      await untilAllSpeak(load, 4, since)
      // On a busy machine one of them may just have paused.
      await vi.waitFor(
        () => {
          const hit = new Set([...load.live.values()].flatMap(({ live }) => live))
          expect([...hit].sort()).toEqual([...STREAMS].sort())
        },
        { timeout: 30_000, interval: 5 },
      )
      const whole = timeline.begin('service killed')
      await site.service.down('SIGKILL')
      since = Date.now()
      expect(await site.service.up()).toBe(true)
      whole()
    }
    await untilAllSpeak(load, 4, since)
    await stage.release('killed enough')
    expect(await ended).toEqual(Array(4).fill('COMPLETED'))
    expect(stage.violations).toEqual([])
  })

  test('an engine that is restarted in an orderly way loses nothing', async () => {
    const { site, load, timeline } = stage
    const ended = fourTalkers('restarted')
    await untilAllSpeak(load, 4, 0)
    const whole = timeline.begin('engine stopped')
    await site.engine?.daemon.stop('TERM')
    await site.engine?.daemon.start()
    whole()
    await untilAllSpeak(load, 4, Date.now())
    await stage.release('restarted')
    expect(await ended).toEqual(Array(4).fill('COMPLETED'))
    expect(stage.violations).toEqual([])
  })

  test('an engine that is killed loses nothing without a word of it', async () => {
    const { site, load, timeline } = stage
    const ended = fourTalkers('crashed')
    await untilAllSpeak(load, 4, 0)
    const whole = timeline.begin('engine killed')
    await site.engine?.daemon.stop('KILL')
    await site.engine?.daemon.start()
    whole()
    await untilAllSpeak(load, 4, Date.now())
    await stage.release('crashed')
    await ended
    // What had not been written down yet is gone: then a gap says so, and the task is not COMPLETED.
    expect(stage.violations).toEqual([])
  })

  test(`${RACES} cancels that race with the end of their task leave one final state each, and no worker`, async () => {
    const { site, api, load } = stage
    const outcomes = new Set<string | null>()
    const lane = async (from: number): Promise<void> => {
      for (let n = from; n < RACES; n += 5) {
        const ms = [0, 1, 3, 10, 30][Math.floor(n / 5) % 5] ?? 0
        const outcome = await stage.run(`race ${n}`, {
          ...(n % 2 === 0 ? {} : { mode: 'session', preset: 'warm' }),
          cancel: n % 5 === 0 ? { kind: 'after', ms: 10 * ms } : { kind: 'at the end', ms },
          followers: [],
        })
        outcomes.add(outcome)
      }
    }
    await Promise.all([0, 1, 2, 3, 4].map(lane))
    expect(stage.violations).toEqual([])
    expect([...outcomes].sort()).toEqual(['CANCELLED', 'COMPLETED'])
    expect(load.cancels).toBe(RACES)
    await expect.poll(() => leftOn(site, api), { timeout: 10_000 }).toEqual([])
  })

  test('by the end every line of every worker stands in the books once, and nothing is left', async () => {
    await stage.close()
    expect(stage.violations).toEqual([])
  })
})
