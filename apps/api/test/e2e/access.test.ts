import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createClient, type Client } from 'graphql-ws'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import WebSocket from 'ws'
import { CONNECTED, FINISHED, script } from './scripts.ts'
import { TestService } from './service.ts'

const root = join(import.meta.dirname, '../../../..')
const ROLES = ['READ', 'SUBMIT', 'OPERATE', 'ADMIN'] as const
interface Refusal {
  readonly extensions?: { readonly code?: unknown }
}

function codeOf({ extensions }: Refusal): string {
  return String(extensions?.code)
}

interface Answer {
  readonly status: number
  readonly data?: Readonly<Record<string, never>> | null
  readonly errors?: readonly { readonly message: string; readonly extensions: { readonly code: string } }[]
}

describe('a service that asks for keys', () => {
  let service: TestService
  const keys = new Map<string, string>()
  const clients: Client[] = []
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      env: { AUTH: 'required', GPUS: 'simulated:1x1024' },
      presets: {
        short: script(
          `${CONNECTED}; echo '{"event":"text_delta","delta":"hello"}'; echo bytes > "$OUTPUT_DIR/a.txt"; echo '{"event":"artifact","path":"a.txt"}'; ${FINISHED}`,
        ),
        other: script(`${CONNECTED}; ${FINISHED}`),
        endless: script(
          `${CONNECTED}; while :; do echo '{"event":"text_delta","delta":"x"}'; sleep 0.05; done`,
          { gpus: { count: 0 } },
        ),
      },
    })
    keys.set('first', /shown this once and kept nowhere:\n\s+(gpu_\w+)/.exec(service.output)?.[1] ?? '')
    for (const role of ROLES) await make(role, { role, owner: 'acme' })
    await make('stranger', { role: 'SUBMIT', owner: 'other' })
    await make('narrow', { role: 'SUBMIT', owner: 'acme', presets: ['test/other'] })
  })
  afterAll(async () => {
    for (const client of clients) await client.dispose()
    await service[Symbol.asyncDispose]()
  })

  const key = (name: string): string => keys.get(name) ?? ''

  async function make(name: string, input: object): Promise<string> {
    const { createApiKey } = await data<{ createApiKey: { key: { id: string }; text: string } }>(
      'first',
      'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { key { id } text } }',
      { input: { name, ...input } },
    )
    keys.set(name, createApiKey.text)
    return createApiKey.key.id
  }

  async function post(who: string | null, query: string, variables: object = {}, path = ''): Promise<Answer> {
    const response = await fetch(service.url + path, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(who !== null && { authorization: `Bearer ${keys.get(who) ?? who}` }),
      },
      body: JSON.stringify({ query, variables }),
    })
    return { ...((await response.json()) as Omit<Answer, 'status'>), status: response.status }
  }

  async function data<T>(who: string, query: string, variables: object = {}): Promise<T> {
    const { data: given, errors } = await post(who, query, variables)
    if (given == null) throw new Error(JSON.stringify(errors))
    return given as T
  }

  function socket(who: string, onClosed?: (code: number) => void): Client {
    const client = createClient({
      url: service.url.replace('http:', 'ws:'),
      webSocketImpl: WebSocket,
      retryAttempts: 0,
      connectionParams: { authorization: `Bearer ${keys.get(who) ?? who}` },
      on: { closed: (event) => onClosed?.((event as { code: number }).code) },
    })
    clients.push(client)
    return client
  }

  /** The codes of the first answer over a socket. */
  async function codesOver(client: Client, query: string): Promise<readonly string[]> {
    const results = client.iterate({ query })
    try {
      const first = await Promise.race([
        results.next(),
        // A subscription to what is not there says nothing.
        new Promise<null>((resolve) => setTimeout(resolve, 300, null)),
      ])
      const answer = first?.value as { readonly errors?: readonly Refusal[] } | undefined
      return (answer?.errors ?? []).map(codeOf)
    } catch (error) {
      return (error as readonly Refusal[]).map(codeOf)
    } finally {
      void results.return?.()
    }
  }

  const submit = async (who: string, kind: string): Promise<string> => {
    const { submitTask } = await data<{ submitTask: { task?: { id: string }; message?: string } }>(
      who,
      'mutation ($id: ID!) { submitTask(input: { presetId: $id }) { ... on SubmitTaskSuccess { task { id } } ... on Problem { message } } }',
      { id: `test/${kind}` },
    )
    if (submitTask.task === undefined) throw new Error(submitTask.message)
    return submitTask.task.id
  }
  const ended = async (id: string): Promise<void> => {
    await expect
      .poll(
        async () =>
          (await data<{ task: { status: string } }>('ADMIN', `{ task(id: "${id}") { status } }`)).task.status,
        {
          timeout: 20_000,
        },
      )
      .toBe('COMPLETED')
  }

  test('serves nobody without one, and says nothing but that', async () => {
    expect(await post(null, '{ service { version } }')).toMatchObject({
      status: 401,
      errors: [{ extensions: { code: 'UNAUTHENTICATED' } }],
    })
    expect(await post('gpu_wrong', '{ service { version } }')).toMatchObject({ status: 401 })
    const stream = await fetch(`${service.url}/stream?query={service{version}}`, {
      headers: { accept: 'text/event-stream' },
    })
    expect(stream.status).toBe(401)
    const base = service.url.replace('/graphql', '')
    expect((await fetch(`${base}/artifacts/x`)).status).toBe(401)
    expect((await fetch(`${base}/healthz`)).status).toBe(200)
    const ready = (await (await fetch(`${base}/readyz`)).json()) as { checks: Record<string, object> }
    expect(Object.values(ready.checks).every((check) => !('detail' in check))).toBe(true)
    const closed = await new Promise<number>((resolve) => {
      socket('wrong', resolve).subscribe(
        { query: '{ service { version } }' },
        { next: () => undefined, error: () => undefined, complete: () => undefined },
      )
    })
    expect(closed).toBe(4403)
  })

  test('has a first key of the role admin, shown once', async () => {
    expect(await data('first', '{ viewer { kind role owner } }')).toEqual({
      viewer: { kind: 'key', role: 'ADMIN', owner: 'local' },
    })
    await service.down()
    await service.up()
    expect(service.output).not.toContain('gpu_')
  })

  test('shows a task to its account and to who runs the service; to others it is not there, whatever they ask', async () => {
    const id = await submit('SUBMIT', 'short')
    await ended(id)
    const unknown = '01900000-0000-7000-8000-000000000000'
    const asked = (task: string) => [
      `{ task(id: "${task}") { id } }`,
      `mutation { cancelTask(id: "${task}") { __typename ... on Problem { message } } }`,
      `mutation { retryTask(id: "${task}") { __typename ... on Problem { message } } }`,
      `mutation { deleteTask(id: "${task}") { __typename ... on Problem { message } } }`,
      `mutation { createBrowserToken(input: { taskId: "${task}" }) { __typename ... on Problem { message } } }`,
    ]
    for (const [index, query] of asked(id).entries()) {
      const said = JSON.stringify(await post('stranger', query)).replaceAll(id, 'ID')
      const ofNone = JSON.stringify(await post('stranger', asked(unknown)[index] ?? '')).replaceAll(
        unknown,
        'ID',
      )
      expect(said).toBe(ofNone)
    }
    const events = (task: string): string => `subscription { taskEvents(taskId: "${task}") { lastSeq } }`
    expect(await codesOver(socket('stranger'), events(id))).toEqual(['NOT_FOUND'])
    expect(await codesOver(socket('SUBMIT'), events(id))).toEqual([])
    const listed = async (who: string) =>
      (
        await data<{ tasks: { totalCount: number; edges: { node: { id: string } }[] } }>(
          who,
          '{ tasks { totalCount edges { node { id } } } }',
        )
      ).tasks
    expect((await listed('stranger')).totalCount).toBe(0)
    for (const who of ['READ', 'SUBMIT', 'OPERATE', 'ADMIN', 'first'])
      expect({ who, sees: (await listed(who)).edges.some(({ node }) => node.id === id) }).toEqual({
        who,
        sees: true,
      })
    expect((await listed('narrow')).edges).toEqual([])

    const { task } = await data<{ task: { artifacts: { url: string }[] } }>(
      'READ',
      `{ task(id: "${id}") { artifacts { url } } }`,
    )
    const file = new URL(task.artifacts[0]?.url ?? '', service.url)
    const got = async (who: string) =>
      (await fetch(file, { headers: { authorization: `Bearer ${key(who)}` } })).status
    expect({ own: await got('READ'), other: await got('stranger') }).toEqual({ own: 200, other: 404 })

    const exported = async (who: string, path: string) => {
      const headers = { authorization: `Bearer ${key(who)}` }
      const response = await fetch(new URL(`/export/${path}`, service.url), { headers })
      return { status: response.status, has: (await response.text()).includes(id) }
    }
    expect(await exported('READ', 'tasks?format=ndjson')).toEqual({ status: 200, has: true })
    expect(await exported('stranger', 'tasks?format=ndjson')).toEqual({ status: 200, has: false })
    for (const path of [`events?task=${id}&format=ndjson`, `tasks/${id}/bundle`]) {
      expect(await exported('READ', path)).toEqual({ status: 200, has: true })
      expect((await exported('stranger', path)).status).toBe(404)
    }
    expect((await exported('OPERATE', 'audit?format=ndjson')).status).toBe(403)
    expect(await exported('ADMIN', 'audit?format=ndjson')).toEqual({ status: 200, has: true })
  })

  test('knows no other preset for a key that is for some only', async () => {
    expect(await data('narrow', '{ presets { id } preset(id: "test/short") { id } }')).toEqual({
      presets: [{ id: 'test/other' }],
      preset: null,
    })
    await expect(submit('narrow', 'short')).rejects.toThrow('There is no preset "test/short".')
    await ended(await submit('narrow', 'other'))
  })

  test('ends what is open with a key within five seconds of its revocation, on every path', async () => {
    const id = await make('leaving', { role: 'SUBMIT', owner: 'acme' })
    const task = await submit('leaving', 'endless')
    const query = `subscription { taskEvents(taskId: "${task}") { lastSeq } }`
    const closed = new Promise<number>((resolve) => {
      const client = socket('leaving', resolve)
      client.subscribe(
        { query },
        { next: () => undefined, error: () => undefined, complete: () => undefined },
      )
    })
    const stream = await fetch(`${service.url}/stream`, {
      method: 'POST',
      headers: {
        accept: 'text/event-stream',
        'content-type': 'application/json',
        authorization: `Bearer ${key('leaving')}`,
      },
      body: JSON.stringify({ query }),
    })
    const read = stream.text()
    await data('ADMIN', `mutation { revokeApiKey(id: "${id}") { __typename } }`)
    const at = performance.now()
    expect(await closed).toBe(4403)
    expect(await read).toMatch(/UNAUTHENTICATED.*event: complete/s)
    expect(performance.now() - at).toBeLessThan(5_000)
    expect(await post('leaving', '{ viewer { role } }')).toMatchObject({ status: 401 })
    await data('ADMIN', `mutation { cancelTask(id: "${task}") { __typename } }`)
  })

  test('lets a page with a token follow its task or use its preset, and nothing else', async () => {
    const token = async (input: string): Promise<string> => {
      const { createBrowserToken } = await data<{ createBrowserToken: { token: string } }>(
        'SUBMIT',
        `mutation { createBrowserToken(input: ${input}) { ... on CreateBrowserTokenSuccess { token } ... on Problem { message } } }`,
      )
      return createBrowserToken.token
    }
    const own = await submit('SUBMIT', 'other')
    const foreign = await submit('SUBMIT', 'other')
    const page = await token(`{ taskId: "${own}" }`)
    expect(
      await data(
        page,
        `{ own: task(id: "${own}") { id } foreign: task(id: "${foreign}") { id } tasks { totalCount } }`,
      ),
    ).toEqual({
      ...{ own: { id: own }, foreign: null, tasks: { totalCount: 1 } },
    })
    expect(
      await codesOver(socket(page), `subscription { taskEvents(taskId: "${foreign}") { lastSeq } }`),
    ).toEqual(['NOT_FOUND'])
    expect(await codesOver(socket(page), `mutation { cancelTask(id: "${own}") { __typename } }`)).toEqual([
      'FORBIDDEN',
    ])

    const [ann, bob] = [
      await token('{ presetId: "test/other", subject: "ann", role: SUBMIT }'),
      await token('{ presetId: "test/other", subject: "bob", role: SUBMIT }'),
    ]
    const anns = await submit(ann, 'other')
    const sees = async (who: string) =>
      (await data<{ task: object | null }>(who, `{ task(id: "${anns}") { owner } }`)).task
    expect([await sees(ann), await sees(bob), await sees('READ')]).toEqual([
      { owner: 'acme/ann' },
      null,
      { owner: 'acme/ann' },
    ])
    expect(await sees(await token('{ presetId: "test/other", subject: "ann" }'))).toEqual({
      owner: 'acme/ann',
    })
    await expect(submit(ann, 'short')).rejects.toThrow('There is no preset')
    expect(
      (await post(ann, 'mutation { createBrowserToken(input: { presetId: "test/other" }) { __typename } }'))
        .errors,
    ).toMatchObject([{ extensions: { code: 'FORBIDDEN' } }])
  })

  const command = (...args: readonly string[]) =>
    promisify(execFile)(process.execPath, [join(root, 'apps/api/dist/main.js'), 'keys', ...args], {
      env: { PATH: process.env['PATH'], DATA_DIR: service.dataDir },
    })

  test('gives and takes keys at a terminal on its machine, whether it runs or not', async () => {
    const running = (
      await command('create', '--name', 'ops', '--role', 'operate', '--expires', '90d')
    ).stdout.trim()
    expect(await data(running, '{ viewer { name role } }')).toEqual({
      viewer: { name: 'ops', role: 'OPERATE' },
    })
    await service.down()
    const stopped = (
      await command('create', '--name', 'night', '--role', 'read', '--presets', 'test/other')
    ).stdout.trim()
    const lines = (await command('list')).stdout.trim().split('\n')
    const line = lines.find((each) => each.includes('"ops"')) ?? ''
    expect(line).toMatch(/operate .* expires .* last used/)
    await command('revoke', line.split(' ')[0] ?? '')
    await service.up()
    expect(await post(running, '{ viewer { role } }')).toMatchObject({ status: 401 })
    expect(await data(stopped, '{ viewer { role presets } }')).toEqual({
      viewer: { role: 'READ', presets: ['test/other'] },
    })
    await expect(command('revoke', 'nobody')).rejects.toMatchObject({ code: 1 })
    await expect(command('create', '--name', 'x', '--role', 'boss')).rejects.toMatchObject({ code: 64 })
  })
})
