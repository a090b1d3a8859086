import { expect, test } from 'vitest'
import WebSocket from 'ws'
import { connect, RawSocket, refusedUpgrade, startWorld, until, wsUrl } from './harness.ts'

const TICKS = 'subscription { ticks { n text } }'

test('gives the reference client what a subscription yields, and completes', async () => {
  await using world = await startWorld()
  const client = connect(world.server)
  world.topic.push('one')
  world.topic.push('two')
  const results: unknown[] = []
  for await (const result of client.iterate({ query: TICKS })) {
    results.push(result)
    if (results.length === 2) world.topic.end()
  }
  expect(results).toEqual([
    { data: { ticks: { n: 1, text: 'one' } } },
    { data: { ticks: { n: 2, text: 'two' } } },
  ])
  await client.dispose()
})

test('executes queries and mutations too', async () => {
  await using world = await startWorld()
  const client = connect(world.server)
  const results: unknown[] = []
  for await (const result of client.iterate({ query: '{ hello }' })) results.push(result)
  for await (const result of client.iterate({ query: 'mutation { write(value: "x") }' })) results.push(result)
  expect(results).toEqual([{ data: { hello: 'world' } }, { data: { write: 'x' } }])
  expect(world.written).toEqual(['x'])
  await client.dispose()
})

test('ends the source at once when the client completes while the source waits', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  socket.subscribe('a', TICKS)
  await until(() => world.topic.readers === 1)
  socket.send({ id: 'a', type: 'complete' })
  await until(() => world.topic.readers === 0)
  expect(world.signals[0]?.aborted).toBe(true)
  socket.socket.terminate()
})

test('ends the source at once when the connection breaks while the source waits', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  socket.subscribe('a', TICKS)
  await until(() => world.topic.readers === 1)
  socket.socket.terminate()
  await until(() => world.topic.readers === 0)
})

test('lets go of a source whose return() never settles', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  socket.subscribe('a', 'subscription { stuck { n } }')
  await socket.message(({ type }) => type === 'next')
  socket.send({ id: 'a', type: 'complete' })
  // The id is free again, so the server has ended the operation.
  socket.subscribe('a', '{ hello }')
  expect(
    await socket.message(({ payload }) => JSON.stringify(payload) === '{"data":{"hello":"world"}}'),
  ).toBeDefined()
  socket.socket.terminate()
})

test.each([
  ['a message that is no JSON', 'nonsense', 4400],
  ['a message of an unknown type', '{"type":"what"}', 4400],
  ['a subscribe without a query', '{"id":"1","type":"subscribe","payload":{}}', 4400],
  [
    'an operation before the introduction',
    '{"id":"1","type":"subscribe","payload":{"query":"{ hello }"}}',
    4401,
  ],
  ['a second introduction', '{"type":"connection_init"}', 4429],
])('closes the socket on %s', async (_name, message, code) => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).opened()
  if (code === 4429) await socket.ready()
  socket.send(message)
  expect((await socket.closed).code).toBe(code)
})

test('closes the socket on a binary message', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  socket.socket.send(Buffer.from('{"type":"ping"}'))
  expect((await socket.closed).code).toBe(4400)
})

test('closes the socket on a second operation of the same id', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  socket.subscribe('a', TICKS)
  socket.subscribe('a', TICKS)
  expect((await socket.closed).code).toBe(4409)
  await until(() => world.topic.readers === 0)
})

test('closes a socket whose client does not introduce itself in time', async () => {
  await using world = await startWorld({ limits: { initTimeoutMs: 20 } })
  const socket = await new RawSocket(world.server).opened()
  expect((await socket.closed).code).toBe(4408)
})

test('closes a socket that asks for no subprotocol, and never agrees to the old one', async () => {
  await using world = await startWorld()
  const bare = await new RawSocket(world.server, []).opened()
  expect((await bare.closed).code).toBe(4406)
  const old = new WebSocket(wsUrl(world.server), ['graphql-ws'])
  const error = await new Promise<Error>((resolve) => old.on('error', resolve))
  expect(error.message).toBe('Server sent no subprotocol')
})

test('closes the socket on a message over the limit, and serves one below it', async () => {
  await using world = await startWorld({ limits: { maxMessageBytes: 10_000 } })
  const socket = await new RawSocket(world.server).ready()
  socket.subscribe('a', 'query ($value: JSON) { echo(value: $value) }', { value: 'x'.repeat(9_000) })
  await socket.message(({ id, type }) => id === 'a' && type === 'complete')
  socket.subscribe('b', 'query ($value: JSON) { echo(value: $value) }', { value: 'x'.repeat(10_000) })
  expect((await socket.closed).code).toBe(1009)
})

test('runs as many operations at a time on one socket as are allowed, and refuses one more', async () => {
  await using world = await startWorld({ limits: { maxOperationsPerSocket: 3 } })
  const socket = await new RawSocket(world.server).ready()
  for (const id of ['1', '2', '3', '4']) socket.subscribe(id, TICKS)
  const refused = await socket.message(({ type }) => type === 'error')
  expect(refused).toMatchObject({ id: '4', payload: [{ extensions: { code: 'TOO_MANY_OPERATIONS' } }] })
  expect(world.topic.readers).toBe(3)
  socket.send({ id: '1', type: 'complete' })
  await until(() => world.topic.readers === 2)
  socket.subscribe('5', TICKS)
  await until(() => world.topic.readers === 3)
  socket.socket.terminate()
})

test('refuses the upgrade of a foreign origin, a foreign host, another path, and of one socket too many', async () => {
  await using world = await startWorld({
    config: { allowedOrigins: ['https://console.example'], allowedHosts: ['gpu.example'] },
    limits: { maxSockets: 1 },
  })
  const { server } = world
  expect(await refusedUpgrade(server, { origin: 'https://evil.example' })).toBe(403)
  expect(await refusedUpgrade(server, { origin: 'null' })).toBe(403)
  expect(await refusedUpgrade(server, { host: 'evil.example' })).toBe(403)
  expect(await refusedUpgrade(server, {}, '/elsewhere')).toBe(404)
  const listed = await new RawSocket(server, undefined, {
    origin: 'https://console.example',
    host: 'gpu.example:4000',
  }).ready()
  expect(await refusedUpgrade(server, {})).toBe(503)
  listed.socket.terminate()
})

test('tells a refused subscription by its code, and a broken source by an id that is in the log', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  socket.subscribe('a', 'subscription { missing { n } }')
  expect(await socket.message(({ id }) => id === 'a')).toMatchObject({
    type: 'next',
    payload: { errors: [{ message: 'There is no such feed.', extensions: { code: 'NOT_FOUND' } }] },
  })
  socket.subscribe('b', 'subscription { breaks { n } }')
  const error = await socket.message(({ id, type }) => id === 'b' && type === 'error')
  expect(JSON.stringify(error)).not.toContain('secret')
  const [{ extensions }] = error['payload'] as [{ extensions: { code: string; errorId: string } }]
  expect(extensions.code).toBe('INTERNAL_SERVER_ERROR')
  expect(
    world.log.find(({ fields }) => 'errorId' in fields && fields.errorId === extensions.errorId),
  ).toMatchObject({
    level: 'error',
    fields: { err: { message: 'the secret source broke' } },
  })
  // Nothing comes after an error.
  socket.subscribe('c', '{ hello }')
  await socket.message(({ id, type }) => id === 'c' && type === 'complete')
  expect(socket.messages.filter(({ id }) => id === 'b').map(({ type }) => type)).toEqual(['next', 'error'])
  socket.socket.terminate()
})

test('makes nothing more for a client that does not read, cuts it off, and serves the others meanwhile', async () => {
  await using world = await startWorld({ limits: { keepAliveMs: 150 } })
  const stalled = await new RawSocket(world.server).ready()
  const other = await new RawSocket(world.server).ready()
  stalled.subscribe('a', 'subscription { unshared { text } }')
  await until(() => world.topic.readers === 1)
  stalled.socket.pause()
  for (let n = 0; n < 400; n++) world.topic.push('x'.repeat(100_000))
  other.subscribe('b', '{ hello }')
  await other.message(({ id, type }) => id === 'b' && type === 'complete')
  await until(() => world.topic.readers === 0)
  // What the network's own buffers take, and no more: a fraction of the 40 MB.
  expect(world.topic.pulled).toBeLessThan(150)
  expect(other.socket.readyState).toBe(WebSocket.OPEN)
  other.socket.terminate()
  stalled.socket.terminate()
})

test('does not listen to a client that asks on and on without reading', async () => {
  await using world = await startWorld({ limits: { keepAliveMs: 150 } })
  const socket = await new RawSocket(world.server).ready()
  socket.socket.pause()
  for (let n = 0; n < 400; n++) {
    socket.subscribe(String(n), 'query ($value: JSON) { echo(value: $value) }', {
      value: 'x'.repeat(100_000),
    })
  }
  // The server stops reading, so most of what was sent never leaves the client.
  await until(() => world.signals.length > 0)
  socket.socket.resume()
  await socket.closed.catch(() => undefined)
  expect(world.signals.length).toBeLessThan(200)
})
