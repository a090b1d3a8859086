import { describe, expect, test } from 'vitest'
import type { JsonValue } from '../src/index.ts'
import { outlineOf, read } from './transcript.ts'

/** What RFC 8259 allows, and what it is. */
const VALID: readonly (readonly [json: string, value: JsonValue])[] = [
  ['0', 0],
  ['-0', -0],
  ['7', 7],
  ['-12', -12],
  ['1.5', 1.5],
  ['-0.0625', -0.0625],
  ['1e3', 1000],
  ['1E3', 1000],
  ['1e+3', 1000],
  ['25e-2', 0.25],
  ['0e0', 0],
  ['0e-7', 0],
  ['1.25E+2', 125],
  ['123456789012', 123456789012],
  ['true', true],
  ['false', false],
  ['null', null],
  ['""', ''],
  ['"a"', 'a'],
  ['" "', ' '],
  ['"\\""', '"'],
  ['"\\\\"', '\\'],
  ['"\\/"', '/'],
  ['"/"', '/'],
  ['"\\b\\f\\n\\r\\t"', '\b\f\n\r\t'],
  ['"\\u0041"', 'A'],
  ['"\\u00e9\\u00E9"', 'éé'],
  ['"\\u20ac"', '€'],
  ['"\\ud83d\\ude80"', '🚀'],
  ['"🚀"', '🚀'],
  ['"\\u001f"', '\u001f'],
  ['"\u007f"', '\u007f'],
  ['"\u2028\u2029"', '\u2028\u2029'],
  ['"\\u2028"', '\u2028'],
  ['"\\ufeff"', '\ufeff'],
  ['"\ufeff"', '\ufeff'],
  ['"\uffff\u{10ffff}"', '\uffff\u{10ffff}'],
  ['"\\\\u0041"', '\\u0041'],
  ['"{\\"event\\":\\"finish\\"}"', '{"event":"finish"}'],
  ['"// no comment"', '// no comment'],
  ['"[[[{{{"', '[[[{{{'],
  ['[]', []],
  ['[ ]', []],
  ['[1]', [1]],
  ['[1,2,3]', [1, 2, 3]],
  [' [\t1 ,\r2 ] ', [1, 2]],
  ['[[],[[]]]', [[], [[]]]],
  ['[null,true,"",0,{}]', [null, true, '', 0, {}]],
  ['{}', {}],
  ['{ }', {}],
  ['{"a":1}', { a: 1 }],
  ['{"":0}', { '': 0 }],
  ['{"a":1,"b":[2]}', { a: 1, b: [2] }],
  ['{ "a" : { "b" : { } } }', { a: { b: {} } }],
  ['{"\\u0061":1}', { a: 1 }],
  ['{"a":1,"a":2}', { a: 2 }],
  ['{"a":1,"\\u0061":2}', { a: 2 }],
  ['{"a\\tb":1}', { 'a\tb': 1 }],
  ['{"10":1,"9":2}', { 9: 2, 10: 1 }],
  ['{"event":"finish","status":"completed"}', { event: 'finish', status: 'completed' }],
]

/** What RFC 8259 leaves to the reader, and what this one makes of it. */
const DECIDED: readonly (readonly [json: string, value: JsonValue])[] = [
  ['9007199254740993', 9007199254740992],
  ['123456789012345678901234567890', 123456789012345680000000000000],
  ['0.1000000000000000055511151231257827', 0.1],
  ['1e-400', 0],
  ['-1e-400', -0],
  ['1e400', null],
  ['-1e400', null],
  ['1'.repeat(310), null],
  [`${'1'.repeat(300)}e-300`, 1 / 9],
  ['"\\u0000"', '\ufffd'],
  ['"\0"', '\ufffd'],
  ['"\\ud83d"', '\ufffd'],
  ['"\\ude80"', '\ufffd'],
  ['"\\ude80\\ud83d"', '\ufffd\ufffd'],
  ['"\\ud83dx"', '\ufffdx'],
  ['"\\ud83d\\n"', '\ufffd\n'],
  ['"\\ud83d\\ud83d\\ude80"', '\ufffd🚀'],
  ['"\\uD83D\\u0041"', '\ufffdA'],
  ['{"\\ud800":"\\udfff"}', { '\ufffd': '\ufffd' }],
]

/** What is not JSON. */
const INVALID: readonly string[] = [
  '',
  '01',
  '-01',
  '+1',
  '-',
  '--1',
  '- 1',
  '.5',
  '-.5',
  '1.',
  '1.e3',
  '1e',
  '1e+',
  '1e1.5',
  '1e 3',
  '0x1f',
  '0b1',
  '0o7',
  '1_000',
  '1,000,',
  '1 000',
  '1n',
  '1.2.3',
  '\uff11',
  'NaN',
  'Infinity',
  '-Infinity',
  'nan',
  'undefined',
  'True',
  'None',
  'TRUE',
  'nul',
  'nulll',
  'truefalse',
  'a',
  '"',
  '"a',
  'a"',
  "'a'",
  '`a`',
  '“a”',
  '"a" "b"',
  '"a"b',
  '"\\"',
  '"\\x41"',
  '"\\a"',
  '"\\0"',
  '"\\U0041"',
  '"\\u"',
  '"\\u004"',
  '"\\u00g0"',
  '"\\u{41}"',
  '"\\u 041"',
  '"\\\t"',
  '"\\é"',
  '"a\tb"',
  '"\u0001"',
  '"\u001f"',
  '"\u001b[0m"',
  '[',
  ']',
  '[1',
  '1]',
  '[1,]',
  '[,1]',
  '[,]',
  '[1,,2]',
  '[1 2]',
  '[1;2]',
  '[1:2]',
  '["a":1]',
  '[1}',
  '[1]]',
  '[][]',
  '(1)',
  '<1>',
  '{',
  '{{}}',
  '{"a"',
  '{"a":',
  '{"a"}',
  '{"a" 1}',
  '{"a",1}',
  '{"a"=1}',
  '{"a"::1}',
  '{"a":1,}',
  '{,"a":1}',
  '{"a":1,,"b":2}',
  '{"a":1 "b":2}',
  '{"a":1;"b":2}',
  '{"a":1]',
  '{"a":1}}',
  "{'a':1}",
  '{a:1}',
  '{1:1}',
  '{null:1}',
  '{[]:1}',
  '{"a":}',
  '{:1}',
  '{"a":1 "}',
  '{"a":1}#',
  '/**/1',
  '1//',
  '1/* */',
  '#1',
  '\u00a01',
  '\f1',
  '\v1',
  '\u20281',
  '\u20601',
  '\ufeff1',
  '1\0',
  '\0',
  '\\u0031',
  '*',
  '$ref',
  '@',
  '?',
  '!1',
]

describe('of JSON as RFC 8259 has it', () => {
  test('the tables hold what they say', () => {
    expect(VALID.length + DECIDED.length + INVALID.length).toBeGreaterThanOrEqual(190)
    expect(new Set([...VALID, ...DECIDED].map(([json]) => json)).size).toBe(VALID.length + DECIDED.length)
    expect(new Set(INVALID).size).toBe(INVALID.length)
  })

  test.each(VALID)('%j is read as it is', (json, value) => {
    expect(read(`{"event":"result","value":${json}}`)).toEqual([
      { event: { type: 'result', value }, taskId: null, seq: null },
    ])
    expect(read(`{"event":"x","v":[${json}]}`)).toMatchObject([
      { event: { payload: { event: 'x', v: [value] } } },
    ])
  })

  test.each(DECIDED)('%j is read as decided', (json, value) => {
    expect(read(`{"event":"result","value":${json}}`)).toEqual([
      { event: { type: 'result', value }, taskId: null, seq: null },
    ])
    expect(read(`{"event":"x","v":[${json}]}`)).toMatchObject([
      { event: { payload: { event: 'x', v: [value] } } },
    ])
  })

  test.each(INVALID)('an event with %j in it is a fault', (json) => {
    expect(
      outlineOf(read(`{"event":"result","value":${json}}\n{"event":"x","v":[${json === '' ? ',' : json}]}`)),
    ).toEqual(['INVALID_JSON', 'INVALID_JSON'])
  })

  test.each(INVALID)('with %j before or after it an event is none', (json) => {
    if (json === '') return
    const event = '{"event":"text","content":"a"}'
    expect(outlineOf(read(`${event}${json}\n`))).toEqual(['INVALID_JSON'])
    expect(outlineOf(read(`${json}${event}\n`))).not.toContain('text')
  })

  test.each([...VALID.map(([json]) => json), ...DECIDED.map(([json]) => json), ...INVALID])(
    '%j alone on a line is what its shape says',
    (json) => {
      const { length } = json.trim()
      const expected = json.startsWith('{"event"') ? ['finish'] : length === 0 ? [] : ['log']
      expect(outlineOf(read(`${json}\n`))).toEqual(expected)
    },
  )
})
