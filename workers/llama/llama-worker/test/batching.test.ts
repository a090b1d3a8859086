import type { BatchItem, Token } from 'node-llama-cpp'
import { expect, test } from 'vitest'
import { allTogether } from '../src/batching.ts'

const waiting = (length: number): BatchItem => ({ tokens: Array.from({ length }, () => 7 as Token) })

/** How many tokens of each item come into a step for 8. */
function sharesOf(choose: ReturnType<typeof allTogether>, items: readonly BatchItem[]): number[] {
  const chosen = choose({ items, size: 8 })
  return items.map((item) => chosen.find((choice) => choice.item === item)?.processAmount ?? 0)
}

test('one that is alone is computed at once', () => {
  expect(
    sharesOf(
      allTogether(() => 1),
      [waiting(1)],
    ),
  ).toEqual([1])
})

test('where several are at work, the step waits for the last of them', () => {
  const choose = allTogether(() => 3)
  const items = [waiting(1), waiting(1)]
  expect(sharesOf(choose, items)).toEqual([0, 0])
  expect(sharesOf(choose, [...items, waiting(1)])).toEqual([1, 1, 1])
})

test('it does not wait for ever for one that does not come, and waits anew the next time', () => {
  const choose = allTogether(() => 2)
  const items = [waiting(1)]
  const looks = (): number => {
    for (let look = 0; look < 1_000; look++) if (sharesOf(choose, items)[0] === 1) return look
    return Infinity
  }
  const first = looks()
  expect(first).toBeGreaterThan(0)
  expect(first).toBeLessThan(1_000)
  expect(looks()).toBe(first)
})

test('each gets a place, and a long prompt the room that is left', () => {
  const choose = allTogether(() => 3)
  expect(sharesOf(choose, [waiting(100), waiting(1), waiting(2)])).toEqual([5, 1, 2])
  expect(sharesOf(choose, [waiting(100), waiting(100), waiting(1)])).toEqual([3, 4, 1])
})
