import { type GraphQLScalarType, parseValue, valueFromAST } from 'graphql'
import { expect, test } from 'vitest'
import { MAX_JSON_DEPTH, scalars } from '../../src/graphql/scalars.ts'

const { DateTime, JSON: Json, BigInt: BigInteger } = scalars

/** As a literal in a document. */
function literal(type: GraphQLScalarType, text: string, variables?: Record<string, unknown>): unknown {
  return type.parseLiteral(parseValue(text), variables)
}

test.each([
  ['2026-03-01T09:30:00Z', '2026-03-01T09:30:00.000Z'],
  ['2026-03-01T09:30:00.123456789+02:00', '2026-03-01T07:30:00.123Z'],
  ['2026-02-28t23:59:59.9-00:30', '2026-03-01T00:29:59.900Z'],
  ['2024-02-29T00:00:00z', '2024-02-29T00:00:00.000Z'],
])('DateTime reads %s', (text, utc) => {
  const value = DateTime.parseValue(text)
  expect(value).toBe(Date.parse(utc))
  expect(DateTime.serialize(value)).toBe(utc)
  expect(literal(DateTime, `"${text}"`)).toBe(value)
})

test.each([
  '2026-03-01T09:30:00',
  '2026-03-01',
  '2026-02-30T00:00:00Z',
  '2026-13-01T00:00:00Z',
  '2026-01-01T24:00:00Z',
  '2026-01-01T00:60:00Z',
  '2026-01-01T00:00:60Z',
  '2026-01-01T00:00:00+24:00',
  '0099-01-01T00:00:00Z',
  'yesterday',
  '',
])('DateTime refuses %j', (text) => {
  expect(() => DateTime.parseValue(text)).toThrow(/^DateTime must be/)
})

test('DateTime refuses numbers, as a value and as a literal', () => {
  expect(() => DateTime.parseValue(0)).toThrow(/must be a text/)
  expect(() => literal(DateTime, '0')).toThrow(/must be a text/)
})

test('DateTime writes nothing but a number', () => {
  expect(() => DateTime.serialize('2026-03-01T09:30:00Z')).toThrow(TypeError)
  expect(() => DateTime.serialize(Number.NaN)).toThrow(RangeError)
})

test('JSON reads literals, with variables in them', () => {
  expect(literal(Json, '{a: [1, -2.5e3, "x", true, null], b: {c: $v, d: $none}}', { v: { w: 1 } })).toEqual({
    a: [1, -2500, 'x', true, null],
    b: { c: { w: 1 }, d: null },
  })
  expect(() => literal(Json, '{a: NAKED}')).toThrow('JSON has no value NAKED')
  expect(() => literal(Json, '1e999')).toThrow('too large')
})

test('JSON keeps __proto__ as a key of its own and pollutes nothing', () => {
  const value = literal(Json, '{__proto__: {polluted: true}}')
  expect(JSON.stringify(value)).toBe('{"__proto__":{"polluted":true}}')
  expect(value).not.toHaveProperty('polluted')
  const parsed: unknown = Json.parseValue(JSON.parse('{"__proto__":{"polluted":true}}'))
  expect(JSON.stringify(parsed)).toBe('{"__proto__":{"polluted":true}}')
  expect({}).not.toHaveProperty('polluted')
})

test('JSON is as deep as it may be and no deeper, as a value, a literal, or a variable in one', () => {
  const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)
  const most = nested(MAX_JSON_DEPTH)
  const more = nested(MAX_JSON_DEPTH + 1)
  expect(Json.parseValue(JSON.parse(most))).toBeDefined()
  expect(literal(Json, most)).toBeDefined()
  expect(literal(Json, '[$v]', { v: JSON.parse(nested(MAX_JSON_DEPTH - 1)) as unknown })).toBeDefined()
  expect(() => Json.parseValue(JSON.parse(more))).toThrow('64 levels')
  expect(() => literal(Json, more)).toThrow('64 levels')
  expect(() => literal(Json, '[$v]', { v: JSON.parse(most) as unknown })).toThrow('64 levels')
  expect(() => Json.parseValue(JSON.parse(nested(100_000)))).toThrow('64 levels')
})

test.each([
  ['9223372036854775807', 9223372036854775807n],
  ['-9223372036854775808', -9223372036854775808n],
  ['0', 0n],
])('BigInt reads %s and writes it as a text', (text, value) => {
  expect(BigInteger.parseValue(text)).toBe(value)
  expect(valueFromAST(parseValue(text), BigInteger)).toBe(value)
  expect(valueFromAST(parseValue(`"${text}"`), BigInteger)).toBe(value)
  expect(BigInteger.serialize(value)).toBe(text)
})

test.each(['9223372036854775808', '-9223372036854775809', '1.5', '1e3', '0x10', '', ' 1'])(
  'BigInt refuses %j',
  (text) => {
    expect(() => BigInteger.parseValue(text)).toThrow(/^BigInt must be/)
  },
)

test('BigInt takes safe numbers and no others', () => {
  expect(BigInteger.parseValue(42)).toBe(42n)
  expect(BigInteger.serialize(42)).toBe('42')
  expect(() => BigInteger.parseValue(2 ** 53)).toThrow(/as a text/)
  expect(() => BigInteger.serialize(2 ** 53)).toThrow(TypeError)
})
