import { GraphQLError, GraphQLScalarType, Kind, type ValueNode, print } from 'graphql'
import type { JsonValue } from '@gpu-service/event-parser'

/** The most levels of lists and objects in a JSON value that a client sends. */
export const MAX_JSON_DEPTH = 64

const RFC_3339 =
  /^(\d{4})-(\d{2})-(\d{2})[Tt](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d{2}):(\d{2}))$/
const INT64_MIN = -(2n ** 63n)
const INT64_MAX = 2n ** 63n - 1n

/** RFC 3339 with an offset outside, milliseconds since 1970 inside. Fractions below a millisecond are cut. */
const DateTime = new GraphQLScalarType<number, string>({
  name: 'DateTime',
  serialize(value) {
    if (typeof value !== 'number') throw new TypeError('A DateTime must be given in milliseconds since 1970.')
    return new Date(value).toISOString()
  },
  parseValue(value) {
    if (typeof value !== 'string') throw new GraphQLError('DateTime must be a text.')
    return parseDateTime(value)
  },
  parseLiteral(node) {
    if (node.kind !== Kind.STRING) throw new GraphQLError('DateTime must be a text.', { nodes: node })
    return parseDateTime(node.value)
  },
})

/**
 * Any JSON value. What a client sends may be `MAX_JSON_DEPTH` levels deep. A key named `__proto__` is an ordinary key: it stays the own
 * property that `JSON.parse` makes of it.
 */
const Json = new GraphQLScalarType<JsonValue, JsonValue>({
  name: 'JSON',
  // What the service gives was parsed, with its own bounds, where it came in.
  serialize: (value) => value as JsonValue,
  parseValue(value) {
    requireDepth(value, 0)
    return value as JsonValue
  },
  parseLiteral: (node, variables) => fromLiteral(node, variables ?? {}, 0),
})

/** A whole number of 64 bits: a text on the wire. */
const BigInteger = new GraphQLScalarType<bigint, string>({
  name: 'BigInt',
  serialize(value) {
    if (typeof value !== 'bigint' && !Number.isSafeInteger(value)) {
      throw new TypeError('A BigInt must be given as a bigint or a safe integer.')
    }
    return String(value)
  },
  parseValue(value) {
    if (typeof value === 'string' || Number.isSafeInteger(value)) return parseBigInt(String(value))
    throw new GraphQLError('BigInt must be a whole number; one beyond 2^53 as a text.')
  },
  parseLiteral(node) {
    if (node.kind !== Kind.STRING && node.kind !== Kind.INT) {
      throw new GraphQLError('BigInt must be a whole number or a text of one.', { nodes: node })
    }
    return parseBigInt(node.value)
  },
})

/** The schema's own scalars, by their names there. */
export const scalars = { DateTime, JSON: Json, BigInt: BigInteger }

/** Milliseconds since 1970. @throws GraphQLError */
export function parseDateTime(text: string): number {
  const match = RFC_3339.exec(text)
  if (match === null) {
    throw new GraphQLError(
      'DateTime must be a moment by RFC 3339 with an offset, such as 2026-03-01T09:30:00Z.',
    )
  }
  const part = (index: number): number => Number(match[index] ?? 0)
  const local = Date.UTC(part(1), part(2) - 1, part(3), part(4), part(5), part(6))
  const date = new Date(local)
  // Date.UTC carries over: the 30th of February would become the 1st or 2nd of March (and the year 99 the year 1999).
  const exists =
    date.getUTCFullYear() === part(1) &&
    date.getUTCMonth() === part(2) - 1 &&
    date.getUTCDate() === part(3) &&
    part(4) < 24 &&
    part(5) < 60 &&
    part(6) < 60 &&
    part(9) < 24 &&
    part(10) < 60
  if (!exists) throw new GraphQLError('DateTime must be a moment that exists.')
  const milliseconds = Number((match[7] ?? '').slice(0, 3).padEnd(3, '0'))
  const offsetMinutes = (match[8] === '-' ? -1 : 1) * (part(9) * 60 + part(10))
  return local + milliseconds - offsetMinutes * 60_000
}

function parseBigInt(text: string): bigint {
  if (!/^-?\d{1,19}$/.test(text)) throw new GraphQLError('BigInt must be a whole number of at most 64 bits.')
  const value = BigInt(text)
  if (value < INT64_MIN || value > INT64_MAX) {
    throw new GraphQLError('BigInt must be from -(2^63) to 2^63-1.')
  }
  return value
}

function requireDepth(value: unknown, depth: number): void {
  if (value === null || typeof value !== 'object') return
  if (depth === MAX_JSON_DEPTH) throw tooDeep()
  for (const inner of Object.values(value)) requireDepth(inner, depth + 1)
}

function fromLiteral(node: ValueNode, variables: Record<string, unknown>, depth: number): JsonValue {
  switch (node.kind) {
    case Kind.NULL:
      return null
    case Kind.STRING:
    case Kind.BOOLEAN:
      return node.value
    case Kind.ENUM:
      throw new GraphQLError(`JSON has no value ${node.value}; a text stands in quotes.`, { nodes: node })
    case Kind.INT:
    case Kind.FLOAT: {
      const number = Number(node.value)
      if (!Number.isFinite(number)) throw new GraphQLError(`${print(node)} is too large.`, { nodes: node })
      return number
    }
    case Kind.VARIABLE: {
      // Coerced already, by its own type; one that was not given has no value in JSON.
      const value = variables[node.name.value] ?? null
      requireDepth(value, depth)
      return value as JsonValue
    }
    case Kind.LIST:
      if (depth === MAX_JSON_DEPTH) throw tooDeep()
      return node.values.map((inner) => fromLiteral(inner, variables, depth + 1))
    case Kind.OBJECT:
      if (depth === MAX_JSON_DEPTH) throw tooDeep()
      // Entries become own properties whatever their names are.
      return Object.fromEntries(
        node.fields.map((field) => [field.name.value, fromLiteral(field.value, variables, depth + 1)]),
      )
  }
}

function tooDeep(): GraphQLError {
  return new GraphQLError(`JSON must be at most ${MAX_JSON_DEPTH} levels deep.`)
}
