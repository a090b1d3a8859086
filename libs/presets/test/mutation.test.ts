import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { GOOD_KEYS } from './keys.ts'
import { presetFileWith, presetsFolder } from './presets-folder.ts'

const shipped = await readFile(
  join(import.meta.dirname, '../../../apps/api/config/model_presets.yaml'),
  'utf8',
)
const SEEDS = [
  shipped,
  ...GOOD_KEYS.map(({ keys }) => presetFileWith(keys)),
  presetFileWith(`env_vars: &e {A: b, C: "d"}
local: ['python3', worker.py]
input:
  $schema: https://json-schema.org/draft/2020-12/schema
  type: object
  properties: {prompt: {type: string, pattern: "^a+$"}, list: {type: array, items: {$ref: '#/$defs/x'}}}
  required: [prompt]
  $defs: {x: {anyOf: [{const: 1}, {enum: [a, null, 2.5]}]}}
description: |
  several
  lines
volumes: [{source: /tmp, target: /data, read_only: false}]
timeouts: {run: 1h30m}`),
]

const SPLINTERS = [
  '{',
  '}',
  '[',
  ']',
  ':',
  ': ',
  '- ',
  '\n',
  '\n  ',
  '&a ',
  '*a',
  '!t ',
  '|',
  '>',
  '"',
  "'",
  '#',
  '---\n',
  '...\n',
  '%YAML 1.1\n',
  '\t',
  '<<',
  '?',
  '\0',
  '\uFEFF',
  '\r',
  '\\',
  '~',
  '1e999',
  '.inf',
  '__proto__',
  '$ref',
  '🙂',
  '\ud800',
  'models',
  'input',
  'x'.repeat(300),
  '['.repeat(100),
  '- '.repeat(100),
]

/** What happens to a text: a stretch of it is replaced by something. */
const slip = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  length: fc.oneof(fc.constant(0), fc.nat({ max: 5 }), fc.nat({ max: 500 })),
  by: fc.oneof(fc.constantFrom(...SPLINTERS), fc.string({ maxLength: 5, unit: 'binary' }), fc.constant('')),
})

it('whatever becomes of a file, it is read or told with places in it, and quickly', async () => {
  await using folder = await presetsFolder()
  const catalog = await folder.open({ volumeRoots: ['/tmp'] })
  let valid = 0
  let invalid = 0
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...SEEDS),
      fc.array(slip, { minLength: 1, maxLength: 4 }),
      async (seed, slips) => {
        let content = seed
        for (const { at, length, by } of slips) {
          const start = Math.floor(at * content.length)
          content = content.slice(0, start) + by + content.slice(start + length)
        }
        await folder.write(content)
        const start = process.cpuUsage()
        const result = await catalog.reload()
        expect(process.cpuUsage(start).user).toBeLessThan(1_000_000)
        if (result.status === 'reloaded') {
          valid++
          expect(catalog.issues()).toEqual([])
          for (const preset of catalog.presets())
            expect(
              catalog.resolve({
                presetId: preset.id,
                input: { prompt: 'aaa' },
                timeoutMs: null,
                gpuIds: null,
              }).status,
            ).not.toBe('unknown-preset')
          return
        }
        invalid++
        expect(result.issues.length).toBeGreaterThan(0)
        const lines = content.split('\n').length
        for (const issue of result.issues) {
          expect(issue.line).toBeGreaterThanOrEqual(1)
          expect(issue.line).toBeLessThanOrEqual(lines)
          expect(issue.column).toBeGreaterThanOrEqual(1)
          expect(issue.message).not.toBe('')
          expect(issue.message.length).toBeLessThan(700)
        }
      },
    ),
    { numRuns: 600 },
  )
  expect(valid).toBeGreaterThan(20)
  expect(invalid).toBeGreaterThan(100)
}, 120_000)

it('a file that is cut off anywhere is read or told', async () => {
  await using folder = await presetsFolder()
  const catalog = await folder.open()
  for (let end = 0; end <= shipped.length; end++) {
    await folder.write(shipped.slice(0, end))
    const result = await catalog.reload()
    expect(result.status === 'reloaded' || result.issues.length > 0).toBe(true)
  }
}, 60_000)
