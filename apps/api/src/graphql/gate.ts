import {
  BREAK,
  type ASTNode,
  type DocumentNode,
  getOperationAST,
  GraphQLError,
  type GraphQLSchema,
  Kind,
  NoSchemaIntrospectionCustomRule,
  type OperationDefinitionNode,
  parse,
  specifiedRules,
  validate,
  visit,
} from 'graphql'
import { type Budget, type Spending, weigh } from './budget.ts'
import { isAtLeast, type Role } from '@gpu-service/tasks'
import { refusal } from './errors.ts'
import { type Need, needOf } from './permissions.ts'

export interface GateLimits extends Budget {
  /** Of the source text, in UTF-16 units. */
  readonly characters: number
  readonly tokens: number
  /** Operations in one document. */
  readonly operations: number
}

/**
 * A query for every field of every type of event fits well; so does the introspection query of common tools. The cost lets through 20
 * tasks with 100 whole events each.
 */
export const DEFAULT_LIMITS: GateLimits = {
  characters: 15_000,
  tokens: 2_000,
  operations: 10,
  depth: 12,
  introspectionDepth: 16,
  fields: 300,
  aliases: 15,
  directives: 8,
  cost: 200_000,
}

const MAX_VALIDATION_ERRORS = 5
const MAX_CACHED_DOCUMENTS = 500
const MAX_CACHED_CHARACTERS = 512 * 1024

export interface GateRequest {
  readonly query: string
  readonly operationName?: string | null | undefined
  readonly variables?: Variables | null | undefined
}

export interface Admitted {
  readonly status: 'admitted'
  /** The same object for the same source text, while it is remembered. */
  readonly document: DocumentNode
  readonly operation: OperationDefinitionNode
  /**
   * Equal for two admissions that make the same answer of the same root value; `null` where that depends on variables.
   */
  readonly shareKey: string | null
}

export interface Refused {
  readonly status: 'refused'
  readonly errors: readonly GraphQLError[]
  /** The mutations that who asks may not ask for; empty where it is not that. */
  readonly forbidden: ReadonlySet<string>
}

export type Admission = Admitted | Refused

/** The gate as transports pass it. */
export type Admit<C> = (request: GateRequest, caller: C) => Admission

/** What every operation passes before anything of it runs, on whichever transport it comes. */
export interface Gate {
  /** `role`: of whom it is from. */
  admit(request: GateRequest, role: Role): Admission
}

export interface GateOptions {
  readonly schema: GraphQLSchema
  /** Whether clients may ask for the schema, and get hints at names that they nearly hit. */
  readonly introspection: boolean
  readonly limits?: GateLimits
}

/**
 * Checks size, shape and cost, then validity, then whether who asks may ask this. The time and memory for a refusal are bounded by the limits. Admitted documents are
 * remembered by their source text, the ones used last, so that many clients with one query cost one parse.
 */
export function createGate({ schema, introspection, limits = DEFAULT_LIMITS }: GateOptions): Gate {
  const rules = introspection ? specifiedRules : [...specifiedRules, NoSchemaIntrospectionCustomRule]
  const documents = createDocumentCache()

  return {
    admit({ query, operationName, variables }, role) {
      if (query.length > limits.characters) {
        const message = `The query has ${query.length} characters; at most ${limits.characters} are allowed.`
        return refused([refusal('QUERY_TOO_LARGE', message)])
      }
      let known = documents.get(query)
      if (known === undefined) {
        const checked = checkSafely(query, variables ?? {})
        if ('errors' in checked) return refused(checked.errors)
        known = checked
        documents.add(query, known)
      } else if (known.varies) {
        const excess = excessOf(weigh(schema, known.document, variables ?? {}).spending)
        if (excess !== null) return refused([excess])
      }
      const { need } = known
      if (!isAtLeast(role, need.role)) {
        const message = `${need.field} needs the role ${need.role.toUpperCase()}; this is ${role.toUpperCase()}.`
        return refused([refusal('FORBIDDEN', message)], need.mutations)
      }
      const operation = getOperationAST(known.document, operationName)
      if (!operation) {
        const message = operationName
          ? `The document has no operation named ${JSON.stringify(operationName)}.`
          : 'The document has several operations: operationName must say which one to run.'
        return refused([refusal('OPERATION_RESOLUTION_FAILURE', message)])
      }
      const { document } = known
      return {
        status: 'admitted',
        document,
        operation,
        shareKey: shareKeyOf(known, operation),
      }
    },
  }

  function checkSafely(query: string, variables: Variables): KnownDocument | Invalid {
    try {
      return check(query, variables)
    } catch (error) {
      if (error instanceof GraphQLError) return { errors: [coded(error, 'GRAPHQL_PARSE_FAILED')] }
      // A parser that calls itself for each bracket runs out of stack before it runs out of tokens.
      if (error instanceof RangeError)
        return { errors: [refusal('QUERY_TOO_COMPLEX', 'The query is nested too deeply.')] }
      throw error
    }
  }

  /** @throws GraphQLError where the text is no GraphQL. */
  function check(query: string, variables: Variables): KnownDocument | Invalid {
    const document = parse(query, { maxTokens: limits.tokens })
    const operations = document.definitions.filter(({ kind }) => kind === Kind.OPERATION_DEFINITION).length
    if (operations > limits.operations)
      return { errors: [tooMuch('operations', operations, limits.operations)] }
    const { spending, varies } = weigh(schema, document, variables)
    const excess = excessOf(spending)
    if (excess !== null) return { errors: [excess] }
    const errors = validate(schema, document, rules, { maxErrors: MAX_VALIDATION_ERRORS })
    if (errors.length > 0) return { errors: errors.map((error) => coded(error, 'GRAPHQL_VALIDATION_FAILED')) }
    return { id: documents.nextId(), document, varies, need: needOf(schema, document) }
  }

  function excessOf(spending: Spending): GraphQLError | null {
    for (const [name, noun] of COUNTED) {
      if (spending[name] > limits[name]) return tooMuch(noun, spending[name], limits[name])
    }
    return null
  }

  function coded(
    error: GraphQLError,
    code: 'GRAPHQL_PARSE_FAILED' | 'GRAPHQL_VALIDATION_FAILED',
  ): GraphQLError {
    const message = introspection ? error.message : withoutHint(error.message)
    return new GraphQLError(message, {
      nodes: error.nodes ?? null,
      source: error.source ?? null,
      positions: error.positions ?? null,
      extensions: { code },
    })
  }
}

const COUNTED = [
  ['depth', 'levels'],
  ['introspectionDepth', 'levels of introspection'],
  ['fields', 'fields'],
  ['aliases', 'aliases'],
  ['directives', 'directives'],
  ['cost', 'values in its answer, by estimate'],
] as const satisfies readonly (readonly [keyof Budget, string])[]

/** Without the names that the library suggests. */
function withoutHint(message: string): string {
  const at = message.indexOf(' Did you mean ')
  return at === -1 || !message.endsWith('?') ? message : message.slice(0, at)
}

function tooMuch(noun: string, count: number, limit: number): GraphQLError {
  const asked = Number.isFinite(count) ? `asks for ${count} ${noun}` : `asks for too many ${noun}`
  return refusal('QUERY_TOO_COMPLEX', `The query ${asked}; at most ${limit} are allowed.`)
}

function refused(
  errors: readonly GraphQLError[],
  forbidden: ReadonlySet<string> = new Set<string>(),
): Admission {
  return { status: 'refused', errors, forbidden }
}

type Variables = Readonly<Record<string, unknown>>
interface Invalid {
  readonly errors: readonly GraphQLError[]
}

interface KnownDocument {
  readonly id: number
  readonly document: DocumentNode
  /** Its cost depends on variables. */
  readonly varies: boolean
  readonly need: Need
}

function shareKeyOf({ id, document }: KnownDocument, operation: OperationDefinitionNode): string | null {
  // Arguments of the root field choose the source, not what is made of its values; any other variable could.
  return usesVariablesBelowRoot(document, operation) ? null : `${id} ${operation.name?.value ?? ''}`
}

function usesVariablesBelowRoot(document: DocumentNode, operation: OperationDefinitionNode): boolean {
  const below: (ASTNode | undefined)[] = [...(operation.directives ?? [])]
  for (const selection of operation.selectionSet.selections) {
    if (selection.kind === Kind.FIELD) below.push(...(selection.directives ?? []), selection.selectionSet)
    else below.push(selection)
  }
  for (const definition of document.definitions) {
    if (definition.kind === Kind.FRAGMENT_DEFINITION) below.push(definition)
  }
  return below.some((node) => node !== undefined && mentionsVariable(node))
}

function mentionsVariable(node: ASTNode): boolean {
  let found = false
  visit(node, {
    Variable() {
      found = true
      return BREAK
    },
  })
  return found
}

/** Documents by their source text; the one that was used least recently goes first. */
function createDocumentCache() {
  const entries = new Map<string, KnownDocument>()
  let characters = 0
  let lastId = 0
  return {
    nextId: (): number => ++lastId,
    get(query: string): KnownDocument | undefined {
      const known = entries.get(query)
      if (known === undefined) return undefined
      entries.delete(query)
      entries.set(query, known)
      return known
    },
    add(query: string, known: KnownDocument): void {
      entries.set(query, known)
      characters += query.length
      for (const oldest of entries.keys()) {
        if (entries.size <= MAX_CACHED_DOCUMENTS && characters <= MAX_CACHED_CHARACTERS) return
        entries.delete(oldest)
        characters -= oldest.length
      }
    },
  }
}
