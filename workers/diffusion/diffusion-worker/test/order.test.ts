import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { InvalidInput, type JsonValue } from '@gpu-service/worker'
import { expect, test } from 'vitest'
import { inputFor, readOrder } from '../src/order.ts'

/** What both workers, for both engines, make of an input. */
interface Case {
  readonly what: string
  readonly input: JsonValue
  readonly files?: readonly string[]
  readonly order?: object
  readonly refused?: string
}

const CASES = JSON.parse(readFileSync(join(import.meta.dirname, 'orders.json'), 'utf8')) as Case[]

test.each(CASES.filter(({ refused }) => refused === undefined))(
  'understood is $what',
  ({ input, files = [], order: expected }) => {
    const order = readOrder(input, files)
    const { seed, count } = order
    expect({ ...inputFor(order, 1), seed, count }).toEqual(expected)
  },
)

test.each(CASES.filter(({ refused }) => refused !== undefined))(
  'refused is $what',
  ({ input, files = [], refused }) => {
    expect(() => readOrder(input, files)).toThrow(new InvalidInput(refused ?? ''))
  },
)

test('what makes an image again is an input', () => {
  const order = readOrder({ prompt: 'a fox', init_image: 'a.png', strength: 0.5 }, ['a.png'])
  const again = { ...inputFor(order, 7) }
  expect(readOrder(again, ['a.png'])).toEqual({ ...order, seed: 7 })
})
