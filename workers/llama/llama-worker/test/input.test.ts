import { InvalidInput, type JsonValue } from '@gpu-service/worker'
import { describe, expect, test } from 'vitest'
import { parseInput } from '../src/input.ts'

const withSchema = (json_schema: JsonValue): JsonValue => ({ prompt: 'a', json_schema })

describe('an input', () => {
  test('has defaults for all but what is asked', () => {
    expect(parseInput({ prompt: 'a' })).toEqual({
      kind: 'completion',
      prompt: 'a',
      sampling: {
        temperature: 0.8,
        topP: 0.95,
        topK: 40,
        minP: 0.05,
        repeatPenalty: 1,
        maxTokens: null,
        seed: null,
        stop: [],
        jsonSchema: null,
      },
    })
  })

  test('takes one text where a list of them may stand', () => {
    expect(parseInput({ embed: 'a' })).toEqual({ kind: 'embeddings', texts: ['a'] })
    expect(parseInput({ prompt: 'a', stop: 'b' })).toMatchObject({ sampling: { stop: ['b'] } })
  })

  test.each<[JsonValue, string]>([
    ['a', 'must be an object'],
    [{}, 'one of `messages`, `prompt` and `embed`'],
    [{ prompt: 'a', embed: 'b' }, 'one of'],
    [{ prompt: '' }, '`prompt` must be a text'],
    [{ messages: [] }, '`messages` must be a list'],
    [{ messages: [{ role: 'tool', content: 'a' }] }, '`messages[0].role`'],
    [{ messages: [{ role: 'user', content: [] }] }, '`messages[0].content`'],
    [{ prompt: 'a', temperature: '1' }, '`temperature` must be a number from 0 to 10'],
    [{ prompt: 'a', max_tokens: 1.5 }, '`max_tokens` must be a whole number'],
    [{ prompt: 'a', seed: -1 }, '`seed`'],
    [{ prompt: 'a', stop: ['b', ''] }, '`stop[1]`'],
    [withSchema('string'), '`json_schema` must be an object'],
    [withSchema({}), 'must have one of type'],
    [withSchema({ type: 'strin' }), 'must have one of type'],
    [withSchema({ enum: [] }), '`json_schema.enum`'],
    [withSchema({ type: 'string', pattern: 'a' }), '`json_schema.pattern`: nothing can hold a text to that'],
    [withSchema({ type: 'string', format: 'email' }), '`json_schema.format`'],
    [withSchema({ type: 'array', items: { type: 'number', minimum: 1 } }), '`json_schema.items.minimum`'],
    [withSchema({ type: 'object', properties: { a: { $ref: '#/a' } } }), '`json_schema.properties.a.$ref`'],
  ])('is refused with its place: %j', (input, message) => {
    expect(() => parseInput(input)).toThrow(InvalidInput)
    expect(() => parseInput(input)).toThrow(message)
  })

  test('may hold a schema with all that a grammar can say', () => {
    const schema = {
      $defs: {
        tree: { type: 'object', properties: { more: { type: 'array', items: { $ref: '#/$defs/tree' } } } },
      },
      type: 'object',
      properties: {
        name: { type: 'string', minLength: 1, maxLength: 10 },
        on: { type: 'string', format: 'date' },
        kind: { oneOf: [{ const: 1 }, { enum: ['a', null] }, { type: ['integer', 'null'] }] },
        tree: { $ref: '#/$defs/tree' },
      },
      required: ['name'],
      additionalProperties: false,
    }
    expect(parseInput(withSchema(schema))).toMatchObject({ sampling: { jsonSchema: schema } })
  })
})
