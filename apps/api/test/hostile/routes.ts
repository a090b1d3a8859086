import {
  getNamedType,
  type GraphQLField,
  type GraphQLInputType,
  type GraphQLSchema,
  isAbstractType,
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isLeafType,
  isListType,
  isNonNullType,
  isObjectType,
} from 'graphql'

export const ROLES = ['READ', 'SUBMIT', 'OPERATE', 'ADMIN'] as const
export type Role = (typeof ROLES)[number]

/** An operation, and what it needs according to a table. */
export interface Question {
  /** The fields that it is about, as `Type.field`. */
  readonly about: string
  readonly query: string
  readonly role: Role
}

/** What stands for the values that a field cannot do without; by `Type.field`, or by the name of the argument. */
export type Values = Readonly<Record<string, string>>

interface Route {
  readonly around: (inner: string) => string
  readonly role: Role
}

/** Operations that ask for every field of every type, each on a shortest way to it. Fields that need no more than their type are asked for together. */
export function questionsOf(
  schema: GraphQLSchema,
  needs: Readonly<Record<string, Role>>,
  values: Values,
): readonly Question[] {
  const routes = new Map<string, Route>()
  const open: string[] = []
  const reach = (name: string, route: Route): void => {
    if (routes.has(name)) return
    routes.set(name, route)
    open.push(name)
  }
  for (const kind of ['query', 'subscription', 'mutation']) {
    const root = schema.getRootType(kind as never)
    if (root != null) reach(root.name, { around: (inner) => `${kind} { ${inner} }`, role: 'READ' })
  }
  const questions: Question[] = []
  for (let name = open.shift(); name !== undefined; name = open.shift()) {
    const type = schema.getType(name)
    const route = routes.get(name)
    if (route === undefined || type === undefined) continue
    if (isAbstractType(type))
      for (const possible of schema.getPossibleTypes(type))
        reach(possible.name, {
          ...route,
          around: (inner) => route.around(`... on ${possible.name} { ${inner} }`),
        })
    if (!isObjectType(type) && !isInterfaceType(type)) continue
    for (const above of type.getInterfaces())
      reach(above.name, { ...route, around: (inner) => route.around(`... on ${above.name} { ${inner} }`) })
    const fields = Object.values(type.getFields())
    for (const field of fields) {
      const role = most(route.role, needs[`${type.name}.${field.name}`] ?? 'READ')
      const around = (inner: string): string => route.around(`${call(type.name, field)} { ${inner} }`)
      if (!isLeafType(getNamedType(field.type))) reach(getNamedType(field.type).name, { around, role })
    }
    const isRoot = ['Query', 'Mutation', 'Subscription'].includes(type.name)
    const alone = fields.filter(({ name: field }) => isRoot || `${type.name}.${field}` in needs)
    const together = fields.filter((field) => !alone.includes(field))
    for (const group of [together, ...alone.map((field) => [field])]) {
      if (group.length === 0) continue
      const names = group.map((field) => `${type.name}.${field.name}`)
      questions.push({
        about: names.join(', '),
        query: route.around(group.map((field) => asked(type.name, field)).join(' ')),
        role: names.reduce<Role>((role, each) => most(role, needs[each] ?? 'READ'), route.role),
      })
    }
  }
  return questions

  function call(parent: string, { name, args }: GraphQLField<unknown, unknown>): string {
    const needed = args.filter((arg) => isNonNullType(arg.type) && arg.defaultValue === undefined)
    const given = needed.map(
      (arg) => `${arg.name}: ${values[`${parent}.${name}`] ?? literal(arg.name, arg.type)}`,
    )
    return given.length > 0 ? `${name}(${given.join(', ')})` : name
  }

  function asked(parent: string, field: GraphQLField<unknown, unknown>): string {
    return `${call(parent, field)}${isLeafType(getNamedType(field.type)) ? '' : ' { __typename }'}`
  }

  function literal(name: string, type: GraphQLInputType): string {
    if (isNonNullType(type)) return literal(name, type.ofType)
    if (isListType(type)) return `[${literal(name, type.ofType)}]`
    if (isInputObjectType(type)) {
      const needed = Object.values(type.getFields()).filter(
        ({ type: each, defaultValue }) => isNonNullType(each) && defaultValue === undefined,
      )
      return `{ ${needed.map((each) => `${each.name}: ${literal(each.name, each.type)}`).join(' ')} }`
    }
    if (isEnumType(type)) return type.getValues()[0]?.name ?? ''
    const ofType = { Int: '1', Float: '1', Boolean: 'true', JSON: '{}', DateTime: '"2026-01-01T00:00:00Z"' }
    return values[name] ?? (ofType as Values)[type.name] ?? '"x"'
  }
}

export function isAtLeast(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed)
}

function most(one: Role, other: Role): Role {
  return isAtLeast(one, other) ? one : other
}
