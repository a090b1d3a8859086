import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startWorld, type World } from '../server/harness.ts'
import { RawConnection } from './raw-connection.ts'

const HOST = 'Host: localhost\r\n'
const JSON_TYPE = 'Content-Type: application/json\r\n'
const BODY = '{"query":"{ hello }"}'
/** A request that comes behind another one. It is answered by 200, which none of the others is. */
const NEXT = `GET /healthz HTTP/1.1\r\n${HOST}\r\n`

const post = (headers: string, body = BODY): string =>
  `POST /graphql HTTP/1.1\r\n${HOST}${JSON_TYPE}${headers}\r\n\r\n${body}`
const get = (target: string, headers = ''): string => `GET ${target} HTTP/1.1\r\n${HOST}${headers}\r\n`

const statusesOf = (text: string): string[] =>
  [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => status ?? '')

describe('a server, to bytes that are hardly a request,', () => {
  let world: World & AsyncDisposable
  beforeAll(async () => {
    world = await startWorld()
  })
  afterAll(() => world[Symbol.asyncDispose]())

  // What two who read the same bytes may take apart differently, so that a request hides in another one.
  test.each([
    [
      'two lengths of the body, one by chunks',
      post('Content-Length: 6\r\nTransfer-Encoding: chunked', '0\r\n\r\n'),
    ],
    ['the same the other way round', post('Transfer-Encoding: chunked\r\nContent-Length: 6', '0\r\n\r\n')],
    ['two lengths', post('Content-Length: 21\r\nContent-Length: 5')],
    ['the same length twice', post('Content-Length: 21\r\nContent-Length: 21')],
    ['a list of lengths', post('Content-Length: 21, 21')],
    ['a length below zero', post('Content-Length: -1')],
    ['a length with a sign', post('Content-Length: +21')],
    ['a length in hex', post('Content-Length: 0x15')],
    ['a length of 20 digits', post('Content-Length: 99999999999999999999')],
    ['an unknown coding', post('Transfer-Encoding: xchunked', '0\r\n\r\n')],
    ['a coding behind chunks', post('Transfer-Encoding: chunked, identity', '0\r\n\r\n')],
    ['a space before a colon', post('Transfer-Encoding : chunked', '0\r\n\r\n')],
    ['a coding behind a vertical tab', post('Transfer-Encoding: \vchunked', '0\r\n\r\n')],
    ['chunks with bare line feeds', post('Transfer-Encoding: chunked', `15\n${BODY}\n0\n\n`)],
    [
      'a chunk of more bytes than can be counted',
      post('Transfer-Encoding: chunked', `fffffffffffffffff\r\n${BODY}`),
    ],
    ['a chunk of less than nothing', post('Transfer-Encoding: chunked', `-1\r\n${BODY}\r\n0\r\n\r\n`)],
    [
      'a chunk with an endless extension',
      post('Transfer-Encoding: chunked', `15;${'x'.repeat(20_000)}\r\n${BODY}`),
    ],
    ['a header that is folded', post('X: a\r\n b\r\nContent-Length: 21')],
    ['a coding that is folded', post('Transfer-Encoding:\r\n chunked\r\nContent-Length: 21')],
    ['bare line feeds', post('Content-Length: 21').replaceAll('\r\n', '\n')],
    ['a bare line feed in a header', get('/healthz', 'X: a\nGET /healthz HTTP/1.1\r\n')],
    ['a bare carriage return', get('/healthz', 'X: a\rY: b\r\n')],
    ['a zero byte', get('/healthz', 'X: a\0b\r\n')],
    ['a name with a space', get('/healthz', 'X Y: a\r\n')],
    ['a header without a name', get('/healthz', ': a\r\n')],
    ['a header without a colon', get('/healthz', 'Xab\r\n')],
    ['a target that is no ASCII', get('/artifacts/\xff\xfe')],
    ['no host', 'GET /healthz HTTP/1.1\r\n\r\n'],
    ['an unknown method', get('/healthz').replace('GET', 'GRAB')],
    ['a method in small letters', get('/healthz').replace('GET', 'get')],
    ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['a version to come', get('/healthz').replace('1.1', '9.9')],
    ['the hello of TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
  ])('with %s answers 400 and hangs up, so that nothing behind it is a request', async (_what, bytes) => {
    using connection = new RawConnection(world.server)
    connection.say(bytes + NEXT)
    await connection.closed
    expect(statusesOf(connection.received)).toEqual(['400'])
  })

  test.each([
    ['a second host', '403', get('/healthz', 'Host: evil.example\r\n')],
    ['a foreign host first', '403', get('/healthz', HOST).replace('localhost', 'evil.example')],
    ['a foreign host in the target', '403', get('http://evil.example/healthz')],
    [
      'a foreign host behind an at sign',
      '403',
      get('/healthz').replace('localhost', 'localhost@evil.example'),
    ],
    ['two hosts in a list', '403', get('/healthz').replace('localhost', 'localhost, evil.example')],
    ['its own host in the target', '200', get('http://localhost:4000/healthz')],
    ['a path with a broken escape', '400', get('/artifacts/%zz')],
    ['a path whose escapes are no UTF-8', '400', get('/artifacts/%c0%ae%c0%ae')],
    ['a path of 5,000 bytes', '414', get(`/artifacts/${'x'.repeat(5_000)}`)],
    ['a body of a terabyte', '413', post('Content-Length: 1000000000000')],
    [
      'an endless body in chunks',
      '413',
      post('Transfer-Encoding: chunked', `100000\r\n${'x'.repeat(0x100000)}`),
    ],
    ['an expectation that nobody meets', '417', post('Expect: the-moon\r\nContent-Length: 21')],
    [
      'a coding of the body that it does not know',
      '415',
      post('Content-Type: /\r\nContent-Length: 21').replace(JSON_TYPE, ''),
    ],
    ['a head that names everything', '404', get('OPTIONS').replace('GET OPTIONS', 'OPTIONS *')],
    ['a method that shows what came', '404', get('/graphql').replace('GET', 'TRACE')],
  ])('with %s answers by %s', async (_what, status, bytes) => {
    using connection = new RawConnection(world.server)
    connection.say(bytes)
    const received = await connection.until((text) => text.includes('\r\n\r\n'))
    expect(statusesOf(received)).toEqual([status])
  })

  test('hangs up on who takes it for a proxy', async () => {
    using connection = new RawConnection(world.server)
    connection.say('CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await connection.closed
    expect(connection.received).toBe('')
  })

  const KEY = 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n'
  const upgrade = (more: string, to = 'websocket'): string =>
    get('/graphql', `Connection: Upgrade\r\nUpgrade: ${to}\r\n${more}`)
  test.each([
    ['to another protocol', '400', upgrade('', 'h2c')],
    ['without a key', '400', upgrade('Sec-WebSocket-Version: 13\r\n')],
    ['of an old version', '400', upgrade(`Sec-WebSocket-Version: 7\r\n${KEY}`)],
    [
      'with a broken list of subprotocols',
      '400',
      upgrade(`Sec-WebSocket-Version: 13\r\n${KEY}Sec-WebSocket-Protocol: a,,b\r\n`),
    ],
    [
      'by a POST',
      '405',
      upgrade(`Sec-WebSocket-Version: 13\r\n${KEY}Content-Length: 0\r\n`).replace('GET', 'POST'),
    ],
    ['of a foreign host', '403', upgrade(`Sec-WebSocket-Version: 13\r\n${KEY}Host: evil.example\r\n`)],
  ])('refuses an upgrade %s by %s and hangs up', async (_what, status, bytes) => {
    using connection = new RawConnection(world.server)
    connection.say(bytes + NEXT)
    await connection.closed
    expect(statusesOf(connection.received)).toEqual([status])
  })

  test('keeps its manners with what it has no route for', async () => {
    using connection = new RawConnection(world.server)
    connection.say(get('/artifacts/%zz', 'Connection: close\r\n'))
    await connection.closed
    expect(connection.received).toContain('"code":"BAD_REQUEST"')
    expect(connection.received).not.toContain('%zz')
  })

  test('answers a thousand requests that came at once, in their order', async () => {
    using connection = new RawConnection(world.server)
    connection.say(`${NEXT}${get('/nowhere')}`.repeat(500))
    const received = await connection.until((text) => statusesOf(text).length === 1_000)
    expect(
      new Set(
        statusesOf(received)
          .join(' ')
          .match(/\d+ \d+/g),
      ),
    ).toEqual(new Set(['200 404']))
  })

  test.each([
    ['nothing', ''],
    ['no object', '[]'],
    ['a text', '"{ hello }"'],
    ['half a million brackets', '['.repeat(250_000) + ']'.repeat(250_000)],
    ['a query that is a list', '{"query":["{ hello }"]}'],
    ['variables that are a text', '{"query":"{ hello }","variables":"{}"}'],
    ['an operation by a number', '{"query":"{ hello }","operationName":7}'],
    ['a number beyond all', '{"query":"query ($n: Int!) { plus(n: $n) }","variables":{"n":1e999}}'],
    ['bytes that are no UTF-8', '{"query":"{ hello\xff\xfe }"}'],
    ['a mark of UTF-16', '\xff\xfe{\0}\0'],
    ['extensions that are none', '{"query":"{ hello }","extensions":7}'],
    ['a query by its hash', '{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"x"}}}'],
  ])('refuses a body with %s', async (_what, body) => {
    using connection = new RawConnection(world.server)
    connection.say(post(`Content-Length: ${body.length}\r\nConnection: close`, body))
    await connection.closed
    const [status] = statusesOf(connection.received)
    // What does not fit its type is an answer, by the specification.
    expect(['400', '200']).toContain(status)
    expect(connection.received).toMatch(/"code":"(BAD_REQUEST|BAD_USER_INPUT|GRAPHQL_PARSE_FAILED)"/)
    expect(connection.received).not.toMatch(/\n\s+at |node_modules/)
  })

  test('has logged nothing as its own fault', () => {
    expect(world.log.filter(({ level }) => level === 'error' || level === 'warn')).toEqual([])
  })
})

describe('a client that takes its time', () => {
  test.each([
    ['to connect and say nothing', ''],
    ['over its first line', 'GET /hea'],
    ['over its head', `GET /healthz HTTP/1.1\r\n${HOST}X`],
    ['over its body', post('Content-Length: 1000', '{')],
    ['over its chunks', post('Transfer-Encoding: chunked', '1\r\n{\r\n')],
  ])('%s is cut off, however many there are, and the others are served', async (_what, beginning) => {
    await using world = await startWorld({ limits: { headMs: 300, bodyMs: 600 } })
    const slow = Array.from({ length: 50 }, () => new RawConnection(world.server))
    for (const connection of slow) connection.say(beginning)
    const drips = setInterval(() => {
      for (const { socket } of slow)
        if (beginning !== '' && socket.writable)
          socket.write(beginning.includes('chunked') ? '1\r\nx\r\n' : 'x')
    }, 50)
    const { status } = await fetch(new URL('/healthz', world.server.url))
    expect(status).toBe(200)
    await Promise.all(slow.map(({ closed }) => closed))
    clearInterval(drips)
    for (const { received } of slow) expect(['', '408']).toContain(statusesOf(received)[0] ?? '')
  })
})
