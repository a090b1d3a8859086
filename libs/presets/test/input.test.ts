import type { InputIssue, JsonValue } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import { issuesOf, marked, presetFileWith, presetWith, resolved } from './presets-folder.ts'

const SCHEMA = `input:
  type: object
  properties:
    prompt: {type: string, minLength: 1, maxLength: 100}
    steps: {type: integer, minimum: 1, maximum: 50, default: 4}
    size: {enum: [small, large], default: small}
    sampler:
      type: object
      properties: {seed: {type: integer, default: 7}}
      additionalProperties: false
      default: {}
    callback: {type: string, format: uri}
  required: [prompt]
  additionalProperties: false`

async function check(keys: string, input: JsonValue): Promise<JsonValue | readonly InputIssue[]> {
  const result = await resolved(keys, { input })
  if (result.status === 'unknown-preset') throw new Error(result.message)
  return result.status === 'resolved' ? { input: result.input } : result.issues
}

describe('the input of a task', () => {
  it.each([
    ['a text', 'input: {properties: {a: {pattern: "^(a+)+$"}}}', { a: `${'a'.repeat(50)}!` }],
    [
      'a choice that overlaps',
      'input: {properties: {a: {pattern: "^(a|a)*$"}}}',
      { a: `${'a'.repeat(50)}!` },
    ],
    ['a long text', 'input: {properties: {a: {pattern: "a*a*a*a*b"}}}', { a: 'a'.repeat(200_000) }],
    ['a name', 'input: {patternProperties: {"^(a+)+$": {}}}', { [`${'a'.repeat(50)}!`]: 1 }],
    ['all names', 'input: {propertyNames: {pattern: "^(a+)+$"}}', { [`${'a'.repeat(50)}!`]: 1 }],
    ['what is looked for in a list', 'input: {contains: {pattern: "^(a+)+$"}}', [`${'a'.repeat(50)}!`]],
  ])(
    'is refused where %s was made against a pattern, and nobody waits for long',
    async (_what, keys, input) => {
      const before = process.cpuUsage()
      expect(await check(keys, input)).toEqual([
        { path: '', message: 'takes too long to check against the patterns of its schema' },
      ])
      expect(process.cpuUsage(before).user).toBeLessThan(1_000_000)
    },
  )

  it('gets the defaults of the schema, in a copy', async () => {
    const input = { prompt: 'a cat', sampler: {} }
    expect(await check(SCHEMA, input)).toEqual({
      input: { prompt: 'a cat', steps: 4, size: 'small', sampler: { seed: 7 } },
    })
    expect(input).toEqual({ prompt: 'a cat', sampler: {} })
  })

  it.each<[string, JsonValue, InputIssue[]]>([
    ['a member that is missing', {}, [{ path: '/prompt', message: 'is required' }]],
    [
      'a member that is unknown',
      { prompt: 'x', stpes: 3 },
      [{ path: '/stpes', message: 'is not a known member; did you mean "steps"?' }],
    ],
    [
      'a value of another type',
      { prompt: 'x', steps: '3' },
      [{ path: '/steps', message: 'must be integer' }],
    ],
    [
      'a value that is none of the allowed',
      { prompt: 'x', size: 'big' },
      [{ path: '/size', message: 'must be one of "small", "large"' }],
    ],
    [
      'a value out of its range',
      { prompt: '', steps: 51 },
      [
        { path: '/prompt', message: 'must NOT have fewer than 1 characters' },
        { path: '/steps', message: 'must be <= 50' },
      ],
    ],
    [
      'a text that does not fit its format',
      { prompt: 'x', callback: 'not a uri' },
      [{ path: '/callback', message: 'must match format "uri"' }],
    ],
    [
      'a member of a member',
      { prompt: 'x', sampler: { sead: 1 } },
      [{ path: '/sampler/sead', message: 'is not a known member; did you mean "seed"?' }],
    ],
    ['another type altogether', ['x'], [{ path: '', message: 'must be object' }]],
  ])('is refused for %s', async (_name, input, issues) => {
    expect(await check(SCHEMA, input)).toEqual(issues)
  })

  it('counts as {} where a task has none and the preset has a schema', async () => {
    expect(
      await check('input: {type: object, properties: {steps: {type: integer, default: 4}}}', null),
    ).toEqual({ input: { steps: 4 } })
    expect(await check(SCHEMA, null)).toEqual([{ path: '/prompt', message: 'is required' }])
  })

  it('is passed on as it is where the preset has no schema', async () => {
    expect(await check('', null)).toEqual({ input: null })
    expect(await check('', ['anything', { a: 1 }])).toEqual({ input: ['anything', { a: 1 }] })
  })

  it('is told with at most 20 issues', async () => {
    const issues = await check(
      'input: {type: array, items: {type: string}}',
      Array.from({ length: 100 }, (_, i) => i),
    )
    expect(issues).toHaveLength(20)
    expect(issues).toContainEqual({ path: '/19', message: 'must be string' })
  })

  it.each(['', 'input: {}'])('is bounded in size and depth: %j', async (keys) => {
    const deep: JsonValue = JSON.parse('['.repeat(64) + ']'.repeat(64)) as JsonValue
    expect(await check(keys, deep)).toEqual({ input: deep })
    expect(await check(keys, [deep])).toEqual([{ path: '', message: 'the input is nested deeper than 64' }])
    const bytes = 262_144
    expect(await check(keys, 'x'.repeat(bytes - 2))).toEqual({ input: 'x'.repeat(bytes - 2) })
    expect(await check(keys, 'x'.repeat(bytes))).toEqual([
      { path: '', message: 'the input is larger than 262144 bytes of JSON' },
    ])
    expect(await check(keys, 'é'.repeat(bytes / 2))).toHaveLength(1)
  })

  it('is looked at quickly, even where every part of a large one is wrong', async () => {
    const items = Array.from({ length: 60_000 }, () => ({}))
    const start = process.cpuUsage()
    expect(
      await check('input: {type: array, items: {type: string}, uniqueItems: true, maxItems: 1000}', items),
    ).toEqual([{ path: '', message: 'must NOT have more than 1000 items' }])
    expect(process.cpuUsage(start).user).toBeLessThan(1_000_000)
  })

  it('has only the members that are its own', async () => {
    const keys =
      'input: {type: object, properties: {a: {type: integer}}, required: [constructor], patternProperties: {c: {}}}'
    expect(await check(keys, {})).toEqual([{ path: '/constructor', message: 'is required' }])
    const hostile = JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}') as JsonValue
    await check(keys, hostile)
    expect({}).not.toHaveProperty('polluted')
  })

  it('may be described recursively', async () => {
    const tree = `input: {$ref: '#/$defs/node', $defs: {node: {type: object, properties: {of: {type: array, items: {$ref: '#/$defs/node'}}}, additionalProperties: false}}}`
    expect(await check(tree, { of: [{ of: [] }] })).toEqual({ input: { of: [{ of: [] }] } })
    expect(await check(tree, { of: [{ off: 1 }] })).toEqual([
      { path: '/of/0/off', message: 'is not a known member; did you mean "of"?' },
    ])
  })

  it('may be described in draft-07', async () => {
    const keys = `input: {$schema: "http://json-schema.org/draft-07/schema#", type: array, items: [{type: string}], additionalItems: false}`
    expect(await check(keys, ['a'])).toEqual({ input: ['a'] })
    expect(await check(keys, ['a', 1])).toHaveLength(1)
    expect((await presetWith(keys)).inputSchema).toHaveProperty('additionalItems', false)
  })
})

describe('a schema of inputs', () => {
  it.each([
    [
      'a keyword with a slip',
      'input: {properties: {a: {¦minLenght: 3}}}',
      'input.properties.a.minLenght: unknown key; did you mean "minLength"?',
    ],
    ['no keyword at all', 'input: {¦zzzzzz: 3}', 'input.zzzzzz: not a keyword of JSON Schema 2020-12'],
    ['a keyword of another draft', 'input: {¦additionalItems: false}', 'input.additionalItems: '],
    [
      'a type that is none',
      'input: {type: ¦strng}',
      'input.type: "strng" is not a type; did you mean "string"?',
    ],
    ['a type of the wrong kind', 'input: {type: ¦3}', 'input.type: must be'],
    [
      'a limit that is a text',
      'input: {properties: {n: {minimum: ¦"3"}}}',
      'input.properties.n.minimum: must be number',
    ],
    [
      'a format that is none',
      'input: {format: ¦emial}',
      '"emial" is not a known format; did you mean "email"?',
    ],
    [
      'a format whose check is slow',
      'input: {format: ¦url}',
      '"url" is not a known format; did you mean "uri"?',
    ],
    ['a pattern that is none', 'input: {pattern: ¦"("}', 'input.pattern: not a regular expression'],
    [
      'a pattern of names that is none',
      'input: {patternProperties: {¦"(": {}}}',
      'input.patternProperties: not a regular expression',
    ],
    [
      'a required name with a slip',
      'input: {properties: {prompt: {}}, required: ¦[promt]}',
      'input.required: "promt" is not among the properties; did you mean "prompt"?',
    ],
    ['required as a text', 'input: {required: ¦prompt}', 'input.required: must be array'],
    [
      'a schema that is a number',
      'input: {properties: {a: ¦3}}',
      'input.properties.a: must be object,boolean',
    ],
    ['a reference to elsewhere', 'input: {$ref: ¦"https://example.com/schema"}', 'is outside of this schema'],
    ['a reference to a file', 'input: {$ref: ¦"other.json"}', 'is outside of this schema'],
    ['a reference to nothing', 'input: {$ref: ¦"#/$defs/a"}', 'nothing stands at "#/$defs/a"'],
    ['a reference to itself', 'input: ¦{$ref: "#"}', 'refers back to itself'],
    [
      'references in a circle',
      "input: {$ref: '#/$defs/a', $defs: {a: {anyOf: [{$ref: '#/$defs/b'}]}, b: {not: {$ref: '#/$defs/a'}}}}",
      'refers back to itself',
    ],
    [
      'a name of its own',
      'input: {¦$id: a}',
      "schemas here have no names of their own; refer to a part by $ref: '#/$defs/…'",
    ],
    ['a promise', 'input: {¦$async: true}', 'input.$async: '],
    [
      'an unknown draft',
      'input: {$schema: ¦"http://json-schema.org/draft-04/schema#"}',
      'input.$schema: expected https://json-schema.org/draft/2020-12/schema or http://json-schema.org/draft-07/schema',
    ],
    [
      'unique items without a bound',
      'input: {type: array, uniqueItems: ¦true}',
      'needs maxItems of at most 1000 beside it',
    ],
    ['a number that JSON does not have', 'input: {maximum: ¦.inf}', 'JSON has no number .inf'],
    [
      'a default that has no effect',
      'input: ¦{anyOf: [{properties: {a: {default: 1}}}]}',
      'not a usable JSON Schema: strict mode: default is ignored',
    ],
    [
      'more than 5,000 values',
      `input: ¦{enum: [${Array.from({ length: 5_001 }, (_, i) => i).join(',')}]}`,
      'more than 5000 values',
    ],
  ])('may not have %s', async (_name, keys, says) => {
    const marks = keys.includes('¦')
    const { content, position } = marks
      ? marked(presetFileWith(keys))
      : { content: presetFileWith(keys), position: null }
    const issues = await issuesOf(content)
    expect(issues).toEqual([expect.stringContaining(says)])
    if (position !== null) expect(issues[0]?.split(' ')[0]).toBe(position)
  })

  it.each([
    'input: {anyOf: [{required: [a]}, {required: [b]}], properties: {a: {}, b: {}}}',
    'input: {type: [string, "null"]}',
    'input: {properties: {type: {type: string}, $ref: {type: string}, default: {type: integer, default: 3}}}',
    'input: {prefixItems: [{type: string}], items: false, minLength: 3}',
    'input: {type: object, title: T, description: D, examples: [{}], deprecated: true, $comment: C}',
    'input: {if: {required: [a]}, then: {required: [b]}, else: true}',
    'input: {properties: {a: &s {type: string}, b: *s}}',
    'input: {type: array, uniqueItems: true, maxItems: 1000}',
    'input: {dependentRequired: {a: [b]}, unevaluatedProperties: false}',
  ])('may be %s', async (keys) => {
    expect(await issuesOf(presetFileWith(keys))).toEqual([])
  })
})
