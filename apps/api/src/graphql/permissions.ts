import {
  type DocumentNode,
  getNamedType,
  type GraphQLField,
  type GraphQLSchema,
  isIntrospectionType,
  Kind,
  TypeInfo,
  visit,
  visitWithTypeInfo,
} from 'graphql'
import { isAtLeast, type Role, ROLES } from '@gpu-service/tasks'

/** The most that anything in a document needs. */
export interface Need {
  readonly role: Role
  /** A field that needs so much, as `Type.field`. */
  readonly field: string
  /** The mutations among its fields. */
  readonly mutations: ReadonlySet<string>
}

/** What may be asked is decided by the text of a document, before anything of it runs; which of the tasks are shown, by resolvers. */
export function needOf(schema: GraphQLSchema, document: DocumentNode): Need {
  const types = new TypeInfo(schema)
  const mutations = new Set<string>()
  let most: Omit<Need, 'mutations'> = { role: 'read', field: 'Query' }
  visit(
    document,
    visitWithTypeInfo(types, {
      Field() {
        const [field, parent] = [types.getFieldDef(), types.getParentType()]
        if (field == null || parent == null) return
        const isMutation = parent === schema.getMutationType()
        if (isMutation) mutations.add(field.name)
        const role = roleNeeded(field, isMutation)
        if (!isAtLeast(most.role, role)) most = { role, field: `${parent.name}.${field.name}` }
      },
    }),
  )
  return { ...most, mutations }
}

/** By the schema's directive `@needs`; a mutation that does not say anything needs the most. */
function roleNeeded(field: GraphQLField<unknown, unknown>, isMutation: boolean): Role {
  if (field.name.startsWith('__') || isIntrospectionType(getNamedType(field.type))) return 'read'
  for (const { name, arguments: given = [] } of field.astNode?.directives ?? []) {
    if (name.value !== 'needs') continue
    const value = given[0]?.value
    const role = ROLES.find((each) => value?.kind === Kind.ENUM && value.value === each.toUpperCase())
    if (role !== undefined) return role
  }
  return isMutation ? 'admin' : 'read'
}
