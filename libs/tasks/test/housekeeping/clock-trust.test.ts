import { beforeEach, describe, expect, test } from 'vitest'
import { ClockTrust } from '../../src/housekeeping/clock-trust.ts'
import { silentLogger, type Clock } from '../../src/index.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const START = 1_790_000_000_000

let passed: number
let setBy: number
beforeEach(() => {
  passed = 0
  setBy = START
})

const clock: Clock = {
  now: () => setBy + passed,
  monotonic: () => passed,
  after: () => ({ [Symbol.dispose]: () => undefined }),
}
const open = (latest: number | null): ClockTrust => new ClockTrust(clock, silentLogger, latest)

/** What it says once a minute for that long. */
function over(trust: ClockTrust, ms: number): boolean[] {
  return Array.from({ length: ms / MINUTE }, () => {
    passed += MINUTE
    return trust.isBelieved()
  })
}

describe('a clock is believed', () => {
  test('while it goes on evenly, also where it is set by a little', () => {
    const trust = open(START - HOUR)
    for (const step of [0, 2_000, -2_000, 4 * MINUTE, -4 * MINUTE]) {
      setBy += step
      expect(new Set(over(trust, HOUR))).toEqual(new Set([true]))
    }
  })

  test('at once where nothing is stored yet', () => {
    expect(open(null).isBelieved()).toBe(true)
  })
})

describe('a clock that jumps', () => {
  test.each([365 * DAY, -365 * DAY, 6 * MINUTE])('by %d ms is not believed for an hour', (jump) => {
    const trust = open(START - HOUR)
    expect(trust.isBelieved()).toBe(true)
    setBy += jump
    const said = over(trust, 2 * HOUR)
    expect(said.indexOf(true)).toBe(60)
    expect(said.slice(60)).not.toContain(false)
  })

  test('and back again is not believed for an hour from then on', () => {
    const trust = open(START - HOUR)
    setBy += 365 * DAY
    expect(over(trust, 30 * MINUTE)).not.toContain(true)
    setBy -= 365 * DAY
    expect(over(trust, 2 * HOUR).indexOf(true)).toBe(60)
  })

  test('while no process ran is not believed for an hour either', () => {
    const trust = open(START - 400 * DAY)
    expect(trust.isBelieved()).toBe(false)
    expect(over(trust, 2 * HOUR).indexOf(true)).toBe(59)
  })
})
