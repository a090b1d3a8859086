import { describe, expect, test } from 'vitest'
import { WorkerHistories } from '../../src/dispatch/worker-histories.ts'
import type { PresetId } from '../../src/index.ts'

const HOUR_MS = 3_600_000

describe('what is learned of workers', () => {
  test('is nothing before anything was measured', () => {
    expect(new WorkerHistories([]).facts('x', 0)).toEqual({
      learnedMemoryMb: null,
      loadMs: null,
      runMs: null,
      handOverMs: null,
      tasksPerHour: 0,
    })
  })

  test('claims the 95th percentile of the last 20 peaks, from the third on', () => {
    const histories = new WorkerHistories([])
    const learned = (): number | null => histories.facts('x', 0).learnedMemoryMb
    histories.peaked('x', 9_000)
    histories.peaked('x', 9_000)
    expect(learned()).toBeNull()
    histories.peaked('x', 8_000)
    expect(learned()).toBe(9_000)
    // One in twenty does not decide, and what is longer ago than twenty is forgotten.
    for (let n = 0; n < 19; n++) histories.peaked('x', 4_000)
    histories.peaked('x', 40_000)
    expect(learned()).toBe(4_000)
  })

  test('tells the middle of the load and run times and how far they spread, each spec by itself', () => {
    const histories = new WorkerHistories([])
    for (const ms of [100, 300, 200, 1_000, 250]) histories.loaded('x', ms)
    histories.ran('x', 40)
    histories.ran('y', 70)
    expect(histories.facts('x', 0)).toMatchObject({
      loadMs: { low: 100, middle: 250, high: 1_000 },
      runMs: { low: 40, middle: 40, high: 40 },
    })
    expect(histories.facts('y', 0).loadMs).toBeNull()
  })

  test('tells how long warm workers take until a task runs', () => {
    const histories = new WorkerHistories([])
    for (const ms of [20, 30, 25]) histories.handedOver('x', ms)
    expect(histories.facts('x', 0).handOverMs).toEqual({ low: 20, middle: 25, high: 30 })
  })

  test('goes on from what an earlier process has stored, newest first', () => {
    const stored = {
      specHash: 'x',
      presetId: 'm/k' as PresetId,
      loadMs: [5],
      runMs: [],
      peakMemoryMb: Array.from({ length: 20 }, (_, age) => (age === 19 ? 90_000 : 100)),
    }
    const histories = new WorkerHistories([stored])
    histories.peaked('x', 100)
    // The oldest one, and it alone, has made room.
    expect(histories.facts('x', 0)).toMatchObject({ learnedMemoryMb: 100, loadMs: { middle: 5 } })
  })

  test('counts the tasks of the last hour', () => {
    const histories = new WorkerHistories([])
    histories.asked('x', 0)
    histories.asked('x', 10)
    histories.asked('x', HOUR_MS)
    expect(histories.facts('x', HOUR_MS).tasksPerHour).toBe(3)
    expect(histories.facts('x', HOUR_MS + 5).tasksPerHour).toBe(2)
    expect(histories.facts('x', 3 * HOUR_MS).tasksPerHour).toBe(0)
  })
})
