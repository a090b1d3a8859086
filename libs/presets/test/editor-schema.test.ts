import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import { describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { presetFileSchema } from '../src/json-schema.ts'
import { GOOD_KEYS, WRONG_KEYS } from './keys.ts'
import { presetFileWith, presetsFolder } from './presets-folder.ts'

const here = (path: string) => join(import.meta.dirname, '..', path)
const written: unknown = JSON.parse(await readFile(here('model-presets.schema.json'), 'utf8'))
const reference = await readFile(here('PRESETS.md'), 'utf8')
const fits = new Ajv({ strict: true, allowUnionTypes: true }).compile(presetFileSchema())

/** Every key of the format with its default, as `timeouts.run`. */
function keysOf(schema: unknown, path = ''): { key: string; schema: Record<string, unknown> }[] {
  if (typeof schema !== 'object' || schema === null) return []
  return Object.entries(schema).flatMap(([keyword, inner]: [string, unknown]) => {
    if (keyword === 'additionalProperties' || keyword === 'items') return keysOf(inner, path)
    if (keyword !== 'properties' || typeof inner !== 'object' || inner === null) return []
    return Object.entries(inner).flatMap(([name, field]: [string, Record<string, unknown>]) => {
      const key = path === '' ? name : `${path}.${name}`
      return [{ key, schema: field }, ...keysOf(field, name === 'models' ? '' : key)]
    })
  })
}

describe('the JSON Schema for editors', () => {
  it('is the one that the format gives; `npm run schema` writes it', () => {
    expect(written).toEqual(presetFileSchema())
  })

  it('is where the shipped file points', async () => {
    const shipped = join(import.meta.dirname, '../../../apps/api/config/model_presets.yaml')
    const pointer =
      /^# yaml-language-server: \$schema=(.*)$/m.exec(await readFile(shipped, 'utf8'))?.[1] ?? ''
    expect(join(shipped, '..', pointer)).toBe(here('model-presets.schema.json'))
    expect(fits(parse(await readFile(shipped, 'utf8')))).toBe(true)
  })

  it.each(GOOD_KEYS)('accepts $keys', ({ keys }) => {
    fits(parse(presetFileWith(keys)))
    expect(fits.errors).toBeNull()
  })

  it.each(WRONG_KEYS.filter(({ editorCannotTell }) => !editorCannotTell))('refuses $keys', ({ keys }) => {
    expect(fits(parse(presetFileWith(keys.replace('¦', ''))))).toBe(false)
  })
})

describe('the reference of the format', () => {
  const keys = keysOf(presetFileSchema())

  it('knows as many keys as the format', () => {
    expect(keys.length).toBeGreaterThan(25)
  })

  it.each(keys)('describes $key with its default', ({ key, schema }) => {
    const row = reference.split('\n').find((line) => line.split('|')[1]?.trim() === `\`${key}\``)
    expect(row).toBeDefined()
    const value = schema['default']
    const shown = typeof value === 'string' ? value : JSON.stringify(value)
    if (value !== undefined) expect(row).toContain(`\`${shown}\``)
  })

  it('has examples that are valid', async () => {
    const examples = [...reference.matchAll(/```yaml\n((?:#.*\n)?models:[\s\S]*?)```/g)].map(
      (match) => match[1] ?? '',
    )
    expect(examples.length).toBeGreaterThan(2)
    for (const example of examples) {
      await using folder = await presetsFolder(example.replaceAll('/srv/datasets', '/tmp'))
      expect(
        (await folder.open({ volumeRoots: ['/tmp'], secretRoots: ['/run/credentials'] })).issues(),
      ).toEqual([])
    }
  })
})
