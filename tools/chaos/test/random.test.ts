import { expect, test } from 'vitest'
import { Random } from '../src/random.ts'
import { writeScript } from '../src/script.ts'
import { slopeOf } from '../src/slope.ts'

function scripts(seed: string): unknown[] {
  const random = new Random(seed)
  return Array.from({ length: 200 }, (_, n) => writeScript(random.fork(String(n)), 'docker'))
}

test('the same seed writes the same scripts, another one others', () => {
  expect(scripts('a')).toEqual(scripts('a'))
  expect(scripts('b')).not.toEqual(scripts('a'))
})

test('what is drawn from a fork changes nothing for its origin', () => {
  const [one, other] = [new Random('a'), new Random('a')]
  one.fork('x').next()
  expect(one.next()).toBe(other.next())
})

test('chance is even, and weights count', () => {
  const random = new Random('even')
  const draws = Array.from({ length: 20_000 }, () => random.int(1, 4))
  for (const face of [1, 2, 3, 4])
    expect(draws.filter((draw) => draw === face).length / draws.length).toBeCloseTo(0.25, 1)
  const picked = Array.from({ length: 20_000 }, () => random.weighted({ often: 9, seldom: 1, never: 0 }))
  expect(picked.filter((name) => name === 'seldom').length / picked.length).toBeCloseTo(0.1, 1)
  expect(picked).not.toContain('never')
})

test('a slope is told with how far it can be trusted', () => {
  const hours = Array.from({ length: 100 }, (_, index) => index / 100)
  expect(slopeOf(hours.map((hour) => [hour, 5 + 3 * hour]))).toMatchObject({
    value: expect.closeTo(3, 9) as number,
  })
  const random = new Random('noise')
  const noisy = slopeOf(hours.map((hour) => [hour, 5 + 3 * hour + random.next()]))
  expect(noisy.margin).toBeGreaterThan(0.05)
  expect(Math.abs(noisy.value - 3)).toBeLessThan(2 * noisy.margin)
})
