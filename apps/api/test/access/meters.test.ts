import { DEFAULT_KEY_LIMITS, type Clock, type KeyLimits } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { createMeters, type Meter } from '../../src/access/meters.ts'

const key = (id: string) => ({ kind: 'key', id, keyId: id }) as const
const token = (id: string, keyId: string | null) => ({ kind: 'token', id, keyId }) as const

function setUp(limits: Partial<KeyLimits> = {}) {
  const time = { ms: 0 }
  const clock = { monotonic: () => time.ms } as unknown as Clock
  return { time, meters: createMeters(() => ({ ...DEFAULT_KEY_LIMITS, ...limits }), clock) }
}

/** How many requests are let through now. */
function requests(meter: Meter): number {
  let count = 0
  while (meter.request() === null) count += 1
  return count
}

describe('a meter', () => {
  test('lets a third of the minute through at once, and the rest as time passes', () => {
    const { time, meters } = setUp({ requestsPerMinute: 60 })
    expect(requests(meters.of(key('k')))).toBe(20)
    expect(meters.of(key('k')).request()?.retryAfterSeconds).toBe(1)
    time.ms += 5_000
    expect(requests(meters.of(key('k')))).toBe(5)
    time.ms += 3_600_000
    expect(requests(meters.of(key('k')))).toBe(20)
  })

  test('lets a whole batch through, which then has to be made up for', () => {
    const { time, meters } = setUp({ submitsPerMinute: 60 })
    const meter = meters.of(key('k'))
    expect(meter.submit(100)).toBeNull()
    expect(meter.submit(1)).toMatchObject({ limit: 'submitsPerMinute', retryAfterSeconds: 81 })
    time.ms += 81_000
    expect(meter.submit(1)).toBeNull()
  })

  test('lets nothing through where nothing is allowed, and everything where all is', () => {
    expect(requests(setUp({ requestsPerMinute: 0 }).meters.of(key('k')))).toBe(0)
    const { meters } = setUp({ requestsPerMinute: null })
    for (let count = 0; count < 10_000; count += 1) expect(meters.of(key('k')).request()).toBeNull()
  })

  test('knows keys apart, and one key in all its requests', () => {
    const { meters } = setUp({ sockets: 1 })
    const place = meters.of(key('a')).open('sockets')
    expect(meters.of(key('a')).open('sockets')).toMatchObject({ limit: 'sockets' })
    expect(meters.of(key('b')).open('sockets')).not.toHaveProperty('limit')
    if ('limit' in place) throw new Error(place.message)
    place[Symbol.dispose]()
    place[Symbol.dispose]()
    expect(meters.openOf('a')).toEqual({ sockets: 0, subscriptions: 0 })
  })

  test('counts what is done with a token against its key, and gives a token less than a key', () => {
    const { meters } = setUp({ requestsPerMinute: 660 })
    expect(requests(meters.of(token('t', 'k')))).toBe(200)
    expect(requests(meters.of(key('k')))).toBe(20)
    expect(requests(meters.of(token('other', 'k')))).toBe(0)
    expect(requests(meters.of(token('of nobody', null)))).toBe(200)
  })

  test('forgets tokens that were not used for long, but for what they have open', () => {
    const { meters } = setUp()
    const first = meters.of(token('first', null))
    for (let count = 0; count < 20; count += 1) first.open('sockets')
    for (let count = 0; count < 25_000; count += 1) meters.of(token(String(count), null)).request()
    expect(meters.of(token('first', null)).open('sockets')).toMatchObject({ limit: 'sockets' })
  })

  test('does not hold for a program on this machine that has no key', () => {
    const { meters } = setUp({ requestsPerMinute: 0 })
    const local = meters.of({ kind: 'local', id: null, keyId: null })
    expect(local.request()).toBeNull()
  })
})
