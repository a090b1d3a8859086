import { getIntrospectionQuery } from 'graphql'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startWorld, type World } from '../server/harness.ts'
import { ThreePaths } from './three-paths.ts'

let world: World & AsyncDisposable
let paths: ThreePaths
beforeAll(async () => {
  world = await startWorld({ introspection: false })
  paths = new ThreePaths(world.server.url)
})
afterAll(async () => {
  await paths[Symbol.asyncDispose]()
  await world[Symbol.asyncDispose]()
})

// Names of the schema that the asker has not said.
const HIDDEN = /Did you mean|"?hello|overflow|"echo|Tick|missing|"kind"/

test.each([
  ['the whole schema', getIntrospectionQuery()],
  ['the schema under another name', '{ a: __schema { queryType { b: name } } }'],
  ['the schema through a fragment', '{ ...F } fragment F on Query { __schema { types { name } } }'],
  ['the schema through a fragment without a type', '{ ... { __schema { types { name } } } }'],
  ['the schema where it is skipped', '{ __schema @skip(if: true) { types { name } } }'],
  ['the schema from a mutation', 'mutation { __schema { types { name } } }'],
  ['a type', '{ __type(name: "T") { fields { name } } }'],
  ['a type from a subscription', 'subscription { __type(name: "T") { name } }'],
  ['a field that is nearly one', '{ hell }'],
  ['a fragment on a type that is nearly one', '{ ... on Quer { a } }'],
  ['an argument that is nearly one', '{ plus(m: 1) }'],
  ['a variable of a type that is nearly one', 'query ($x: Strin) { plus(n: $x) }'],
  ['a directive that is nearly one', '{ __typename @ski(if: true) }'],
])('who may not ask for the schema learns nothing of it by %s, on any path', async (_what, query) => {
  for (const heard of [
    await paths.overHttp({ query }),
    await paths.overStream({ query }),
    await paths.overSocket({ query }),
  ]) {
    expect(heard).toMatchObject({ codes: ['GRAPHQL_VALIDATION_FAILED'], hasData: false })
    expect(heard.text).not.toMatch(HIDDEN)
  }
})
