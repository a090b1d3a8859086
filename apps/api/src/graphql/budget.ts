import {
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  getNamedType,
  getNullableType,
  type GraphQLCompositeType,
  type GraphQLField,
  type GraphQLSchema,
  isCompositeType,
  isListType,
  isObjectType,
  isInterfaceType,
  Kind,
  type OperationDefinitionNode,
  SchemaMetaFieldDef,
  type SelectionSetNode,
  TypeMetaFieldDef,
} from 'graphql'

/** What a document may ask for, fragments counted wherever they are spread. */
export interface Budget {
  /** Levels of selections. */
  readonly depth: number
  /** Levels of selections below `__schema` and `__type`, whose types of types are deep by nature. */
  readonly introspectionDepth: number
  readonly fields: number
  readonly aliases: number
  readonly directives: number
  /** About how many values the answer may hold. */
  readonly cost: number
}

/** What a document asks for; sums may be infinite. */
export interface Weight {
  readonly spending: Spending
  /** Other variables may give another cost. */
  readonly varies: boolean
}
export type Spending = Readonly<Record<keyof Budget, number>>

type Variables = Readonly<Record<string, unknown>>

/** The length that a list is taken to have where neither an argument nor a `@listSize` says so. */
const ASSUMED_LENGTH = 10
/** What a `first` is taken to be that says nothing by itself. */
const ASSUMED_FIRST = 100

const NOTHING: Spending = { depth: 0, introspectionDepth: 0, fields: 0, aliases: 0, directives: 0, cost: 0 }

/**
 * Adds up what all operations of a document ask for, in time proportional to the document's length: each fragment is weighed once, however
 * often it is spread. A fragment that spreads itself counts as empty there; that it is not valid is for the validation to say. Fields that
 * the schema does not know count like any other.
 */
export function weigh(schema: GraphQLSchema, document: DocumentNode, variables: Variables): Weight {
  const fragments = new Map<string, FragmentDefinitionNode>()
  for (const definition of document.definitions) {
    if (definition.kind === Kind.FRAGMENT_DEFINITION) fragments.set(definition.name.value, definition)
  }
  const weighed = new Map<string, Spending>()
  let operation: OperationDefinitionNode | null = null
  let varies = false

  function ofSelections(
    { selections }: SelectionSetNode,
    parent: GraphQLCompositeType | undefined,
    paged: boolean,
  ): Spending {
    let sum = NOTHING
    for (const selection of selections) {
      const directives = { ...NOTHING, directives: selection.directives?.length ?? 0 }
      sum = plus(sum, directives)
      switch (selection.kind) {
        case Kind.FIELD:
          sum = plus(sum, ofField(selection, parent, paged))
          break
        case Kind.INLINE_FRAGMENT: {
          const type = selection.typeCondition?.name.value
          sum = plus(
            sum,
            ofSelections(selection.selectionSet, type === undefined ? parent : typeNamed(type), paged),
          )
          break
        }
        case Kind.FRAGMENT_SPREAD:
          sum = plus(sum, ofFragment(selection.name.value, paged))
      }
    }
    return sum
  }

  function ofFragment(name: string, paged: boolean): Spending {
    const key = paged ? `${name} paged` : name
    const known = weighed.get(key)
    if (known !== undefined) return known
    // Until it is known: a fragment within itself.
    weighed.set(key, NOTHING)
    const fragment = fragments.get(name)
    if (fragment === undefined) return NOTHING
    const inner = ofSelections(fragment.selectionSet, typeNamed(fragment.typeCondition.name.value), paged)
    const spending = plus(inner, { ...NOTHING, directives: fragment.directives?.length ?? 0 })
    weighed.set(key, spending)
    return spending
  }

  /** `paged`: the field's parent has a `first`, which bounds the list that it holds. */
  function ofField(node: FieldNode, parent: GraphQLCompositeType | undefined, paged: boolean): Spending {
    const field = fieldOf(parent, node.name.value)
    const first = field?.args.some((argument) => argument.name === 'first') ? firstOf(node, field) : null
    const own = { ...NOTHING, fields: 1, aliases: node.alias === undefined ? 0 : 1, cost: 1 }
    if (node.selectionSet === undefined) return { ...own, depth: 1 }
    const named = field === undefined ? undefined : getNamedType(field.type)
    const type = isCompositeType(named) ? named : undefined
    const inner = ofSelections(node.selectionSet, type, first !== null)
    const isList = field !== undefined && isListType(getNullableType(field.type))
    const length = first ?? (isList && !paged ? assumedLength(field) : 1)
    const sum = plus(own, { ...inner, depth: 0, introspectionDepth: 0, cost: length * inner.cost })
    return field === SchemaMetaFieldDef || field === TypeMetaFieldDef
      ? { ...sum, depth: 1, introspectionDepth: 1 + inner.depth }
      : { ...sum, depth: 1 + inner.depth, introspectionDepth: inner.introspectionDepth }
  }

  function firstOf(node: FieldNode, field: GraphQLField<unknown, unknown>): number {
    const value = node.arguments?.find((argument) => argument.name.value === 'first')?.value
    let first: unknown = field.args.find((argument) => argument.name === 'first')?.defaultValue
    if (value?.kind === Kind.INT) first = Number(value.value)
    if (value?.kind === Kind.VARIABLE) {
      varies = true
      const name = value.name.value
      const fallback = operation?.variableDefinitions?.find(({ variable }) => variable.name.value === name)
      if (Object.hasOwn(variables, name)) first = variables[name]
      else if (fallback?.defaultValue?.kind === Kind.INT) first = Number(fallback.defaultValue.value)
    }
    return typeof first === 'number' && !Number.isNaN(first) ? Math.max(first, 0) : ASSUMED_FIRST
  }

  function fieldOf(
    parent: GraphQLCompositeType | undefined,
    name: string,
  ): GraphQLField<unknown, unknown> | undefined {
    if (parent === schema.getQueryType()) {
      if (name === SchemaMetaFieldDef.name) return SchemaMetaFieldDef
      if (name === TypeMetaFieldDef.name) return TypeMetaFieldDef
    }
    return isObjectType(parent) || isInterfaceType(parent) ? parent.getFields()[name] : undefined
  }

  function typeNamed(name: string): GraphQLCompositeType | undefined {
    const type = schema.getType(name)
    return isCompositeType(type) ? type : undefined
  }

  let total = NOTHING
  for (const definition of document.definitions) {
    if (definition.kind !== Kind.OPERATION_DEFINITION) continue
    operation = definition
    // What a `first` is may differ from operation to operation.
    weighed.clear()
    const root = schema.getRootType(definition.operation) ?? undefined
    total = plus(total, ofSelections(definition.selectionSet, root, false))
    total = plus(total, { ...NOTHING, directives: definition.directives?.length ?? 0 })
  }
  return { spending: total, varies }
}

/** What the schema's `@listSize` says of the field. */
function assumedLength({ astNode }: GraphQLField<unknown, unknown>): number {
  const listSize = astNode?.directives?.find(({ name }) => name.value === 'listSize')
  const size = listSize?.arguments?.find(({ name }) => name.value === 'assumedSize')?.value
  return size?.kind === Kind.INT ? Number(size.value) : ASSUMED_LENGTH
}

function plus(a: Spending, b: Spending): Spending {
  return {
    depth: Math.max(a.depth, b.depth),
    introspectionDepth: Math.max(a.introspectionDepth, b.introspectionDepth),
    fields: a.fields + b.fields,
    aliases: a.aliases + b.aliases,
    directives: a.directives + b.directives,
    cost: a.cost + b.cost,
  }
}
