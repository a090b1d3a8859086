import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createPacer, type Pacer } from '../src/pacer.ts'

const GAP_MS = 20

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function stage(): { pacer: Pacer; passed: string[] } {
  const passed: string[] = []
  return { pacer: createPacer(GAP_MS, (text) => passed.push(text)), passed }
}

test('pieces that come slowly pass at once, each alone', () => {
  const { pacer, passed } = stage()
  for (const piece of ['so', ' it', ' is']) {
    pacer.push(piece)
    expect(passed.at(-1)).toBe(piece)
    vi.advanceTimersByTime(GAP_MS)
  }
  expect(passed).toHaveLength(3)
})

test('what comes fast passes together when the gap is over, whether more comes or not', () => {
  const { pacer, passed } = stage()
  for (const piece of ['so', ' it', ' is']) pacer.push(piece)
  expect(passed).toEqual(['so'])
  vi.advanceTimersByTime(GAP_MS - 1)
  expect(passed).toEqual(['so'])
  vi.advanceTimersByTime(1)
  expect(passed).toEqual(['so', ' it is'])
})

test('at the end what was kept passes, and nothing after it', () => {
  const { pacer, passed } = stage()
  for (const piece of ['so', ' it']) pacer.push(piece)
  pacer.end()
  vi.advanceTimersByTime(10 * GAP_MS)
  pacer.end()
  expect(passed).toEqual(['so', ' it'])
})
