import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { TaskEventBody } from '../src/event.ts'
import { createOutputBuilder, MAX_TEXT_LENGTH } from '../src/output.ts'

const text = fc.string({ maxLength: 5 })
const body: fc.Arbitrary<TaskEventBody> = fc.oneof(
  text.map((delta) => ({ type: 'text_delta', delta }) as const),
  { weight: 1, arbitrary: text.map((content) => ({ type: 'text', content }) as const) },
  fc.constantFrom(null, 1, 'a').map((value) => ({ type: 'result', value }) as const),
  fc.dictionary(fc.constantFrom('a', 'b'), fc.nat()).map((values) => ({ type: 'usage', values }) as const),
  fc.constant({ type: 'gap', detail: '' } as const),
)

function builderOf(bodies: readonly TaskEventBody[]) {
  const builder = createOutputBuilder()
  for (const each of bodies) builder.add(each)
  return builder
}

test('is the same whether it is put together at once or from two parts, wherever they are cut', () => {
  fc.assert(
    fc.property(fc.array(body, { maxLength: 12 }), fc.nat(12), (bodies, at) => {
      const [earlier, later] = [builderOf(bodies.slice(0, at)), builderOf(bodies.slice(at))]
      expect(later.build(earlier)).toEqual(builderOf(bodies).build())
    }),
  )
})

test('is cut where two parts together are too long', () => {
  const half: TaskEventBody = { type: 'text_delta', delta: 'x'.repeat(MAX_TEXT_LENGTH / 2 + 1) }
  expect(builderOf([half]).build(builderOf([half])).text).toHaveLength(MAX_TEXT_LENGTH)
})
