import { expect, test } from 'vitest'
import { post, RawSocket, startWorld, stream, until } from './harness.ts'

const TICKS = 'subscription { ticks { n } }'

test('tells every WebSocket client to come back later and ends event streams without a complete', async () => {
  const world = await startWorld()
  const sockets = await Promise.all(Array.from({ length: 20 }, () => new RawSocket(world.server).ready()))
  for (const socket of sockets) socket.subscribe('a', TICKS)
  const response = await stream(world.server, { query: TICKS })
  await until(() => world.topic.readers === 21)
  await world.server[Symbol.asyncDispose]()
  for (const socket of sockets) expect((await socket.closed).code).toBe(1001)
  expect(await response.text()).toBe(':\n\n')
  expect(world.topic.readers).toBe(0)
  await expect(post(world.server.url, { query: '{ hello }' })).rejects.toThrow()
})

test('lets a request under way end, and takes no other meanwhile', async () => {
  const world = await startWorld()
  const answer = post(world.server.url, { query: '{ slow }' })
  await world.slowAsked
  const stopped = world.server[Symbol.asyncDispose]()
  await expect(post(world.server.url, { query: '{ hello }' })).rejects.toThrow()
  world.release()
  expect(await answer).toMatchObject({ status: 200, body: { data: { slow: 'done' } } })
  await stopped
})

test('waits no longer than it is told for a request that does not end', async () => {
  const world = await startWorld({ limits: { drainMs: 50 } })
  const answer = post(world.server.url, { query: '{ slow }' })
  const failed = expect(answer).rejects.toThrow()
  await world.slowAsked
  await world.server[Symbol.asyncDispose]()
  await failed
})

test('cuts off a WebSocket client that does not hang up', async () => {
  const world = await startWorld({ limits: { drainMs: 50 } })
  const socket = await new RawSocket(world.server).ready()
  socket.socket.pause()
  await world.server[Symbol.asyncDispose]()
  socket.socket.resume()
  await socket.closed
})

test('stops once, however often it is asked', async () => {
  const world = await startWorld()
  const { server } = world
  await Promise.all([server[Symbol.asyncDispose](), server[Symbol.asyncDispose]()])
  await server[Symbol.asyncDispose]()
})

test('fails with the cause where the port is taken', async () => {
  await using world = await startWorld()
  await expect(startWorld({ config: { port: world.server.port } })).rejects.toMatchObject({
    code: 'EADDRINUSE',
  })
})
