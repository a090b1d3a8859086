import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createClient, type Client } from 'graphql-ws'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import WebSocket from 'ws'
import { CONNECTED, FINISHED, script } from './scripts.ts'
import { TestService } from './service.ts'

const root = join(import.meta.dirname, '../../../..')
const ENDLESS = `${CONNECTED}; while :; do sleep 0.05; done`
const SUBMIT = `mutation ($id: ID!) { submitTask(input: { presetId: $id }) {
  ... on SubmitTaskSuccess { task { id keyId } }
  ... on RefusedProblem { code message retryAfterSeconds } } }`

interface Submitted {
  readonly task?: { readonly id: string; readonly keyId: string }
  readonly code?: string
  readonly message?: string
  readonly retryAfterSeconds?: number | null
}

interface Answer {
  readonly data?: unknown
  readonly errors?: readonly { readonly message: string; readonly extensions: object }[]
}

interface Key {
  readonly id: string
  readonly text: string
}

describe('an API key', () => {
  let service: TestService
  const clients: Client[] = []
  beforeAll(async () => {
    const one = { gpus: { count: 1 } }
    service = await TestService.start({
      runner: 'process',
      env: { GPUS: 'simulated:2x1024' },
      presets: {
        short: script(`${CONNECTED}; ${FINISHED}`),
        endless: script(ENDLESS),
        computing: script(`${CONNECTED}; sleep 0.3; ${FINISHED}`, one),
      },
    })
  })
  afterAll(async () => {
    for (const client of clients) await client.dispose()
    await service[Symbol.asyncDispose]()
  })

  async function post(who: string | null, query: string, variables: object = {}) {
    const authorization = who === null ? {} : { authorization: `Bearer ${who}` }
    const headers = { 'content-type': 'application/json', ...authorization }
    const body = JSON.stringify({ query, variables })
    const response = await fetch(service.url, { method: 'POST', headers, body })
    return { status: response.status, headers: response.headers, answer: (await response.json()) as Answer }
  }

  /** As the local admin, unless told otherwise. */
  async function data<T>(query: string, variables: object = {}, who: string | null = null): Promise<T> {
    const { answer } = await post(who, query, variables)
    if (answer.data == null) throw new Error(JSON.stringify(answer.errors))
    return answer.data as T
  }

  async function make(limits: object): Promise<Key> {
    const { createApiKey } = await data<{ createApiKey: { key: { id: string }; text: string } }>(
      'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { key { id } text } }',
      { input: { name: 'limited', role: 'SUBMIT', owner: 'acme', limits } },
    )
    return { id: createApiKey.key.id, text: createApiKey.text }
  }

  const submit = async (who: string, kind: string): Promise<Submitted> =>
    (await data<{ submitTask: Submitted }>(SUBMIT, { id: `test/${kind}` }, who)).submitTask

  const cancel = (id: string | undefined) => data(`mutation { cancelTask(id: "${id}") { __typename } }`)

  const explanationOf = async (id: string | undefined): Promise<string | null> =>
    (await data<{ task: { explanation: string | null } }>(`{ task(id: "${id}") { explanation } }`)).task
      .explanation

  const ended = (id: string | undefined): Promise<void> =>
    expect
      .poll(() => data(`{ task(id: "${id}") { status } }`), { timeout: 20_000 })
      .toEqual({ task: { status: 'COMPLETED' } })

  const useOf = async (id: string): Promise<Record<string, number>> => {
    const { apiKeys } = await data<{ apiKeys: { id: string; use: Record<string, number> }[] }>(
      '{ apiKeys { id use { queuedTasks runningTasks gpuSeconds sockets subscriptions } } }',
    )
    return apiKeys.find((each) => each.id === id)?.use ?? {}
  }

  function socket(who: string, closed?: (event: { code: number; reason: string }) => void): Client {
    const client = createClient({
      url: service.url.replace('http:', 'ws:'),
      webSocketImpl: WebSocket,
      retryAttempts: 0,
      lazy: false,
      onNonLazyError: () => undefined,
      connectionParams: { authorization: `Bearer ${who}` },
      on: { closed: (event) => closed?.(event as { code: number; reason: string }) },
    })
    clients.push(client)
    return client
  }

  /** What its first result is, or why there is none. */
  async function first(client: Client, query: string): Promise<unknown> {
    try {
      return (await client.iterate({ query }).next()).value
    } catch (error) {
      return error
    }
  }

  test('may ask for so much in a minute; who asks for more is told when to come back, on every path', async () => {
    const { text } = await make({ requestsPerMinute: 6 })
    const client = socket(text)
    expect(await first(client, '{ viewer { role } }')).toMatchObject({ data: { viewer: { role: 'SUBMIT' } } })
    expect(await data('{ viewer { role } }', {}, text)).toEqual({ viewer: { role: 'SUBMIT' } })
    const refusal = { code: 'RATE_LIMITED', limit: 'requestsPerMinute', retryAfterSeconds: 10 }
    const { status, headers, answer } = await post(text, '{ viewer { role } }')
    expect({ status, retryAfter: headers.get('retry-after') }).toEqual({ status: 429, retryAfter: '10' })
    expect(answer.errors).toMatchObject([{ extensions: refusal }])
    expect(await first(client, '{ viewer { role } }')).toMatchObject([{ extensions: refusal }])
  })

  test('may submit so much in a minute, and has a refused submission in the audit log', async () => {
    const { text, id } = await make({ submitsPerMinute: 3 })
    expect((await submit(text, 'short')).task?.keyId).toBe(id)
    expect(await submit(text, 'short')).toEqual({
      code: 'RATE_LIMITED',
      message: `API key ${id} may not submit so many tasks in so short a time (submitsPerMinute is 3).`,
      retryAfterSeconds: 20,
    })
    const { auditLog } = await data<{ auditLog: { edges: { node: object }[] } }>(
      '{ auditLog(filter: { action: "task.submit", result: "RATE_LIMITED" }) { edges { node { actor { id } result } } } }',
    )
    expect(auditLog.edges.map(({ node }) => node)).toEqual([{ actor: { id }, result: 'RATE_LIMITED' }])
  })

  test('may have so many tasks running, and so many more in the queue, and says so', async () => {
    const { text, id } = await make({ runningTasks: 1, queuedTasks: 2 })
    const running = await submit(text, 'endless')
    await expect.poll(() => useOf(id)).toMatchObject({ runningTasks: 1 })
    const waiting = [await submit(text, 'endless'), await submit(text, 'endless')]
    expect(await submit(text, 'endless')).toEqual({
      code: 'KEY_QUEUE_FULL',
      message: `API key ${id} may have 2 tasks in the queue. It has 2, and 1 are asked for. Try again when some have started.`,
      retryAfterSeconds: null,
    })
    await expect
      .poll(() => explanationOf(waiting[0]?.task?.id))
      .toContain(`API key ${id} may have 1 task running at a time, and has.`)
    // Others are not held up by it.
    const { text: other } = await make({})
    await ended((await submit(other, 'short')).task?.id)
    await cancel(running.task?.id)
    await expect.poll(() => useOf(id)).toMatchObject({ runningTasks: 1, queuedTasks: 1 })
    for (const { task } of waiting.reverse()) await cancel(task?.id)
    await expect.poll(() => useOf(id)).toMatchObject({ runningTasks: 0, queuedTasks: 0 })
  })

  test('may use so much GPU time in a day, also over a restart and whatever is deleted', async () => {
    const { text, id } = await make({})
    const { task } = await submit(text, 'computing')
    await ended(task?.id)
    await data(`mutation { deleteTask(id: "${task?.id}") { __typename } }`)
    const { gpuSeconds } = await useOf(id)
    expect(gpuSeconds).toBeGreaterThan(0.3)
    await service.down()
    await service.up()
    expect((await useOf(id))['gpuSeconds']).toBe(gpuSeconds)
    await data(`mutation { setApiKeyLimits(id: "${id}", limits: { gpuSecondsPerDay: 0 }) { __typename } }`)
    const refused = await submit(text, 'computing')
    expect(refused).toMatchObject({ code: 'GPU_TIME_SPENT' })
    expect(refused.message).toMatch(
      /has used its 0 GPU-seconds of the day; it gets more at \d{4}-.*T00:00:00/,
    )
    expect(refused.retryAfterSeconds).toBeGreaterThan(0)
    expect(refused.retryAfterSeconds).toBeLessThanOrEqual(86_400)
    // What needs no GPU is done.
    await ended((await submit(text, 'short')).task?.id)
  })

  test('may have so many sockets open; one more is told to come back later', async () => {
    const { text, id } = await make({ sockets: 1 })
    const client = socket(text)
    await first(client, '{ viewer { role } }')
    const closed = new Promise<{ code: number; reason: string }>((resolve) => socket(text, resolve))
    expect(await closed).toMatchObject({
      code: 1013,
      reason: `API key ${id} has 1 sockets open, and may have 1.`,
    })
    await client.dispose()
    await expect.poll(() => useOf(id)).toMatchObject({ sockets: 0 })
    expect(await first(socket(text), '{ viewer { role } }')).toMatchObject({ data: {} })
  })

  test('may have so many subscriptions open, over sockets and event streams together', async () => {
    const { text, id } = await make({ subscriptions: 1 })
    const { task } = await submit(text, 'endless')
    const query = `subscription { taskEvents(taskId: "${task?.id}") { lastSeq } }`
    const client = socket(text)
    const open = client.iterate({ query })
    await open.next()
    const refusal = { extensions: { code: 'RATE_LIMITED', limit: 'subscriptions', retryAfterSeconds: 5 } }
    expect(await first(client, query)).toMatchObject([refusal])
    const headers = {
      ...{ accept: 'text/event-stream', 'content-type': 'application/json' },
      authorization: `Bearer ${text}`,
    }
    const stream = await fetch(`${service.url}/stream`, {
      method: 'POST',
      headers,
      body: JSON.stringify({ query }),
    })
    expect(await stream.text()).toContain('"limit":"subscriptions"')
    await open.return?.()
    await expect.poll(() => useOf(id)).toMatchObject({ subscriptions: 0 })
    const again = new AbortController()
    await fetch(`${service.url}/stream`, {
      method: 'POST',
      headers,
      body: JSON.stringify({ query }),
      signal: again.signal,
    })
    await expect.poll(() => useOf(id)).toMatchObject({ subscriptions: 1 })
    again.abort()
    await expect.poll(() => useOf(id)).toMatchObject({ subscriptions: 0 })
    await cancel(task?.id)
  })

  test('counts what is done with the tokens made with it', async () => {
    const { text, id } = await make({ submitsPerMinute: 3 })
    const { createBrowserToken } = await data<{ createBrowserToken: { token: string } }>(
      'mutation { createBrowserToken(input: { presetId: "test/short", role: SUBMIT }) { ... on CreateBrowserTokenSuccess { token } } }',
      {},
      text,
    )
    expect((await submit(createBrowserToken.token, 'short')).task?.keyId).toBe(id)
    expect(await submit(text, 'short')).toMatchObject({ code: 'RATE_LIMITED' })
  })

  test('is given other limits from the command line, and refuses what is none', async () => {
    const { id } = await make({})
    const run = (...args: string[]) =>
      promisify(execFile)(process.execPath, [join(root, 'apps/api/dist/main.js'), 'keys', ...args], {
        env: { PATH: process.env['PATH'], DATA_DIR: service.dataDir },
      })
    await run('limit', id, 'queuedTasks=3,sockets=none')
    const { apiKeys } = await data<{ apiKeys: { id: string; limits: object }[] }>(
      '{ apiKeys { id limits { queuedTasks sockets requestsPerMinute } } }',
    )
    expect(apiKeys.find((each) => each.id === id)?.limits).toEqual({
      ...{ queuedTasks: 3, sockets: null, requestsPerMinute: 6_000 },
    })
    await expect(run('limit', id, 'speed=3')).rejects.toMatchObject({
      code: 64,
      stderr: expect.stringContaining('speed=3 is not a limit') as string,
    })
    await expect(run('limit', 'nothing', 'sockets=3')).rejects.toMatchObject({ code: 1 })
  })
})
