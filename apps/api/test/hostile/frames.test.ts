import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RawSocket, startWorld, until, type World } from '../server/harness.ts'
import { RawConnection } from './raw-connection.ts'

const HANDSHAKE = [
  'GET /graphql HTTP/1.1',
  'Host: localhost',
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==',
  'Sec-WebSocket-Protocol: graphql-transport-ws',
  '\r\n',
].join('\r\n')

const [CONTINUATION, TEXT, BINARY, CLOSE, PING] = [0, 1, 2, 8, 9] as const
const FIN = 0x80

interface Shape {
  /** With the bits before it; unless given, a whole text. */
  readonly first?: number
  /** Unless given, that of the payload. */
  readonly length?: bigint
  readonly isMasked?: boolean
}

/** One frame of a client, right or wrong. The mask is of zeros, which is one like any other. */
function frame(payload: string, { first = FIN | TEXT, length, isMasked = true }: Shape = {}): Buffer {
  const bytes = Buffer.from(payload, 'latin1')
  const long = length ?? (bytes.length > 0xffff ? BigInt(bytes.length) : null)
  const size =
    long !== null
      ? [127, ...Buffer.from(long.toString(16).padStart(16, '0'), 'hex')]
      : bytes.length < 126
        ? [bytes.length]
        : [126, bytes.length >> 8, bytes.length & 0xff]
  const [kind = 0, ...rest] = size
  const head = [first, kind | (isMasked ? 0x80 : 0), ...rest, ...(isMasked ? [0, 0, 0, 0] : [])]
  return Buffer.concat([Buffer.from(head), bytes])
}

/** The code of the server's last frame. */
function closeCodeOf(received: string): number | null {
  // FIN and CLOSE, then a length that never needs more than its byte.
  const match = /\x88[\x02-\x7d]([^]{2})[^]{0,123}$/.exec(received)
  return match === null ? null : Buffer.from(match[1] ?? '', 'latin1').readUInt16BE()
}

async function opened(world: World): Promise<RawConnection> {
  const connection = new RawConnection(world.server)
  connection.say(HANDSHAKE)
  await connection.until((text) => text.includes('\r\n\r\n'))
  expect(connection.received).toMatch(/^HTTP\/1\.1 101 /)
  return connection
}

const INIT = '{"type":"connection_init"}'
const ACKNOWLEDGED = '{"type":"connection_ack"}'

describe('a WebSocket', () => {
  let world: World & AsyncDisposable
  beforeAll(async () => {
    world = await startWorld({ limits: { maxMessageBytes: 10_000 } })
  })
  afterAll(() => world[Symbol.asyncDispose]())

  const bits = (first: number): Shape => ({ first })
  test.each<[what: string, code: number, frames: readonly Buffer[]]>([
    ['a frame without a mask', 1002, [frame(INIT, { isMasked: false })]],
    ['a bit that is reserved', 1002, [frame(INIT, bits(FIN | 0x40 | TEXT))]],
    ['all bits that are reserved', 1002, [frame(INIT, bits(FIN | 0x70 | TEXT))]],
    ['an opcode of data that is none', 1002, [frame(INIT, bits(FIN | 3))]],
    ['an opcode of control that is none', 1002, [frame('', bits(FIN | 11))]],
    ['a ping in parts', 1002, [frame('x', bits(PING))]],
    ['a ping of 126 bytes', 1002, [frame('x'.repeat(126), bits(FIN | PING))]],
    ['a part of nothing', 1002, [frame('x', bits(FIN | CONTINUATION))]],
    ['a message within another one', 1002, [frame('{', bits(TEXT)), frame(INIT)]],
    ['a length beyond all', 1009, [frame('', { length: 2n ** 63n - 1n })]],
    ['a length with its first bit set', 1009, [frame('', { length: 2n ** 64n - 1n })]],
    ['a message over the limit, by its length alone', 1009, [frame('', { length: 10_001n })]],
    [
      'parts that are too much together',
      1009,
      [frame('x'.repeat(6_000), bits(TEXT)), frame('x'.repeat(6_000), bits(0))],
    ],
    [
      'empty parts without an end',
      1008,
      [frame('', bits(TEXT)), ...Array<Buffer>(20_000).fill(frame('', bits(0)))],
    ],
    ['a text that is no UTF-8', 1007, [frame('{"type":"\xff"}')]],
    ['half of a pair as UTF-8', 1007, [frame('{"type":"\xed\xa0\x80"}')]],
    ['a text whose last character is cut off', 1007, [frame('\xf0\x9f\x9a')]],
    ['a binary message', 4400, [frame(INIT, bits(FIN | BINARY))]],
    ['a close of one byte', 1002, [frame('\x03', bits(FIN | CLOSE))]],
    ['a close with a code that nobody may say', 1002, [frame('\x03\xed', bits(FIN | CLOSE))]],
    ['a close whose reason is no UTF-8', 1007, [frame('\x03\xe8\xff', bits(FIN | CLOSE))]],
    ['a close, by the same', 1000, [frame('\x03\xe8', bits(FIN | CLOSE))]],
  ])('on %s is closed by %i', async (_what, code, frames) => {
    using connection = await opened(world)
    connection.say(Buffer.concat(frames))
    // Nobody here answers the close, and the server does not wait for it for long.
    await connection.closed
    expect(closeCodeOf(connection.received)).toBe(code)
  })

  test('takes a message in parts of one byte, with pings between them', async () => {
    using connection = await opened(world)
    const parts = Array.from(INIT, (char, at) => frame(char, bits(at === 0 ? TEXT : CONTINUATION)))
    connection.say(Buffer.concat(parts.flatMap((part) => [part, frame('?', bits(FIN | PING))])))
    connection.say(frame('', bits(FIN | CONTINUATION)))
    await connection.until((text) => text.includes(ACKNOWLEDGED))
    expect(connection.received.split('\x8a\x01?')).toHaveLength(INIT.length + 1)
  })

  test.each([
    ['an empty text', ''],
    ['a list', `[${INIT}]`],
    ['a number', '7'],
    ['null', 'null'],
    ['a type that is a word of JavaScript', '{"type":"__proto__"}'],
    ['a type that is a method', '{"type":"constructor"}'],
    ['a type that is none', '{"type":{"toString":1}}'],
    ['two thousand brackets', '['.repeat(2_000) + ']'.repeat(2_000)],
    ['an introduction that is none', '{"type":"connection_init","payload":"x"}'],
    ['an operation without an id', '{"type":"subscribe","payload":{"query":"{ hello }"}}'],
    ['an operation with a number as its id', '{"type":"subscribe","id":7,"payload":{"query":"{ hello }"}}'],
    ['an operation with an empty id', '{"type":"subscribe","id":"","payload":{"query":"{ hello }"}}'],
    [
      'variables that are none',
      '{"type":"subscribe","id":"a","payload":{"query":"{ hello }","variables":"x"}}',
    ],
    ['a result, which only servers send', '{"type":"next","id":"a","payload":{}}'],
    ['an error, which only servers send', '{"type":"error","id":"a","payload":[{"message":"x"}]}'],
    ['an acknowledgement, which only servers send', ACKNOWLEDGED],
    ['an end without an id', '{"type":"complete"}'],
    ['a ping with a text', '{"type":"ping","payload":"x"}'],
  ])('is closed on %s', async (_what, message) => {
    const socket = await new RawSocket(world.server).opened()
    socket.send(message)
    // An operation may not come before the introduction either, whatever it looks like.
    expect([4400, 4401]).toContain((await socket.closed).code)
  })

  test.each(['__proto__', 'constructor', 'toString', '\0', '\ud800', 'x'.repeat(9_000)])(
    'takes the id %j for one like any other',
    async (id) => {
      const socket = await new RawSocket(world.server).ready()
      socket.send({ type: 'complete', id })
      socket.subscribe(id, 'subscription { ticks { n } }')
      await until(() => world.topic.readers === 1)
      socket.send({ type: 'complete', id })
      await until(() => world.topic.readers === 0)
      socket.subscribe(id, '{ hello }')
      const { payload } = await socket.message(({ type }) => type === 'next')
      expect(payload).toEqual({ data: { hello: 'world' } })
      await socket.message(({ type }) => type === 'complete')
      socket.socket.terminate()
      expect(Object.keys({})).toEqual([])
    },
  )

  test('answers pings of the protocol with their payload, before and after the introduction', async () => {
    const socket = await new RawSocket(world.server).opened()
    socket.send({ type: 'ping', payload: { at: 1 } })
    expect(await socket.message(({ type }) => type === 'pong')).toEqual({ type: 'pong', payload: { at: 1 } })
    socket.send({ type: 'connection_init' })
    socket.send({ type: 'pong' })
    await socket.message(({ type }) => type === 'connection_ack')
    socket.socket.terminate()
  })

  test.each([
    ['pings', frame('x'.repeat(125), bits(FIN | PING))],
    ['pings of the protocol', frame(`{"type":"ping","payload":{"x":"${'x'.repeat(5_000)}"}}`)],
  ])('that sends %s and reads no answer is not answered without a bound', async (_what, ping) => {
    using connection = await opened(world)
    connection.say(frame(INIT))
    await connection.until((text) => text.includes(ACKNOWLEDGED))
    connection.socket.pause()
    const flood = Buffer.concat(Array<Buffer>(Math.ceil(200_000 / ping.length)).fill(ping))
    // 100 MB of them: what neither side's network takes stays with who sends it, or the connection ends.
    const isHeldBack = (): boolean =>
      connection.socket.destroyed || connection.socket.writableLength >= 2_000_000
    const before = process.memoryUsage().rss
    for (let sent = 0; sent < 500 && !isHeldBack(); sent++) {
      connection.say(flood)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(isHeldBack()).toBe(true)
    expect(process.memoryUsage().rss - before).toBeLessThan(60_000_000)
  })

  test('has made nobody else wait, and nothing is logged as the server’s own fault', async () => {
    const socket = await new RawSocket(world.server).ready()
    socket.subscribe('a', '{ hello }')
    await socket.message(({ type }) => type === 'complete')
    socket.socket.terminate()
    expect(world.log.filter(({ level }) => level === 'error' || level === 'warn')).toEqual([])
  })
})

describe('an operation that is still being opened', () => {
  const LATE = 'subscription { late { n } }'

  test('has its id already', async () => {
    await using world = await startWorld()
    const socket = await new RawSocket(world.server).ready()
    socket.subscribe('a', LATE)
    await world.slowAsked
    socket.subscribe('a', '{ hello }')
    expect((await socket.closed).code).toBe(4409)
  })

  test('says nothing more when it is ended before, and lets go of what it opens', async () => {
    await using world = await startWorld()
    const socket = await new RawSocket(world.server).ready()
    socket.subscribe('a', LATE)
    await world.slowAsked
    socket.send({ type: 'complete', id: 'a' })
    socket.send({ type: 'ping' })
    await socket.message(({ type }) => type === 'pong')
    world.topic.push('one')
    world.release()
    socket.subscribe('b', '{ hello }')
    await socket.message(({ id, type }) => id === 'b' && type === 'complete')
    await until(() => world.topic.readers === 0)
    expect(socket.messages.filter(({ id }) => id === 'a')).toEqual([])
    socket.socket.terminate()
  })

  test('ends with the server', async () => {
    const world = await startWorld()
    const socket = await new RawSocket(world.server).ready()
    socket.subscribe('a', LATE)
    await world.slowAsked
    const stopped = world.server[Symbol.asyncDispose]()
    expect((await socket.closed).code).toBe(1001)
    await stopped
    world.release()
    await until(() => world.topic.readers === 0)
  })
})

test('two introductions at once are one too many', async () => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).opened()
  socket.send(INIT)
  socket.send(INIT)
  expect((await socket.closed).code).toBe(4429)
})
