import { expect, it } from 'vitest'
import { parseGpusSetting } from '../src/index.ts'

it.each([
  ['auto', 'auto'],
  ['none', 'none'],
  ['simulated:2x81920', { simulated: { count: 2, memoryMb: 81_920 } }],
  ['simulated:64x1', { simulated: { count: 64, memoryMb: 1 } }],
])('%s is a setting', (text, source) => {
  expect(parseGpusSetting(text)).toEqual({ status: 'parsed', source })
})

it.each([
  ['', 'must be auto, none or simulated:<count>x<memory MB>'],
  ['all', 'not "all"'],
  ['simulated', 'must be auto'],
  ['simulated:2', 'must be auto'],
  ['simulated:2x', 'must be auto'],
  ['simulated:-1x5', 'must be auto'],
  ['simulated:2x80GB', 'must be auto'],
  [' auto', 'must be auto'],
  ['simulated:0x100', 'must be 1 to 64, not 0'],
  ['simulated:65x100', 'must be 1 to 64, not 65'],
  ['simulated:1x0', 'must be 1 to 16777216 MB, not 0'],
  ['simulated:1x16777217', 'must be 1 to 16777216 MB, not 16777217'],
])('%j is none, and the message says why', (text, message) => {
  const setting = parseGpusSetting(text)
  expect(setting.status === 'invalid' ? setting.message : setting).toContain(message)
})
