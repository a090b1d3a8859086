import { createClient } from 'graphql-sse'
import { expect, test } from 'vitest'
import { startWorld, stream, until } from './harness.ts'

const TICKS = 'subscription { ticks { n text } }'

test('gives the reference client what a subscription yields, and completes', async () => {
  await using world = await startWorld()
  const client = createClient({ url: `${world.server.url}/stream`, retryAttempts: 0 })
  world.topic.push('one')
  world.topic.push('line\nbreak\r\n\u2028')
  const results: unknown[] = []
  for await (const result of client.iterate({ query: TICKS })) {
    results.push(result)
    if (results.length === 2) world.topic.end()
  }
  expect(results).toEqual([
    { data: { ticks: { n: 1, text: 'one' } } },
    { data: { ticks: { n: 2, text: 'line\nbreak\r\n\u2028' } } },
  ])
  client.dispose()
})

test('serves a query by GET, as a browser’s EventSource asks', async () => {
  await using world = await startWorld()
  const search = new URLSearchParams({ query: 'query ($n: Int!) { plus(n: $n) }', variables: '{"n":1}' })
  const response = await fetch(`${world.server.url}/stream?${search.toString()}`, {
    headers: { accept: 'text/event-stream' },
  })
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
  expect(response.headers.get('cache-control')).toBe('no-store')
  expect(await response.text()).toBe(
    ':\n\nevent: next\ndata: {"data":{"plus":2}}\n\nevent: complete\ndata: \n\n',
  )
})

test('refuses a mutation by GET and runs none', async () => {
  await using world = await startWorld()
  const search = new URLSearchParams({ query: 'mutation { write(value: "x") }' })
  const response = await fetch(`${world.server.url}/stream?${search.toString()}`, {
    headers: { accept: 'text/event-stream' },
  })
  expect(await response.text()).toContain('"code":"BAD_REQUEST"')
  expect(world.written).toEqual([])
})

test('ends the source at once when the client goes while the source waits', async () => {
  await using world = await startWorld()
  const leave = new AbortController()
  await stream(world.server, { query: TICKS }, { signal: leave.signal })
  await until(() => world.topic.readers === 1)
  leave.abort()
  await until(() => world.topic.readers === 0)
})

test('tells errors on the stream: refused by the gate, by a resolver, or unexpected', async () => {
  await using world = await startWorld()
  const text = async (query: string): Promise<string> => (await stream(world.server, { query })).text()
  expect(await text('{ nothing }')).toContain('"code":"GRAPHQL_VALIDATION_FAILED"')
  expect(await text('subscription { missing { n } }')).toContain('"code":"NOT_FOUND"')
  const broken = await text('subscription { breaks { n } }')
  expect(broken).toContain('event: next\ndata: {"data":{"breaks":{"n":1}}}')
  expect(broken).toContain('"code":"INTERNAL_SERVER_ERROR"')
  expect(broken).not.toContain('secret')
  expect(broken.endsWith('event: complete\ndata: \n\n')).toBe(true)
})

test.each([
  ['another Accept header', { accept: '*/*' }, '{"query":"{ hello }"}', 406],
  ['no query', {}, '{}', 400],
  ['a batch', {}, '[{"query":"{ hello }"}]', 400],
  ['a body that is no JSON', {}, '{', 400],
])('refuses %s', async (_name, headers, body, status) => {
  await using world = await startWorld()
  const response = await stream(world.server, null, {
    headers: { 'content-type': 'application/json', accept: 'text/event-stream', ...headers },
    body,
  })
  expect(response.status).toBe(status)
})

test('refuses one stream more than are allowed', async () => {
  await using world = await startWorld({ limits: { maxStreams: 1 } })
  const leave = new AbortController()
  await stream(world.server, { query: TICKS }, { signal: leave.signal })
  expect((await stream(world.server, { query: TICKS })).status).toBe(503)
  leave.abort()
  await until(() => world.topic.readers === 0)
  expect((await stream(world.server, { query: '{ hello }' })).status).toBe(200)
})

test('makes nothing more for a client that does not read, and cuts it off', async () => {
  await using world = await startWorld({ limits: { keepAliveMs: 150 } })
  const leave = new AbortController()
  await stream(world.server, { query: 'subscription { unshared { text } }' }, { signal: leave.signal })
  for (let n = 0; n < 400; n++) world.topic.push('x'.repeat(100_000))
  await until(() => world.topic.readers === 0)
  expect(world.topic.pulled).toBeLessThan(150)
  leave.abort()
})
