import { getIntrospectionQuery } from 'graphql'
import { serverAudits } from 'graphql-http'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startWorld, type World } from './harness.ts'

describe("the audits of the specification 'GraphQL over HTTP'", () => {
  let world: World & AsyncDisposable
  beforeAll(async () => {
    // Two of the audits ask for the schema.
    world = await startWorld({ introspection: true })
  })
  afterAll(() => world[Symbol.asyncDispose]())

  const audits = serverAudits({ url: () => world.server.url, fetchFn: fetch })

  /** What is answered otherwise than it MAY or SHOULD be. */
  const OTHERWISE: Readonly<Record<string, 'warn' | 'notice'>> = {
    // A GET without a header that pages cannot send is refused: it might be a page's.
    ...{ '5A70': 'notice', D6D5: 'notice', '6A70': 'notice' },
    // What cannot be answered has a status that says so, whatever form the client asked for.
    ...{ '572B': 'warn', FDE2: 'warn', '7B9B': 'warn' },
  }

  test.each(audits.map((audit) => [audit.name, audit] as const))('%s', async (_name, audit) => {
    const result = await audit.fn()
    const expected = OTHERWISE[audit.id] ?? 'ok'
    expect({
      id: audit.id,
      status: result.status,
      why: 'reason' in result ? result.reason : '',
    }).toMatchObject({
      id: audit.id,
      status: expected,
    })
  })
})

describe('a server that is open to the network', () => {
  let world: World & AsyncDisposable
  beforeAll(async () => {
    world = await startWorld({ introspection: false })
  })
  afterAll(() => world[Symbol.asyncDispose]())

  interface Asked {
    readonly method?: string
    readonly type?: string
    readonly search?: string
    readonly accept?: string
    readonly headers?: Readonly<Record<string, string>>
    readonly body?: unknown
  }

  async function ask({ method = 'POST', type = 'application/json', search = '', body, ...more }: Asked) {
    const response = await fetch(`${world.server.url}${search}`, {
      method,
      headers: {
        ...(method === 'POST' && { 'content-type': type }),
        ...(more.accept !== undefined && { accept: more.accept }),
        ...more.headers,
      },
      ...(method === 'POST' && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    return { status: response.status, text: await response.text() }
  }

  const query = (text: string): Asked => ({ body: { query: text } })
  const many = (count: number, of: (n: number) => string): string =>
    Array.from({ length: count }, (_, n) => of(n)).join(' ')
  const TYPE_OF_TYPES =
    '{ __schema { types { fields { type { fields { type { fields { type { name } } } } } } } } }'

  // What the scanner graphql-cop looks for, by what it asks.
  test.each<[string, Asked]>([
    ['101 aliases', query(`{ ${many(101, (n) => `a${n}: __typename`)} }`)],
    ['a batch of ten', { body: Array.from({ length: 10 }, () => ({ query: '{ __typename }' })) }],
    ['ten directives on one field', query(`{ __typename ${'@aa'.repeat(10)} }`)],
    ['500 times the same field', query(`{ ${'__typename '.repeat(500)} }`)],
    ['types of types of types', query(TYPE_OF_TYPES)],
    ['the schema', query(getIntrospectionQuery())],
    ['a mutation by GET', { method: 'GET', search: '?query=mutation%7B__typename%7D' }],
    ['a query by GET that a page could send', { method: 'GET', search: '?query=%7B__typename%7D' }],
    ['a query as a form', { type: 'application/x-www-form-urlencoded', body: 'query=%7B__typename%7D' }],
    ['a query as plain text', { type: 'text/plain', body: '{"query":"{ __typename }"}' }],
  ])('refuses %s', async (_what, asked) => {
    const { status, text } = await ask(asked)
    expect(status).toBeGreaterThanOrEqual(400)
    expect(status).toBeLessThan(500)
    expect(text).not.toContain('"data"')
  })

  test('names no field to who nearly hit it, shows no stack, traces nothing, and has no page to play with', async () => {
    expect((await ask(query('{ helo }'))).text).not.toMatch(/hello|Did you mean/)
    const { text } = await ask(query('{ boom }'))
    expect(text).not.toMatch(/at .*\(|stack|\.ts:/)
    const traced = await ask({
      ...query('{ __typename }'),
      headers: { 'x-apollo-tracing': '1', 'apollo-federation-include-trace': 'ftv1' },
    })
    expect(traced.text).not.toMatch(/tracing|ftv1/)
    const page = await ask({ method: 'GET', accept: 'text/html' })
    expect(page.text).not.toMatch(/<script|GraphiQL|playground|sandbox/i)
  })
})
