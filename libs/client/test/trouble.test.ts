import WebSocket from 'ws'
import { expect, test } from 'vitest'
import { createGpuClient, GpuClientError } from '../src/index.ts'
import { eventsOf } from './reading.ts'
import { type Call, startScriptedService } from './scripted-service.ts'
import { connect } from './service.ts'

const seqsOf = async (batches: Parameters<typeof eventsOf>[0]): Promise<number[]> =>
  (await eventsOf(batches)).map(({ seq }) => seq)

/** Gives the events up to 9 and the last one, 10, from where it is asked to. */
function rest({ variables, events, final, complete }: Call): void {
  const after = Number(variables['after'])
  events(Array.from({ length: 9 - after }, (_, index) => after + 1 + index))
  final(10)
  complete()
}

const ONE_TO_TEN = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]

test('drops what it has had', async () => {
  await using service = await startScriptedService({
    subscribe({ n, events, close, ...call }) {
      if (n > 1) {
        // As a service would that has not understood the cursor.
        rest({ n, events, close, ...call, variables: { after: 0 } })
        return
      }
      events([1, 2, 3])
      events([2, 3, 4])
      close(1001)
    },
  })
  await using client = connect(service.url)
  expect(await seqsOf(client.followTask('task'))).toEqual(ONE_TO_TEN)
})

test.each([
  [
    'within a batch',
    ({ events }: Call) => {
      events([1, 2, 4])
    },
  ],
  [
    'between batches',
    ({ events }: Call) => {
      events([1, 2])
      events([4, 5])
    },
  ],
  [
    'before the first',
    ({ events }: Call) => {
      events([2, 3])
    },
  ],
  [
    'before the end',
    ({ events, complete }: Call) => {
      events([1, 2])
      complete()
    },
  ],
])('never gives what follows a hole %s, and reads it again', async (_place, lose) => {
  await using service = await startScriptedService({
    subscribe: (call) => {
      if (call.n === 1) lose(call)
      else rest(call)
    },
    // It has not ended.
    request: () => [200, { data: { task: { status: 'RUNNING', events: { events: [], lastSeq: 3 } } } }],
  })
  await using client = connect(service.url)
  const troubles: string[] = []
  const following = client.followTask('task', { onRetry: ({ code }) => troubles.push(code) })
  expect(await seqsOf(following)).toEqual(ONE_TO_TEN)
  expect(troubles).toEqual(['HOLE'])
})

test('starts one subscription anew that breaks in the service, and leaves the others on the connection alone', async () => {
  const others: Call[] = []
  await using service = await startScriptedService({
    subscribe: (call) => {
      if (call.variables['taskId'] === 'other') others.push(call)
      else if (others.length === 1 && call.n < 4) call.error('INTERNAL_SERVER_ERROR')
      else rest(call)
    },
  })
  await using client = connect(service.url)
  const other = seqsOf(client.followTask('other'))
  await expect.poll(() => others.length).toBe(1)
  expect(await seqsOf(client.followTask('task'))).toEqual(ONE_TO_TEN)
  for (const call of others) rest(call)
  expect(await other).toEqual(ONE_TO_TEN)
  expect(others).toHaveLength(1)
  expect(service.introductions).toHaveLength(1)
})

test.each([
  [4400, 'REJECTED'],
  [4401, 'UNAUTHENTICATED'],
  [4403, 'FORBIDDEN'],
  [4406, 'REJECTED'],
])('gives up at once where the connection is closed with %d', async (code, expected) => {
  await using service = await startScriptedService({
    subscribe: ({ close }) => {
      close(code)
    },
  })
  await using client = connect(service.url)
  const failed = seqsOf(client.followTask('task'))
  await expect(failed).rejects.toBeInstanceOf(GpuClientError)
  await expect(failed).rejects.toMatchObject({ code: expected, isPassing: false })
  expect(service.calls).toHaveLength(1)
})

test.each(['NOT_FOUND', 'BAD_CURSOR', 'BAD_USER_INPUT', 'FORBIDDEN', 'GRAPHQL_VALIDATION_FAILED'])(
  'gives up at once where the service refuses with %s, in either way that it can',
  async (code) => {
    await using service = await startScriptedService({
      subscribe: ({ n, error, result, complete }) => {
        if (n === 1) error(code)
        else {
          result({ errors: [{ message: 'no', extensions: { code } }] })
          complete()
        }
      },
    })
    await using client = connect(service.url)
    await expect(seqsOf(client.followTask('task'))).rejects.toMatchObject({ code })
    await expect(seqsOf(client.followTask('task'))).rejects.toMatchObject({ code })
    expect(service.calls).toHaveLength(2)
  },
)

test.each([1001, 1012, 1013, 4429])(
  'comes back later where it is closed with %d, and later each time',
  async (code) => {
    await using service = await startScriptedService({
      subscribe: (call) => {
        if (call.n < 5) call.close(code)
        else rest(call)
      },
    })
    await using client = connect(service.url, { timing: { retryBaseMs: 20, retryMaxMs: 10_000 } })
    expect(await seqsOf(client.followTask('task'))).toEqual(ONE_TO_TEN)
    const waits = service.calls.slice(1).map((at, index) => at - (service.calls[index] ?? 0))
    // At least a quarter of 80, 80, 80 and 160: the first steps are skipped.
    ;[20, 20, 20, 40].forEach((least, index) => {
      expect(waits[index]).toBeGreaterThanOrEqual(least - 2)
    })
  },
)

test('gives up where it is refused by HTTP, which a refused WebSocket does not tell', async () => {
  await using service = await startScriptedService({
    refuseSockets: 403,
    request: () => [403, { errors: [{ message: 'Not from there.', extensions: { code: 'FORBIDDEN' } }] }],
  })
  await using client = connect(service.url)
  await expect(seqsOf(client.followTask('task'))).rejects.toMatchObject({
    code: 'FORBIDDEN',
    message: 'Not from there.',
  })
})

test('gives up a peer that answers the door and then says nothing', async () => {
  const troubles: string[] = []
  await using service = await startScriptedService({ request: () => [200, { data: {} }] })
  const stop = new AbortController()
  class Mute extends WebSocket {
    constructor() {
      super(service.url.replace('http', 'ws').replace('/graphql', '/mute'), 'graphql-transport-ws')
    }
    override send(): void {
      // Nothing gets through.
    }
  }
  await using client = connect(service.url, { webSocket: Mute, timing: { connectMs: 100 } })
  const following = client.followTask('task', {
    signal: stop.signal,
    onRetry: ({ code }) => {
      troubles.push(code)
      if (troubles.length === 2) stop.abort()
    },
  })
  await expect(seqsOf(following)).rejects.toThrow('aborted')
  expect(troubles).toEqual(['UNREACHABLE', 'UNREACHABLE'])
})

test('says who it is with each request and each connection, anew', async () => {
  await using service = await startScriptedService({
    subscribe: (call) => {
      if (call.n === 1) call.close(1001)
      else rest(call)
    },
    request: () => [200, { data: { service: {} } }],
  })
  let asked = 0
  await using client = connect(service.url, { headers: () => ({ authorization: `Bearer ${++asked}` }) })
  await client.service()
  await seqsOf(client.followTask('task'))
  expect(service.requests[0]?.headers.authorization).toBe('Bearer 1')
  expect(service.introductions).toEqual([{ authorization: 'Bearer 2' }, { authorization: 'Bearer 3' }])
})

test('comes back to a service that has refused it for a limit, and not before it may', async () => {
  const soon = { limit: 'subscriptions', retryAfterSeconds: 0.4 }
  await using service = await startScriptedService({
    subscribe: (call) => {
      if (call.n === 1) call.error('RATE_LIMITED', soon)
      else rest(call)
    },
    request: (n) => {
      if (n > 1) return [200, { data: { service: { version: '1' } } }]
      return [429, { errors: [{ message: 'no', extensions: { code: 'RATE_LIMITED', ...soon } }] }]
    },
  })
  await using client = connect(service.url)
  expect(await seqsOf(client.followTask('task'))).toEqual(ONE_TO_TEN)
  const [first = 0, second = 0] = service.calls
  expect(second - first).toBeGreaterThanOrEqual(400)
  const before = performance.now()
  expect(await client.service()).toEqual({ version: '1' })
  expect(performance.now() - before).toBeGreaterThanOrEqual(400)
})

test('tries a query and a submission again where no answer comes, with the same key, and no other mutation', async () => {
  await using service = await startScriptedService({
    request: (n) => {
      if (n % 3 === 1) return null
      if (n % 3 === 2) return [503, 'later']
      return [200, { data: { service: { version: '1' }, submitTask: { __typename: 'SubmitTaskSuccess' } } }]
    },
  })
  await using client = connect(service.url)
  expect(await client.service()).toEqual({ version: '1' })
  await client.submitTask({ presetId: 'a/b' })
  const keys = service.requests.slice(3).map(({ body }) => JSON.stringify(body))
  expect(keys).toHaveLength(3)
  expect(new Set(keys).size).toBe(1)
  expect(keys[0]).toMatch(/"idempotencyKey":"[0-9a-f]{32}"/)
  const once = client.mutate({ kind: 'mutation', name: 'X', text: 'mutation X { x }' }, {})
  await expect(once).rejects.toMatchObject({ code: 'UNREACHABLE' })
  expect(service.requests).toHaveLength(7)
})

test.each([
  [401, 'no', 'UNAUTHENTICATED'],
  [403, 'no', 'FORBIDDEN'],
  [404, 'no', 'BAD_RESPONSE'],
  [200, 'no GraphQL', 'BAD_RESPONSE'],
  [400, { errors: [{ message: 'no', extensions: { code: 'BAD_USER_INPUT' } }] }, 'BAD_USER_INPUT'],
])('does not ask again where the answer is %d %j', async (status, body, code) => {
  await using service = await startScriptedService({ request: () => [status, body] })
  await using client = connect(service.url)
  await expect(client.service()).rejects.toMatchObject({ code, isPassing: false })
  expect(service.requests).toHaveLength(1)
})

test('says what is missing on a platform without WebSockets', () => {
  if ('WebSocket' in globalThis) return
  expect(() => createGpuClient({ url: 'http://127.0.0.1:1/graphql' })).toThrow("package 'ws'")
})
