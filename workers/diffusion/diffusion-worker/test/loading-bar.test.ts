import { expect, test } from 'vitest'
import { loadedPercent } from '../src/loading-bar.ts'

const bar = (count: string): string => `\r  |##########        | ${count}MB/s\u001b[K`

test.each([
  ['the bar', bar('565/1130 - 661.69'), 50],
  ['two of them, of which the last counts', bar('1/1130 - 1.00') + bar('1129/1130 - 393.04'), 99],
  ['the last one', `${bar('1130/1130 - 393.04')}\n`, 100],
  ['half a bar', bar('565/1130 - 661.69').slice(0, 25), null],
  ['something else', 'loading 3/4', null],
])('what %s says', (_what, text, percent) => {
  expect(loadedPercent(text)).toBe(percent)
})
