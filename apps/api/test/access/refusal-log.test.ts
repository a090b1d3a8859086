import { setImmediate as nextTurn } from 'node:timers/promises'
import { silentLogger, type NewAuditEntry } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import {
  createRefusalLog,
  type Refusal,
  type RefusalLog,
  unknownActor,
} from '../../src/access/refusal-log.ts'

const MINUTE = 60_000

describe('the audit log is told of refusals', () => {
  let told: NewAuditEntry[]
  let refusals: RefusalLog
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    told = []
    const recordAudit = (entries: readonly NewAuditEntry[]): Promise<void> => {
      told.push(...entries)
      return Promise.resolve()
    }
    refusals = createRefusalLog({ recordAudit }, silentLogger)
  })
  afterEach(async () => {
    await refusals[Symbol.asyncDispose]()
    vi.useRealTimers()
  })

  const wrongKey = (address: string): Refusal => ({
    ...{ actor: unknownActor(address), action: 'key.use', target: 'key', result: 'UNAUTHENTICATED' },
  })
  const seen = () =>
    told.map(({ actor, details }) => `${actor.name} ${actor.address ?? 'anywhere'} ${details['times'] ?? ''}`)

  test('at once, and of those like it a minute later by their number', async () => {
    for (let n = 0; n < 1_000; n++) refusals.note(wrongKey('10.0.0.1'))
    refusals.note(wrongKey('10.0.0.2'))
    await nextTurn()
    expect(seen()).toEqual(['unknown 10.0.0.1 1', 'unknown 10.0.0.2 1'])
    expect(told[0]).toMatchObject({
      action: 'key.use',
      target: { kind: 'key', id: null },
      result: 'UNAUTHENTICATED',
    })
    vi.advanceTimersByTime(MINUTE)
    await nextTurn()
    expect(seen().slice(2)).toEqual(['unknown 10.0.0.1 999'])
    vi.advanceTimersByTime(10 * MINUTE)
    refusals.note(wrongKey('10.0.0.1'))
    await nextTurn()
    expect(seen().slice(3)).toEqual(['unknown 10.0.0.1 1'])
  })

  test('by a bounded number of entries, wherever a flood of them comes from', async () => {
    for (let n = 0; n < 100_000; n++) refusals.note(wrongKey(`2001:db8::${n.toString(16)}`))
    // What somebody with a key is refused does not drown in it.
    const ann = { kind: 'key', id: 'k', name: 'ann', address: null } as const
    refusals.note({ actor: ann, action: 'gpu.drain', target: 'gpu', result: 'FORBIDDEN' })
    await nextTurn()
    expect(seen().at(-1)).toBe('ann anywhere 1')
    vi.advanceTimersByTime(MINUTE)
    await nextTurn()
    expect(told).toHaveLength(52)
    expect(seen().at(-1)).toBe('several anywhere 99950')
  })

  test('with the numbers that are not told yet when the service ends', async () => {
    refusals.note(wrongKey('10.0.0.1'))
    refusals.note(wrongKey('10.0.0.1'))
    await refusals[Symbol.asyncDispose]()
    expect(seen()).toEqual(['unknown 10.0.0.1 1', 'unknown 10.0.0.1 1'])
  })
})

test('a refusal that the audit log cannot be told of is told to the log, and the next one is tried again', async () => {
  const warnings: object[] = []
  let isBroken = true
  const told: NewAuditEntry[] = []
  const recordAudit = (entries: readonly NewAuditEntry[]): Promise<void> => {
    if (isBroken) return Promise.reject(new Error('The disk is full.'))
    told.push(...entries)
    return Promise.resolve()
  }
  const logger = { ...silentLogger, warn: (fields: object) => warnings.push(fields) }
  await using refusals = createRefusalLog({ recordAudit }, logger)
  const refusal = (address: string): Refusal => ({
    ...{ actor: unknownActor(address), action: 'key.use', target: 'key', result: 'UNAUTHENTICATED' },
  })
  refusals.note(refusal('10.0.0.1'))
  await nextTurn()
  expect(warnings).toMatchObject([{ err: { message: 'The disk is full.' }, refusals: 1 }])
  isBroken = false
  refusals.note(refusal('10.0.0.2'))
  await nextTurn()
  expect(told).toHaveLength(1)
})
