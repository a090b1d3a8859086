import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { TaskEvent, TaskId } from '../src/index.ts'
import { MAX_BATCH_EVENTS, Tail } from '../src/tail.ts'

const id = 'task' as TaskId

/** Pushes events as a worker's lines bring them. */
const push = (tail: Tail, task: TaskId, added: readonly TaskEvent[]): void => {
  tail.push(task, added, JSON.stringify(added).length)
}
const events = (from: number, to: number, delta = 'x'): TaskEvent[] =>
  Array.from({ length: to - from + 1 }, (_, i) => ({
    seq: from + i,
    at: 0,
    attempt: 1,
    body: { type: 'text_delta', delta },
  }))

describe('the tail', () => {
  test('gives readers that are up to date the very same batch', () => {
    const tail = new Tail()
    push(tail, id, events(1, 3))
    push(tail, id, events(4, 5))
    const batch = tail.after(id, 3)
    expect(batch).toBe(tail.after(id, 3))
    expect(batch).toEqual({ events: events(4, 5), lastSeq: 5 })
  })

  test('gives readers that are equally far behind the very same batch', () => {
    const tail = new Tail()
    push(tail, id, events(1, 3))
    push(tail, id, events(4, 5))
    expect(tail.after(id, 1)).toBe(tail.after(id, 1))
    expect(tail.after(id, 1)).toEqual({ events: events(2, 5), lastSeq: 5 })
  })

  test('tells a reader that is up to date from one that it cannot serve', () => {
    const tail = new Tail()
    expect(tail.after(id, 0)).toBe('unknown')
    push(tail, id, events(4, 6))
    expect(tail.after(id, 6)).toBe('up-to-date')
    expect(tail.after(id, 2)).toBe('unknown')
    expect(tail.after(id, 3)).toMatchObject({ lastSeq: 6 })
  })

  test('forgets what it holds when events were written past it', () => {
    const tail = new Tail()
    push(tail, id, events(1, 3))
    push(tail, id, events(5, 6))
    expect(tail.after(id, 2)).toBe('unknown')
    expect(tail.after(id, 4)).toMatchObject({ events: events(5, 6) })
  })

  test('holds a bounded amount of one task, the most recent of it', () => {
    const tail = new Tail()
    for (let from = 1; from <= 30_000; from += 300) push(tail, id, events(from, from + 299))
    expect(tail.after(id, 0)).toBe('unknown')
    expect(tail.after(id, 29_000)).not.toBe('unknown')
    expect(tail.weight).toBeLessThan(3 * 1024 * 1024)
  })

  test('holds a bounded amount of all tasks, and lets go of those that were quiet longest', () => {
    const tail = new Tail()
    for (let n = 0; n < 200; n++) push(tail, `t${n}` as TaskId, events(1, 10, 'y'.repeat(100_000)))
    expect(tail.weight).toBeLessThan(64 * 1024 * 1024)
    expect(tail.after('t0' as TaskId, 0)).toBe('unknown')
    expect(tail.after('t199' as TaskId, 9)).not.toBe('unknown')
    for (let n = 0; n < 200; n++) tail.drop(`t${n}` as TaskId)
    expect(tail.weight).toBe(0)
  })

  test('holds no more of large results than of long texts', () => {
    const tail = new Tail()
    const value = 'z'.repeat(900_000)
    for (let seq = 1; seq <= 100; seq++) {
      push(tail, id, [{ seq, at: 0, attempt: 1, body: { type: 'result', value } }])
    }
    expect(tail.weight).toBeLessThan(4 * 1024 * 1024)
  })

  test('cuts a large commit into batches that a subscriber can take', () => {
    const tail = new Tail()
    push(tail, id, events(1, 1_200))
    const first = tail.after(id, 0)
    expect(first).toMatchObject({ lastSeq: 1_200 })
    expect(typeof first === 'object' && first.events.length).toBe(MAX_BATCH_EVENTS)
  })

  test('however it is pushed and read, a reader that it serves gets each event once and in order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 20 }),
        fc.nat(1_000),
        (sizes, start) => {
          const tail = new Tail()
          let last = 0
          for (const size of sizes) {
            push(tail, id, events(last + 1, last + size))
            last += size
          }
          let after = Math.min(start, last)
          for (let batch = tail.after(id, after); batch !== 'up-to-date'; batch = tail.after(id, after)) {
            if (batch === 'unknown') return
            expect(batch.events[0]?.seq).toBe(after + 1)
            expect(batch.events.length).toBeLessThanOrEqual(MAX_BATCH_EVENTS)
            after = batch.events.at(-1)?.seq ?? Number.NaN
          }
          expect(after).toBe(last)
        },
      ),
      { numRuns: 300 },
    )
  })
})
