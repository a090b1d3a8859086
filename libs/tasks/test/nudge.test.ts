import { describe, expect, test } from 'vitest'
import { Nudge, NudgeMap } from '../src/nudge.ts'

const never = new AbortController().signal

describe('a nudge', () => {
  test('wakes whoever waits', async () => {
    const nudge = new Nudge()
    const woken = Promise.all([nudge.waitPast(nudge.version, never), nudge.waitPast(nudge.version, never)])
    nudge.nudge()
    await woken
  })

  test('is not lost between the look and the wait', async () => {
    const nudge = new Nudge()
    const { version } = nudge
    nudge.nudge()
    await nudge.waitPast(version, never)
  })

  test('lets go of a waiter whose signal is aborted', async () => {
    const nudge = new Nudge()
    const stop = new AbortController()
    const woken = nudge.waitPast(nudge.version, stop.signal)
    stop.abort()
    await woken
  })

  test('is kept per key only while somebody holds it', () => {
    const nudges = new NudgeMap<string>()
    const one = nudges.hold('a')
    const two = nudges.hold('a')
    expect(one.nudge).toBe(two.nudge)
    one.release()
    expect(nudges.size).toBe(1)
    two.release()
    expect(nudges.size).toBe(0)
  })
})
