import { readFileSync } from 'node:fs'
import {
  buildSchema,
  getIntrospectionQuery,
  isObjectType,
  type GraphQLObjectType,
  isScalarType,
  getNamedType,
  isEnumType,
} from 'graphql'
import { expect, test } from 'vitest'
import { type Admission, createGate, type GateRequest } from '../../src/graphql/gate.ts'

const schema = buildSchema(readFileSync(new URL('../../src/graphql/schema.graphql', import.meta.url), 'utf8'))
const gate = createGate({ schema, introspection: true })

/** Every field of a type that has no fields of its own. */
function leaves(type: GraphQLObjectType): string {
  return Object.values(type.getFields())
    .filter((field) => isScalarType(getNamedType(field.type)) || isEnumType(getNamedType(field.type)))
    .map(({ name }) => name)
    .join('\n      ')
}

const EVENTS = Object.values(schema.getTypeMap())
  .filter((type): type is GraphQLObjectType => isObjectType(type) && type.name.endsWith('Event'))
  .map((type) => {
    const inner = {
      FinishEvent: 'error { code message }',
      ArtifactEvent: 'artifact { id name mediaType bytes sha256 url }',
    }
    const more = type.name === 'FinishEvent' || type.name === 'ArtifactEvent' ? inner[type.name] : ''
    return `... on ${type.name} { ${leaves(type)} ${more} }`
  })
  .join('\n')

function codes(request: GateRequest, by = gate): readonly unknown[] {
  const admission = by.admit(request, 'admin')
  return admission.status === 'refused' ? admission.errors.map(({ extensions }) => extensions['code']) : []
}

test('admits a subscription to all fields of all types of event', () => {
  const query = `subscription ($id: ID!, $after: Int!) {
    taskEvents(taskId: $id, after: $after) { lastSeq events { __typename seq at attempt ${EVENTS} } }
  }`
  expect(EVENTS.split('... on')).toHaveLength(15)
  expect(codes({ query, variables: { id: 'x', after: 0 } })).toEqual([])
})

test('admits a page of tasks with all that belongs to them', () => {
  const type = schema.getType('Task')
  const task = isObjectType(type) ? leaves(type) : ''
  const query = `query ($first: Int!) { tasks(first: $first) { totalCount pageInfo { hasNextPage endCursor } edges { cursor node {
    ${task} gpus { id name status } worker { id status gpus { id } } artifacts { id name url } error { code message }
    events(first: 100) { lastSeq events { __typename seq at attempt ${EVENTS} } }
  } } } }`
  expect(codes({ query, variables: { first: 10 } })).toEqual([])
  expect(codes({ query, variables: { first: 100 } })).toEqual(['QUERY_TOO_COMPLEX'])
})

test('takes a first from the document, a variable, its default, or the schema', () => {
  const tasks = (args: string, head = ''): string =>
    `query ${head} { tasks${args} { edges { node { events(first: 1000) { events { seq at } } } } } }`
  expect(codes({ query: tasks('') })).toEqual([])
  expect(codes({ query: tasks('(first: 20)') })).toEqual([])
  expect(codes({ query: tasks('(first: 100)') })).toEqual(['QUERY_TOO_COMPLEX'])
  expect(codes({ query: tasks('(first: $n)', '($n: Int! = 20)') })).toEqual([])
  expect(codes({ query: tasks('(first: $n)', '($n: Int! = 20)'), variables: { n: 100 } })).toEqual([
    'QUERY_TOO_COMPLEX',
  ])
  expect(codes({ query: tasks('(first: -1)') })).toEqual([])
})

test('counts the lists that the schema knows to be long', () => {
  const submit = (
    first: number,
  ): string => `mutation ($inputs: [SubmitTaskInput!]!) { submitTasks(inputs: $inputs) {
    ... on SubmitTasksSuccess { tasks { task { events(first: ${first}) { events { seq at } } } } } } }`
  expect(codes({ query: submit(600) })).toEqual([])
  expect(codes({ query: submit(700) })).toEqual(['QUERY_TOO_COMPLEX'])
  const attempts = `attempts { ${'attempt workerId status '.repeat(35)} }`
  const tasks = (first: number): string => `{ tasks(first: ${first}) { edges { node { ${attempts} } } } }`
  expect(codes({ query: tasks(90) })).toEqual([])
  expect(codes({ query: tasks(100) })).toEqual(['QUERY_TOO_COMPLEX'])
})

test('counts the stretch of a worker’s log that is asked for', () => {
  const logs = (first: number): string =>
    `{ workers { log(first: ${first}) { position at kind text stream level progress } } gpus { workers { log(first: ${first}) { text } } } }`
  expect(codes({ query: logs(1_000) })).toEqual([])
  expect(codes({ query: logs(1_200) })).toEqual(['QUERY_TOO_COMPLEX'])
})

test('admits everything that a console shows of GPUs, workers and presets', () => {
  const [gpu, worker, preset] = ['Gpu', 'Worker', 'Preset'].map((name) => {
    const type = schema.getType(name)
    return isObjectType(type) ? leaves(type) : ''
  })
  const query = `{ gpus { ${gpu} processes { pid name memoryMb worker { id } } workers { id } }
    workers { ${worker} gpus { id } tasks { id status } log(first: 100) { position at kind text } }
    presets { ${preset} timeouts { runMs } retry { on } session { pinned } } }`
  expect(codes({ query })).toEqual([])
})

test('admits the introspection query of common tools, and only where the schema may be asked for', () => {
  const hidden = createGate({ schema, introspection: false })
  const query = getIntrospectionQuery({
    specifiedByUrl: true,
    directiveIsRepeatable: true,
    schemaDescription: true,
    inputValueDeprecation: true,
    oneOf: true,
  })
  expect(codes({ query })).toEqual([])
  expect(codes({ query }, hidden)[0]).toBe('GRAPHQL_VALIDATION_FAILED')
  expect(codes({ query: 'query { t: __type(name: "Task") { name } }' }, hidden)).toEqual([
    'GRAPHQL_VALIDATION_FAILED',
  ])
  expect(codes({ query: '{ __typename }' }, hidden)).toEqual([])
})

test('gives the same document for the same text, and another for another', () => {
  const one = admitted({ query: '{ service { version } }' })
  const again = admitted({ query: '{ service { version } }' })
  const other = admitted({ query: '{ service { version }  }' })
  expect(again.document).toBe(one.document)
  expect(again.shareKey).toBe(one.shareKey)
  expect(other.document).not.toBe(one.document)
  expect(other.shareKey).not.toBe(one.shareKey)
})

test('forgets documents, so that no number of them fills the memory', () => {
  const query = '{ gpus { id } }'
  const { document } = admitted({ query })
  for (let n = 0; n < 600; n++) admitted({ query: `query Q${n} { gpus { id } }` })
  expect(admitted({ query }).document).not.toBe(document)
})

test('shares between operations of one name only, and not where a variable reaches below the root', () => {
  const query = `
    query A { gpus { id } }
    query B { gpus { id } }
    query C($x: Boolean!) { gpus { id @include(if: $x) } }`
  const [a, b, c] = ['A', 'B', 'C'].map((operationName) =>
    admitted({ query, operationName, variables: { x: true } }),
  )
  expect(a?.document).toBe(b?.document)
  expect(a?.shareKey).not.toBe(b?.shareKey)
  expect(c?.shareKey).toBeNull()
})

test('needs the name of one of several operations', () => {
  const query = 'query A { gpus { id } } query B { gpus { id } }'
  expect(codes({ query })).toEqual(['OPERATION_RESOLUTION_FAILURE'])
  expect(codes({ query, operationName: 'C' })).toEqual(['OPERATION_RESOLUTION_FAILURE'])
  expect(admitted({ query, operationName: 'B' }).operation.name?.value).toBe('B')
})

const doubling = Array.from(
  { length: 90 },
  (_, n) => `fragment F${n} on Query { ...F${n + 1} ...F${n + 1} }`,
).join(' ')
const HOSTILE: readonly (readonly [string, string])[] = [
  ['fragments that double ninety times', `{ ...F0 } ${doubling} fragment F90 on Query { gpus { id } }`],
  ['a fragment that spreads itself', '{ ...F } fragment F on Query { gpus { id } ...F }'],
  ['fragments that spread each other', '{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }'],
  [
    'a fragment named like a meta field',
    '{ ...__schema } fragment __schema on Query { ...__schema gpus { id } }',
  ],
  [
    'aliases through fragments',
    `{ ${'...F '.repeat(8)} } fragment F on Query { a: gpus { id } b: gpus { id } }`,
  ],
  [
    'directives through fragments',
    `{ ${'...F '.repeat(8)} } fragment F on Query { gpus { id @skip(if: false) @include(if: true) } }`,
  ],
  ['the same field a thousand times', `{ ${'gpus { id } '.repeat(1_000)} }`],
  ['a thousand braces', '{ gpus '.repeat(1_900)],
  ['a thousand brackets in a value', `{ task(id: ${'['.repeat(1_900)}) { id } }`],
  ['hundreds of operations', Array.from({ length: 200 }, (_, n) => `query Q${n} { gpus { id } }`).join(' ')],
  [
    'hundreds of fragments',
    `{ ...F0 } ${Array.from({ length: 250 }, (_, n) => `fragment F${n} on Nothing { a }`).join(' ')}`,
  ],
  ['hundreds of unknown fields', `{ ${Array.from({ length: 299 }, (_, n) => `f${n}`).join(' ')} }`],
  ['conflicting fields', `{ ${Array.from({ length: 140 }, (_, n) => `task(id: "${n}") { id }`).join(' ')} }`],
  [
    'types of types of types',
    `{ __schema { types ${'{ fields { type '.repeat(5)} { name } ${'} }'.repeat(5)} } }`,
  ],
  ['an ofType without end', `{ __type(name: "Task") { ${'ofType { '.repeat(40)} name ${'}'.repeat(40)} } }`],
  ['workers of GPUs of workers', `{ gpus { ${'workers { gpus { '.repeat(3)} id ${'} }'.repeat(3)} } }`],
  ['a fifty-kilobyte text', `{ ${' '.repeat(50_000)} gpus { id } }`],
]

test.each(HOSTILE)('refuses %s within 50 ms', (_name, query) => {
  // The least of many runs is what it costs; the others were compiled meanwhile, or had to share their core.
  const tookMs = Array.from({ length: 8 }, () => {
    const start = performance.now()
    const refused = codes({ query })
    expect(refused.length).toBeGreaterThan(0)
    expect(refused.length).toBeLessThan(10)
    return performance.now() - start
  })
  expect(Math.min(...tookMs)).toBeLessThan(50)
})

function admitted(request: GateRequest): Extract<Admission, { status: 'admitted' }> {
  const admission = gate.admit(request, 'admin')
  if (admission.status === 'refused') throw new Error('refused', { cause: admission.errors })
  return admission
}
