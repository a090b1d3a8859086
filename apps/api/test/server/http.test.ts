import { writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { connect as connectTcp } from 'node:net'
import { getIntrospectionQuery } from 'graphql'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Server } from '../../src/server.ts'
import { NO_ARTIFACTS, post, RawSocket, type ResponseBody, startWorld, stream } from './harness.ts'

test('answers queries and mutations', async () => {
  await using world = await startWorld()
  const { url } = world.server
  expect(await post(url, { query: '{ hello }' })).toMatchObject({
    status: 200,
    body: { data: { hello: 'world' } },
  })
  const { status } = await post(url, {
    query: 'mutation ($v: String!) { write(value: $v) }',
    variables: { v: 'x' },
  })
  expect(status).toBe(200)
  expect(world.written).toEqual(['x'])
})

test('keeps a key named __proto__ as a key, and pollutes nothing', async () => {
  await using world = await startWorld()
  const body =
    '{"query":"query ($v: JSON) { echo(value: $v) }","variables":{"v":{"__proto__":{"a":1},"constructor":{"prototype":{"b":2}}}}}'
  const response = await fetch(world.server.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
  })
  expect(await response.text()).toBe(
    '{"data":{"echo":{"__proto__":{"a":1},"constructor":{"prototype":{"b":2}}}}}\n',
  )
  expect({}).not.toHaveProperty('a')
  expect({}).not.toHaveProperty('b')
})

test('masks an unexpected error with an id under which the log has its stack and cause', async () => {
  await using world = await startWorld()
  const { body } = await post(world.server.url, { query: '{ boom }' })
  const error = body.errors?.[0]
  expect(error).toMatchObject({ path: ['boom'], extensions: { code: 'INTERNAL_SERVER_ERROR' } })
  expect(JSON.stringify(body)).not.toMatch(/hunter2|deeper|stack/)
  const entry = world.log.find(
    ({ fields }) => 'errorId' in fields && fields.errorId === error?.extensions.errorId,
  )
  expect(entry).toMatchObject({ level: 'error', fields: { path: 'boom' } })
  const logged = entry !== undefined && 'err' in entry.fields ? entry.fields.err : null
  expect(logged).toMatchObject({
    message: 'the secret password is hunter2',
    cause: { message: 'the deeper cause' },
  })
})

test.each([
  ['{ missing }', {}, 'NOT_FOUND', 'There is no such thing.'],
  ['query ($n: Int!) { plus(n: $n) }', { n: 'x' }, 'BAD_USER_INPUT', /got invalid value "x"/],
  ['query ($n: Int = 1) { plus(n: $n) }', { n: null }, 'BAD_USER_INPUT', /must not be null/],
  ['{ overflow }', {}, 'INTERNAL_SERVER_ERROR', /its log has the details/],
])('tells of %s by its code', async (query, variables, code, message) => {
  await using world = await startWorld()
  const { body } = await post(world.server.url, { query, variables })
  expect(body.errors).toHaveLength(1)
  expect(body.errors?.[0]).toMatchObject({
    message: expect.stringMatching(message) as string,
    extensions: { code },
  })
})

/** What the gate must refuse on every path, and the code that says why. */
const REFUSED: readonly (readonly [string, string, string])[] = [
  ['a text that is no query', '{ hello', 'GRAPHQL_PARSE_FAILED'],
  ['too many tokens', `{ ${'hello '.repeat(2_100)}}`, 'GRAPHQL_PARSE_FAILED'],
  ['too many characters', `{ hello } #${'x'.repeat(15_000)}`, 'QUERY_TOO_LARGE'],
  ['too many fields', `{ ${'hello '.repeat(400)}}`, 'QUERY_TOO_COMPLEX'],
  [
    'too many aliases',
    `{ ${Array.from({ length: 16 }, (_, n) => `a${n}: hello`).join(' ')} }`,
    'QUERY_TOO_COMPLEX',
  ],
  ['too many directives', `{ hello ${'@skip(if: false) '.repeat(9)} }`, 'QUERY_TOO_COMPLEX'],
  ['too much depth', `{ ticks { ${'next { '.repeat(12)} n ${'}'.repeat(12)} } }`, 'QUERY_TOO_COMPLEX'],
  ['too much cost', '{ ticks(first: 100000) { n text } }', 'QUERY_TOO_COMPLEX'],
  ['a field that is not there', '{ helo }', 'GRAPHQL_VALIDATION_FAILED'],
]

async function onAllPaths(
  server: Server,
  query: string,
): Promise<readonly (ResponseBody['errors'] | undefined)[]> {
  const overHttp = await post(server.url, { query })
  expect(overHttp.status).toBe(overHttp.body.errors === undefined ? 200 : 400)
  const socket = await new RawSocket(server).ready()
  socket.subscribe('a', query)
  const { type, payload } = await socket.message(({ id }) => id === 'a')
  socket.socket.terminate()
  const streamed = await (await stream(server, { query })).text()
  const [, data] = /event: next\ndata: (.*)\n/.exec(streamed) ?? []
  return [
    overHttp.body.errors,
    type === 'error' ? (payload as ResponseBody['errors']) : undefined,
    (JSON.parse(data ?? 'null') as ResponseBody).errors,
  ]
}

test.each(REFUSED)('refuses %s over HTTP, WebSocket and event stream alike', async (_name, query, code) => {
  await using world = await startWorld()
  for (const errors of await onAllPaths(world.server, query)) {
    expect(errors?.map(({ extensions }) => extensions.code)).toEqual([code])
  }
})

test('shows the schema where it may be asked for', async () => {
  await using world = await startWorld()
  expect(await onAllPaths(world.server, getIntrospectionQuery())).toEqual([undefined, undefined, undefined])
  expect((await onAllPaths(world.server, '{ helo }'))[0]?.[0]?.message).toContain('Did you mean "hello"?')
})

test('hides the schema, and hints at it, where it may not be asked for', async () => {
  await using world = await startWorld({ introspection: false })
  for (const query of [
    '{ __schema { queryType { name } } }',
    '{ __type(name: "Tick") { name } }',
    '{ helo }',
  ]) {
    for (const errors of await onAllPaths(world.server, query)) {
      expect(errors?.length).toBeGreaterThan(0)
      expect(JSON.stringify(errors)).not.toContain('Did you mean')
    }
  }
  expect(await onAllPaths(world.server, '{ __typename }')).toEqual([undefined, undefined, undefined])
})

test('refuses batches', async () => {
  await using world = await startWorld()
  const { status, body } = await post(world.server.url, [{ query: 'mutation { write(value: "x") }' }])
  expect(status).toBe(400)
  expect(body.errors?.[0]?.extensions.code).toBe('BAD_REQUEST')
  expect(world.written).toEqual([])
})

test('refuses what a foreign page could send without being asked about it first', async () => {
  await using world = await startWorld()
  const { url } = world.server
  const query = 'mutation { write(value: "x") }'
  const search = new URLSearchParams({ query })
  expect((await fetch(`${url}?${search.toString()}`)).status).toBe(400)
  expect((await fetch(`${url}?query=%7Bhello%7D`)).status).toBe(400)
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x']) {
    const { status } = await post(url, { query }, { 'content-type': type })
    expect(status, type).toBe(415)
  }
  expect(world.written).toEqual([])
})

test('serves a query by GET to a client that a page cannot imitate, but never a mutation', async () => {
  await using world = await startWorld()
  const headers = { 'apollo-require-preflight': 'yes' }
  const get = (query: string): Promise<Response> =>
    fetch(`${world.server.url}?${new URLSearchParams({ query }).toString()}`, { headers })
  expect(await (await get('{ hello }')).json()).toEqual({ data: { hello: 'world' } })
  expect((await get('mutation { write(value: "x") }')).status).toBe(405)
  expect(world.written).toEqual([])
  expect((await fetch(`${world.server.url}?query=%7Bhello%7D&query=%7Bboom%7D`, { headers })).status).toBe(
    400,
  )
})

test('tells a browser that comes by what is here, and a subscription where to go', async () => {
  await using world = await startWorld()
  const hint = await fetch(world.server.url, { headers: { accept: 'text/html' } })
  expect(hint.status).toBe(200)
  expect(await hint.text()).toContain('graphql-transport-ws')
  const { status, body } = await post(world.server.url, { query: 'subscription { ticks { n } }' })
  expect(status).toBe(400)
  expect(body.errors?.[0]?.message).toContain('/graphql/stream')
})

test('aborts the signal of a request whose client has hung up', async () => {
  await using world = await startWorld()
  const leave = new AbortController()
  const response = fetch(world.server.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"query":"{ slow }"}',
    signal: leave.signal,
  })
  await world.slowAsked
  const [signal] = world.signals
  const aborted = new Promise((resolve) => signal?.addEventListener('abort', resolve))
  leave.abort()
  await expect(response).rejects.toThrow()
  await aborted
})

test('serves listed origins and hosts only, on every path', async () => {
  await using world = await startWorld({
    config: { allowedOrigins: ['https://console.example'], allowedHosts: ['gpu.example'] },
  })
  const { url } = world.server
  const evil = { origin: 'https://evil.example' }
  const listed = { origin: 'https://console.example' }
  const body = { query: '{ hello }' }
  expect((await post(url, body, evil)).status).toBe(403)
  expect((await post(url, body, { origin: 'null' })).status).toBe(403)
  expect(
    (await stream(world.server, body, { headers: { accept: 'text/event-stream', ...evil } })).status,
  ).toBe(403)
  for (const path of ['/healthz', '/readyz', '/artifacts/x', '/nowhere']) {
    expect((await fetch(new URL(path, url), { headers: evil })).status).toBe(403)
  }
  expect((await post(url, body)).headers.get('access-control-allow-origin')).toBeNull()
  const answer = await post(url, body, listed)
  expect(answer.status).toBe(200)
  expect(answer.headers.get('access-control-allow-origin')).toBe('https://console.example')
  expect(answer.headers.get('access-control-allow-credentials')).toBeNull()
  const streamed = await fetch(`${url}/stream?query=%7Bhello%7D`, {
    headers: { accept: 'text/event-stream', ...listed },
  })
  expect(streamed.headers.get('access-control-allow-origin')).toBe('https://console.example')
  await streamed.text()

  expect(await statusFor(world.server, 'evil.example')).toBe(403)
  expect(await statusFor(world.server, 'localhost.evil.example')).toBe(403)
  expect(await statusFor(world.server, 'GPU.example:80')).toBe(200)
  expect(await statusFor(world.server, 'localhost:1')).toBe(200)
  expect(await statusFor(world.server, '[::1]:4000')).toBe(200)
})

test('answers a browser’s preflight for a listed origin', async () => {
  await using world = await startWorld({ config: { allowedOrigins: ['https://console.example'] } })
  const preflight = (origin: string): Promise<Response> =>
    fetch(world.server.url, {
      method: 'OPTIONS',
      headers: {
        origin,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'content-type',
      },
    })
  const { status, headers } = await preflight('https://console.example')
  expect(status).toBe(204)
  expect(headers.get('access-control-allow-origin')).toBe('https://console.example')
  expect(headers.get('access-control-allow-headers')).toContain('content-type')
  expect((await preflight('https://evil.example')).status).toBe(403)
})

test('refuses a body over the limit, and one that is no JSON', async () => {
  await using world = await startWorld()
  const value = 'x'.repeat(400_000)
  const query = 'query ($value: JSON) { echo(value: $value) }'
  expect((await post(world.server.url, { query, variables: { value } })).status).toBe(200)
  const large = await post(world.server.url, { query, variables: { value: value.repeat(2) } })
  expect(large).toMatchObject({ status: 413, body: { errors: [{ extensions: { code: 'BAD_REQUEST' } }] } })
  expect(await post(world.server.url, '{')).toMatchObject({ status: 400 })
})

test('tells whether it is alive and whether it is ready', async () => {
  let ready = true
  await using world = await startWorld({
    health: () =>
      Promise.resolve({ ready, checks: { store: { ok: ready, detail: ready ? 'fine' : 'full' } } }),
  })
  const get = (path: string): Promise<Response> => fetch(new URL(path, world.server.url))
  expect(await (await get('/healthz')).json()).toEqual({ status: 'alive' })
  expect(await (await get('/readyz')).json()).toEqual({
    status: 'ready',
    checks: { store: { ok: true, detail: 'fine' } },
  })
  ready = false
  const response = await get('/readyz')
  expect(response.status).toBe(503)
  expect(await response.json()).toEqual({
    status: 'not ready',
    checks: { store: { ok: false, detail: 'full' } },
  })
  expect((await get('/healthz')).status).toBe(200)
  expect((await get('/nowhere')).status).toBe(404)
})

test('serves an artifact to be saved and never to be run', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'artifacts-'))
  const path = join(folder, 'file')
  await writeFile(path, '<script>alert(1)</script>')
  const name = '"ü"\r\n(1).html'
  await using world = await startWorld({
    artifacts: {
      ...NO_ARTIFACTS,
      open: (id) =>
        Promise.resolve(id === 'a' ? { path, name, mediaType: 'text/html', sha256: '00ff' } : null),
    },
  })
  const response = await fetch(new URL('/artifacts/a', world.server.url))
  expect(await response.text()).toBe('<script>alert(1)</script>')
  expect(Object.fromEntries(response.headers)).toMatchObject({
    'content-type': 'text/html',
    'content-length': '25',
    'content-disposition': `attachment; filename="______1_.html"; filename*=UTF-8''%22%C3%BC%22%0D%0A%281%29.html`,
    'content-security-policy': "sandbox; default-src 'none'",
    'x-content-type-options': 'nosniff',
    'cache-control': 'no-store',
    'repr-digest': 'sha-256=:AP8=:',
  })
  expect((await fetch(new URL('/artifacts/b', world.server.url))).status).toBe(404)
  await rm(folder, { recursive: true })
})

test.each<[string, number, string, string | null]>([
  ['bytes=0-3', 206, '0123', 'bytes 0-3/10'],
  ['bytes=7-', 206, '789', 'bytes 7-9/10'],
  ['bytes=-2', 206, '89', 'bytes 8-9/10'],
  ['bytes=-99', 206, '0123456789', 'bytes 0-9/10'],
  ['bytes=5-99', 206, '56789', 'bytes 5-9/10'],
  ['bytes=9-9', 206, '9', 'bytes 9-9/10'],
  ['bytes=10-', 416, 'It has 10 bytes.', 'bytes */10'],
  ['bytes=-0', 416, 'It has 10 bytes.', 'bytes */10'],
  ['bytes=5-2', 200, '0123456789', null],
  ['bytes=0-1,4-5', 200, '0123456789', null],
  ['bytes=99999999999999999999-', 200, '0123456789', null],
  ['lines=1-2', 200, '0123456789', null],
])('answers an artifact asked for with Range: %s', async (range, status, body, contentRange) => {
  const folder = await mkdtemp(join(tmpdir(), 'artifacts-'))
  const path = join(folder, 'file')
  await writeFile(path, '0123456789')
  const artifact = { path, name: 'file', mediaType: 'text/plain', sha256: '00ff' }
  await using world = await startWorld({
    artifacts: { ...NO_ARTIFACTS, open: () => Promise.resolve(artifact) },
  })
  const get = (headers: Record<string, string>) =>
    fetch(new URL('/artifacts/a', world.server.url), { headers })
  const response = await get({ range })
  expect(response.status).toBe(status)
  expect(await response.text()).toContain(body)
  expect(response.headers.get('content-range')).toBe(contentRange)
  // Of another file than the one whose part is there already, the whole is given.
  expect(await (await get({ range, 'if-range': '"00"' })).text()).toBe('0123456789')
  expect((await get({ range, 'if-range': '"00ff"' })).status).toBe(status)
  await rm(folder, { recursive: true })
})

test('cuts off a request whose head is too large', async () => {
  await using world = await startWorld()
  const socket = connectTcp(world.server.port, '127.0.0.1')
  socket.write(`GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`)
  const text = await new Promise<string>((resolve) => {
    let received = ''
    socket.on('data', (data) => (received += data.toString()))
    socket.on('error', () => undefined)
    socket.on('close', () => {
      resolve(received)
    })
  })
  expect(text).toMatch(/^HTTP\/1\.1 431 /)
})

/** fetch cannot set a Host header. */
function statusFor({ port }: Server, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    request({ port, host: '127.0.0.1', path: '/healthz', headers: { host } }, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
      .on('error', reject)
      .end()
  })
}
