import { expect, test } from 'vitest'
import { createStopGate } from '../src/stop-gate.ts'

/** What passes of the pieces, and whether a stop text was met. */
function through(stops: readonly string[], pieces: readonly string[]): { passed: string[]; met: boolean } {
  const passed: string[] = []
  const gate = createStopGate(stops, (text) => passed.push(text))
  const met = pieces.some((piece) => gate.push(piece))
  gate.end()
  return { passed, met }
}

test('without stop texts every piece passes as it comes', () => {
  expect(through([], ['so', ' it', ' is'])).toEqual({ passed: ['so', ' it', ' is'], met: false })
})

test('a stop text ends the text before it, wherever it is cut into pieces', () => {
  expect(through(['END'], ['aE', 'N', 'Db', 'c'])).toEqual({ passed: ['a'], met: true })
  expect(through(['END'], ['a ENDED'])).toEqual({ passed: ['a '], met: true })
})

test('the first of several in the text is the one that counts', () => {
  expect(through(['later', 'now'], ['a now later'])).toEqual({ passed: ['a '], met: true })
})

test('what only begins like a stop text passes when it is clear, or at the end', () => {
  expect(through(['END'], ['aE', 'Nough', ' E'])).toEqual({ passed: ['a', 'ENough', ' ', 'E'], met: false })
  expect(through(['aab'], ['aaa', 'b'])).toEqual({ passed: ['a'], met: true })
})
