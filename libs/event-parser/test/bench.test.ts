import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { linesOf, SHAPES } from '../bench/fixture.ts'
import { bench } from '../bench/parse.ts'
import { outlineOf, read } from './transcript.ts'

const LINES = 2_000

function outline(name: string): string[] {
  const shape = SHAPES.find((it) => it.name === name)
  if (shape === undefined) throw new Error(`no shape ${name}`)
  return outlineOf(read(linesOf(shape, LINES).join('\n')))
}

test('the fixture is the same every time', () => {
  const hash = createHash('sha256')
  for (const shape of SHAPES) hash.update(linesOf(shape, LINES).join('\n'))
  expect(hash.digest('hex')).toBe('9e96cce2a9522041a118db0a1b89cb6bdff24173bdbdbb550a97297ef0a79800')
})

test('the streams of deltas hold deltas only, as long as a worker prints them', () => {
  for (const name of ['text_delta', 'text_delta, escaped', 'text_delta, not ASCII']) {
    expect(outline(name)).toEqual(Array.from({ length: LINES }, () => 'text_delta'))
  }
  const [shape] = SHAPES
  if (shape === undefined) throw new Error('no shape')
  for (const line of linesOf(shape, LINES))
    expect(line).toMatch(/^\{"event":"text_delta","delta":"tok \d{3} "\}$/)
})

test('the lines of 1 KB are about that long', () => {
  const shape = SHAPES.find((it) => it.name === 'text of 1 KB')
  const lengths = shape === undefined ? [] : linesOf(shape, LINES).map((line) => line.length)
  expect(Math.min(...lengths)).toBeGreaterThan(900)
  expect(Math.max(...lengths)).toBeLessThan(1_100)
})

test('the mixed stream holds every kind of line, two thirds of them deltas, and no fault', () => {
  const kinds = outline('mixed')
  expect([...new Set(kinds)].sort()).toEqual(['custom', 'log', 'progress', 'text_delta', 'usage', 'worker'])
  expect(kinds.filter((it) => it === 'text_delta').length / LINES).toBeCloseTo(0.65, 1)
})

test('the bench measures every shape and checks that all of its lines were read', async () => {
  const rows = await bench(0.001)
  expect(rows.map(({ name }) => name)).toEqual(SHAPES.map(({ name }) => `event-parser: ${name}`))
  for (const row of rows) {
    expect(row.value).toBeGreaterThan(0)
    expect(row.ratio).toBeGreaterThan(0)
  }
})
