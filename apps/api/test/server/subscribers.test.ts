import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { RawSocket, startWorld, until } from './harness.ts'

const TICKS = 'subscription { ticks { n text } }'
const KEEP_ALIVE_MS = 500

test('frees a client that answers no pings within two intervals, though it reads', async () => {
  await using world = await startWorld({ limits: { keepAliveMs: KEEP_ALIVE_MS } })
  const mute = await new RawSocket(world.server, undefined, undefined, false).ready()
  const sound = await new RawSocket(world.server).ready()
  const begun = performance.now()
  mute.subscribe('a', TICKS)
  sound.subscribe('a', TICKS)
  await until(() => world.topic.readers === 2)
  world.topic.push('one')
  expect((await mute.closed).code).toBe(1006)
  expect(performance.now() - begun).toBeLessThan(2 * KEEP_ALIVE_MS + 1_500)
  await until(() => world.topic.readers === 1)
  world.topic.push('two')
  await sound.message(({ type, payload }) => type === 'next' && JSON.stringify(payload).includes('two'))
  sound.socket.terminate()
})

test('keeps a client that is silent and answers pings', async () => {
  await using world = await startWorld({ limits: { keepAliveMs: 20 } })
  const socket = await new RawSocket(world.server).ready()
  let pings = 0
  socket.socket.on('ping', () => pings++)
  socket.subscribe('a', TICKS)
  await until(() => pings >= 10)
  world.topic.push('one')
  await socket.message(({ type }) => type === 'next')
  socket.socket.terminate()
})

test('makes nothing more for fifty clients that stop reading, cuts them off, and serves the others meanwhile', async () => {
  // Long enough for a process that is server and clients at once to answer in time.
  await using world = await startWorld({ limits: { keepAliveMs: 1_500 } })
  const stalled = await Promise.all(Array.from({ length: 50 }, () => new RawSocket(world.server).ready()))
  const others = await Promise.all(Array.from({ length: 5 }, () => new RawSocket(world.server).ready()))
  for (const socket of [...stalled, ...others]) socket.subscribe('a', TICKS)
  await until(() => world.topic.readers === 55)
  for (const { socket } of stalled) socket.pause()
  const begun = performance.now()
  // 20 MB for each.
  for (let n = 0; n < 200; n++) world.topic.push('x'.repeat(100_000))
  await until(() => world.topic.readers === 5, 10_000)
  expect(performance.now() - begun).toBeLessThan(2 * 1_500 + 2_000)
  world.topic.end()
  for (const other of others) {
    await other.message(({ type }) => type === 'complete')
    expect(other.messages.filter(({ type }) => type === 'next')).toHaveLength(200)
  }
  // What the network's own buffers take of 200 each, and no more.
  expect(world.topic.pulled).toBeLessThan(5 * 200 + 50 * 120)
  for (const { socket } of [...stalled, ...others]) socket.terminate()
})

test('has no subscription left after 10,000 that were ended at once, soon, or with the first result', async () => {
  await using world = await startWorld()
  world.topic.push('one')
  const socket = await new RawSocket(world.server).ready()
  for (let n = 0; n < 10_000; n++) {
    const id = String(n)
    socket.subscribe(id, n % 2 === 0 ? TICKS : 'subscription { unshared { text } }')
    if (n % 3 === 1) await turn()
    if (n % 100 === 99) await socket.message((message) => message['id'] === id)
    socket.send({ id, type: 'complete' })
  }
  socket.subscribe('last', '{ hello }')
  await socket.message(({ id, type }) => id === 'last' && type === 'complete')
  await until(() => world.topic.readers === 0)
  expect(socket.messages.filter(({ type }) => type === 'error')).toEqual([])
  expect(world.log.filter(({ level }) => level === 'error')).toEqual([])
  socket.socket.terminate()
})

test('lets go of a subscription that was ended before its source was open', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  for (const id of ['a', 'b']) socket.subscribe(id, 'subscription { late { text } }')
  await world.slowAsked
  socket.send({ id: 'a', type: 'complete' })
  socket.subscribe('c', '{ hello }')
  await socket.message(({ id, type }) => id === 'c' && type === 'complete')
  world.topic.push('one')
  world.release()
  await socket.message(({ id, type }) => id === 'b' && type === 'next')
  await until(() => world.topic.readers === 1)
  expect(socket.messages.some(({ id }) => id === 'a')).toBe(false)
  socket.socket.terminate()
  await until(() => world.topic.readers === 0)
})

test('serves others while one client asks 10,000 things at once', async () => {
  await using world = await startWorld()
  const [greedy, modest] = [
    await new RawSocket(world.server).ready(),
    await new RawSocket(world.server).ready(),
  ]
  for (let n = 0; n < 10_000; n++) greedy.subscribe(String(n), '{ hello }')
  modest.subscribe('a', '{ hello }')
  await modest.message(({ type }) => type === 'complete')
  await greedy.message(({ id, type }) => id === '9999' && (type === 'complete' || type === 'error'))
  greedy.socket.terminate()
  modest.socket.terminate()
})
