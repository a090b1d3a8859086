import fc from 'fast-check'
import {
  getNamedType,
  getNullableType,
  type GraphQLArgument,
  type GraphQLField,
  type GraphQLInputType,
  type GraphQLNamedType,
  type GraphQLSchema,
  isCompositeType,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isLeafType,
  isListType,
  isNonNullType,
  isObjectType,
  isUnionType,
} from 'graphql'

/** What a client says. */
export interface Said {
  readonly query: string
  readonly operationName?: unknown
  readonly variables?: unknown
}

/** Chooses, so that a failure can be made smaller. */
export type Choose = fc.GeneratorValue

/** Texts that something in the way of a text may choke on. */
export const NASTY_TEXTS: readonly string[] = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\ud800',
  '\udfff\ud800',
  '\ufeff',
  '\u202egpj.exe',
  '\u0085\u2028\u2029',
  '\n\r\n\u001b[2J\u001b]0;x\u0007',
  '__proto__',
  'constructor',
  'toString',
  'hasOwnProperty',
  '../../../../etc/passwd',
  '..%2f..%2fetc%2fpasswd',
  '\'; DROP TABLE "Task"; --',
  '" OR 1=1 --',
  '%',
  '_%\\',
  '*',
  '(((((((((',
  '${7*7}',
  '{{7*7}}',
  '$(id)',
  '`id`',
  '%s%n%x',
  '<script>alert(1)</script>',
  'NaN',
  '1e309',
  '-0',
  '9223372036854775808',
  '2026-13-45T99:99:99Z',
  '0000-01-01T00:00:00Z',
  '9999-12-31T23:59:59.999999999+23:59',
  '00000000-0000-0000-0000-000000000000',
  '\u{1f600}'.repeat(50),
  'a\u0301'.repeat(200),
  'x'.repeat(20_000),
]

/** Numbers at and behind the ends of what something takes. */
const NASTY_NUMBERS: readonly string[] = [
  ...['0', '-0', '1', '-1', '2147483647', '2147483648', '-2147483648', '-2147483649', '9007199254740993'],
  ...[
    '9223372036854775807',
    '-9223372036854775809',
    '1e308',
    '1e309',
    '-1e400',
    '1.5',
    '0.1e-400',
    '100',
    '1000',
  ],
]

const MAX_DEPTH = 5
/** How often, of a hundred. */
const SOMETIMES = 25
/** The same of what is wrong, in one operation and another: in most of them nothing is, so that it is what they ask that is tried. */
const SELDOM = [0, 0, 0, 1, 5]

/** Alike for all values, unlike what fast-check would do. */
const evenly = (max: number) => fc.noBias(fc.nat(max))

/** Texts that mean something to the service that is asked, beside those that mean nothing. */
export interface Words {
  readonly ids: readonly string[]
  /** Root fields that are left alone. */
  readonly without: readonly string[]
}

/**
 * Makes operations out of the schema's own words. Most fit it, some nearly, some not at all; what they say is now right, now as wrong as a
 * value can be.
 */
export function operationOf(choose: Choose, schema: GraphQLSchema, { ids, without }: Words): Said {
  const variables: Record<string, unknown> = {}
  const definitions: string[] = []
  const fragments: string[] = []

  const below = (max: number): number => choose(evenly, max - 1)
  const chance = (percent: number): boolean => below(100) >= 100 - percent
  function oneOf<T>(all: readonly T[]): T {
    const one = all[below(all.length)]
    if (one === undefined) throw new RangeError('There is nothing to choose from.')
    return one
  }
  const seldom = oneOf(SELDOM)
  const wrong = (): boolean => chance(seldom)
  /** One or more, none twice. */
  const some = <T>(all: readonly T[], max: number): ReadonlySet<T> =>
    new Set(all.length === 0 ? [] : Array.from({ length: 1 + below(max) }, () => oneOf(all)))
  const text = (): string => (chance(60) ? oneOf(ids) : oneOf(NASTY_TEXTS))

  function json(depth: number): unknown {
    switch (below(depth > 4 ? 4 : 8)) {
      case 0:
        return null
      case 1:
        return chance(50)
      case 2:
        return Number(oneOf(NASTY_NUMBERS))
      case 3:
        return text()
      case 4:
        return Array.from({ length: below(4) }, () => json(depth + 1))
      case 5:
        return nested(oneOf([10, 63, 64, 65, 500]))
      default:
        return Object.fromEntries(Array.from({ length: below(4) }, () => [text(), json(depth + 1)]))
    }
  }

  /** As JSON has it. */
  function value(type: GraphQLInputType, depth = 0): unknown {
    if (wrong()) return json(3)
    if (isNonNullType(type)) return value(type.ofType, depth)
    if (wrong()) return null
    if (isListType(type)) return Array.from({ length: below(4) }, () => value(type.ofType, depth + 1))
    if (isInputObjectType(type)) {
      const fields = Object.values(type.getFields()).filter(
        (field) => isNonNullType(field.type) || chance(SOMETIMES),
      )
      const given = fields.map((field) => [field.name, value(field.type, depth + 1)] as const)
      return Object.fromEntries(wrong() ? [...given, [oneOf(NASTY_TEXTS), json(3)]] : given)
    }
    if (isEnumType(type)) return oneOf(type.getValues()).name
    switch (type.name) {
      case 'Int':
      case 'Float':
      case 'BigInt':
        return chance(50) ? below(200) : Number(oneOf(NASTY_NUMBERS))
      case 'Boolean':
        return chance(50)
      case 'DateTime':
        return chance(50) ? '2026-01-01T00:00:00Z' : text()
      case 'JSON':
        return json(1)
      default:
        return text()
    }
  }

  /** As a document has it. */
  function literal(given: unknown, type: GraphQLInputType): string {
    const bare = getNullableType(type)
    if (typeof given === 'string' && isEnumType(bare)) return given
    if (typeof given === 'number' && !Number.isFinite(given)) return oneOf(NASTY_NUMBERS)
    if (Array.isArray(given)) {
      const inner = isListType(bare) ? bare.ofType : bare
      return `[${given.map((item) => literal(item, inner)).join(', ')}]`
    }
    if (typeof given === 'object' && given !== null) {
      const fields: Readonly<Record<string, { type: GraphQLInputType }>> = isInputObjectType(bare)
        ? bare.getFields()
        : {}
      const named = Object.entries(given).filter(([name]) => /^\w+$/.test(name))
      return `{${named.map(([name, item]) => `${name}: ${literal(item, Object.hasOwn(fields, name) ? (fields[name]?.type ?? bare) : bare)}`).join(', ')}}`
    }
    if (typeof given === 'string' && given.length < 500 && chance(SOMETIMES))
      return `"""${given.replaceAll('"""', '\\"""')}"""`
    return JSON.stringify(given)
  }

  function argument({ name, type, defaultValue }: GraphQLArgument): string[] {
    const isNeeded = isNonNullType(type) && defaultValue === undefined
    if (isNeeded ? wrong() : !chance(SOMETIMES)) return []
    const given = value(type)
    if (chance(50)) return [`${name}: ${literal(given, type)}`]
    const variable = `v${definitions.length}`
    const declared = wrong() ? oneOf(['Int', '[String!]!', 'JSON', 'Task', 'Nothing']) : String(type)
    definitions.push(`$${variable}: ${declared}`)
    if (!wrong()) variables[variable] = given
    return [`${name}: $${variable}`]
  }

  function field(each: GraphQLField<unknown, unknown>, depth: number): string {
    const args = each.args.flatMap(argument)
    if (wrong()) args.push(`${oneOf(['first', 'id', 'nothing'])}: ${oneOf(NASTY_NUMBERS)}`)
    const alias = wrong() ? `${oneOf(['a', 'b', '__typename', 'constructor'])}: ` : ''
    const directive = wrong()
      ? oneOf([' @skip(if: false)', ' @include(if: true)', ' @nothing', ' @listSize(assumedSize: 1)'])
      : ''
    const type = getNamedType(each.type)
    const wants = isLeafType(type) ? wrong() : !wrong()
    return `${alias}${each.name}${args.length > 0 ? `(${args.join(' ')})` : ''}${directive}${wants ? ` ${selection(type, depth + 1)}` : ''}`
  }

  function selection(type: GraphQLNamedType, depth: number): string {
    const parts = ['__typename']
    if (isUnionType(type) || isInterfaceType(type)) {
      const possible = schema.getPossibleTypes(type)
      for (const one of some(possible, 3)) parts.push(`... on ${one.name} ${selection(one, depth + 1)}`)
    }
    if (isObjectType(type) || isInterfaceType(type)) {
      const fields = Object.values(type.getFields()).filter(
        (each) => depth < MAX_DEPTH || isLeafType(getNamedType(each.type)),
      )
      for (const each of some(fields, 4)) parts.push(field(each, depth))
    }
    if (wrong())
      parts.push(oneOf(['nothing', '__schema { types { name } }', '... on Task { id }', '...F0', '{ }']))
    if (isCompositeType(type) && wrong()) {
      const name = `F${fragments.length}`
      fragments.push('')
      fragments[Number(name.slice(1))] = `fragment ${name} on ${type.name} ${selection(type, depth + 1)}`
      parts.push(`...${name}`)
    }
    return `{ ${parts.join(' ')} }`
  }

  const kind = oneOf(['query', 'query', 'query', 'mutation', 'mutation', 'subscription'] as const)
  const root = schema.getRootType(kind as never)
  const fields = Object.values(root?.getFields() ?? {}).filter(({ name }) => !without.includes(name))
  const asked = [...some(fields, kind === 'query' ? 3 : 1)].map((each) => field(each, 0))
  const head = definitions.length > 0 ? ` Q(${definitions.join(', ')})` : ''
  let query = `${kind}${head} { ${asked.join(' ')} } ${fragments.join(' ')}`
  for (let slips = seldom === 0 || chance(50) ? 0 : 1 + below(3); slips > 0; slips--) {
    const at = below(query.length)
    query = query.slice(0, at) + oneOf(SPLINTERS) + query.slice(at + below(4))
  }
  return {
    query,
    ...(wrong() && { operationName: chance(50) ? 'Q' : json(3) }),
    variables: wrong() ? json(1) : variables,
  }
}

const SPLINTERS: readonly string[] = [
  ...[
    '{',
    '}',
    '(',
    ')',
    '[',
    ']',
    '"',
    '"""',
    '\\',
    '$',
    '@',
    '!',
    '...',
    ':',
    '#',
    '\0',
    '\ufeff',
    '\ud800',
    '&',
    '|',
  ],
  ...[
    '\u2028',
    '"\\u{110000}"',
    '"\\ud800"',
    '1e',
    '-',
    '0x1',
    'fragment on on on { on }',
    'query Q { a }',
    'extend type A',
  ],
  ...['{'.repeat(200), '['.repeat(500), '@a'.repeat(50), ' '.repeat(16_000), '\n'.repeat(3_000)],
]

/** Lists in lists. */
function nested(depth: number): unknown {
  return JSON.parse('['.repeat(depth) + ']'.repeat(depth)) as unknown
}
