import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildSchema, isInterfaceType, isObjectType } from 'graphql'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, script } from '../e2e/scripts.ts'
import { TestService } from '../e2e/service.ts'
import { RawSocket } from '../server/harness.ts'
import { isAtLeast, type Question, questionsOf, type Role, ROLES } from './routes.ts'
import { ThreePaths, type Heard } from './three-paths.ts'

const schema = buildSchema(
  readFileSync(join(import.meta.dirname, '../../src/graphql/schema.graphql'), 'utf8'),
)

/** What needs more than to be let in at all, as it is meant. */
const NEEDS: Readonly<Record<string, Role>> = {
  'Query.dryRun': 'SUBMIT',
  'Query.workers': 'OPERATE',
  'Query.worker': 'OPERATE',
  'Query.apiKeys': 'ADMIN',
  'Query.auditLog': 'ADMIN',
  'Query.auditVerification': 'ADMIN',
  'Mutation.submitTask': 'SUBMIT',
  'Mutation.submitTasks': 'SUBMIT',
  'Mutation.cancelTask': 'SUBMIT',
  'Mutation.cancelTasks': 'SUBMIT',
  'Mutation.retryTask': 'SUBMIT',
  'Mutation.deleteTask': 'SUBMIT',
  'Mutation.createBrowserToken': 'SUBMIT',
  'Mutation.startSession': 'OPERATE',
  'Mutation.endSession': 'OPERATE',
  'Mutation.drainGpu': 'OPERATE',
  'Mutation.enableGpu': 'OPERATE',
  'Mutation.simulateGpu': 'OPERATE',
  'Mutation.reloadPresets': 'OPERATE',
  'Mutation.createApiKey': 'ADMIN',
  'Mutation.revokeApiKey': 'ADMIN',
  'Mutation.setApiKeyLimits': 'ADMIN',
  'Subscription.workerUpdated': 'OPERATE',
  'Gpu.workers': 'OPERATE',
  'Gpu.processes': 'OPERATE',
}

test('no field needs a role without being meant to', () => {
  const fields = Object.values(schema.getTypeMap()).flatMap((type) =>
    isObjectType(type) || isInterfaceType(type)
      ? Object.values(type.getFields())
          .filter(({ astNode }) => astNode?.directives?.some(({ name }) => name.value === 'needs') === true)
          .map(({ name }) => `${type.name}.${name}`)
      : [],
  )
  expect(fields.sort()).toEqual(Object.keys(NEEDS).sort())
})

test('there is a question about every field of every type', () => {
  const asked = questionsOf(schema, NEEDS, {}).flatMap(({ about }) => about.split(', '))
  const all = Object.values(schema.getTypeMap()).flatMap((type) =>
    (isObjectType(type) || isInterfaceType(type)) && !type.name.startsWith('__')
      ? Object.keys(type.getFields()).map((name) => `${type.name}.${name}`)
      : [],
  )
  expect(asked.sort()).toEqual(all.sort())
  expect(all.length).toBeGreaterThan(350)
})

/** In all that belongs to one account, and nowhere else. */
const CANARY = 'canary4711'

/** Questions that are asked at a time. */
const AT_ONCE = 8
/** With one token, three requests each: it may ask for 200 at once. */
const WITH_ONE_TOKEN = 48

/** Who asks, with what is expected of him: his role, and whether the account's task is his to see. */
interface Asker {
  /** The same key each time, or another token like the one before. */
  readonly key: () => Promise<string>
  readonly role: Role
  readonly sees: boolean
}

describe('a service that asks for keys', () => {
  let service: TestService
  let first: ThreePaths
  const askers = new Map<string, Asker>()
  const nobodies = new Map<string, string | null>([
    ['none', null],
    ['a wrong one', `gpu_${'0'.repeat(12)}_${'1'.repeat(64)}_00000000`],
    [
      'a token that nobody signed',
      `gpt_${Buffer.from('[1,"x",null,"acme","admin",null,null,9e15]').toString('base64url')}.${'A'.repeat(43)}`,
    ],
    ['no text of a key', 'Bearer Bearer admin'],
  ])
  let running: string
  let ended: string

  async function ask<T>(by: ThreePaths, query: string, variables: object = {}): Promise<T> {
    const { text } = await by.overHttp({ query, variables })
    const { data, errors } = JSON.parse(text) as { readonly data?: T; readonly errors?: unknown }
    if (errors !== undefined || data === undefined) throw new Error(text)
    return data
  }

  async function make(input: object): Promise<{ readonly id: string; readonly text: string }> {
    const { createApiKey } = await ask<{ createApiKey: { key: { id: string }; text: string } }>(
      first,
      'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { key { id } text } }',
      { input: { name: 'k', ...input } },
    )
    return { id: createApiKey.key.id, text: createApiKey.text }
  }

  async function submit(key: string, kind: string, more: object = {}): Promise<string> {
    const { submitTask } = await ask<{ submitTask: { task: { id: string } } }>(
      new ThreePaths(service.url, key),
      'mutation ($input: SubmitTaskInput!) { submitTask(input: $input) { ... on SubmitTaskSuccess { task { id } } } }',
      { input: { presetId: `test/${kind}`, ...more } },
    )
    return submitTask.task.id
  }

  async function token(key: string, input: string): Promise<string> {
    const { createBrowserToken } = await ask<{ createBrowserToken: { token: string } }>(
      new ThreePaths(service.url, key),
      `mutation { createBrowserToken(input: ${input}) { ... on CreateBrowserTokenSuccess { token } } }`,
    )
    return createBrowserToken.token
  }

  const reached = (id: string, status: string): Promise<void> =>
    vi.waitFor(
      async () => {
        expect(await ask(first, `{ task(id: "${id}") { status } }`)).toEqual({ task: { status } })
      },
      { timeout: 20_000, interval: 50 },
    )

  beforeAll(async () => {
    // It says what it was given, so that nothing else holds the word.
    const told = [
      'w=${TASK_INPUT#*:\\"}; w=${w%%\\"*}',
      CONNECTED,
      'echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$w\\"}"',
      'echo "$w" >&2',
      'echo "$w" > "$OUTPUT_DIR/$w.txt"',
      'echo "{\\"event\\":\\"artifact\\",\\"path\\":\\"$w.txt\\"}"',
    ].join('; ')
    service = await TestService.start({
      runner: 'process',
      env: { AUTH: 'required', GPUS: 'simulated:1x1024', SHUTDOWN: 'stop' },
      presets: {
        ending: script(`${told}; ${FINISHED}`),
        running: script(`${told}; sleep 600`, { gpus: { count: 1 } }),
        waiting: script(FINISHED, { gpus: { count: 1 } }),
      },
    })
    const firstKey = /kept nowhere:\n\s+(gpu_\w+)/.exec(service.output)?.[1] ?? ''
    first = new ThreePaths(service.url, firstKey)
    for (const role of ROLES) {
      const { text } = await make({ role, owner: 'acme' })
      askers.set(role, { key: () => Promise.resolve(text), role, sees: true })
    }
    const acme = (await askers.get('SUBMIT')?.key()) ?? ''
    const canary = {
      labels: { label: CANARY },
      input: { prompt: CANARY },
      affinity: CANARY,
      idempotencyKey: CANARY,
    }
    ended = await submit(acme, 'ending', canary)
    running = await submit(acme, 'running', { ...canary, idempotencyKey: `${CANARY}2` })
    await reached(ended, 'COMPLETED')
    // It holds the only GPU, and what is submitted after it waits.
    await reached(running, 'RUNNING')
    // Each has a task of his own that has not ended, so that there is something to tell whoever watches tasks.
    const own = await submit(acme, 'waiting')
    const expired = await make({ role: 'ADMIN', expiresAt: new Date(Date.now() + 2_000).toISOString() })
    for (const [name, role, input] of [
      ['another account', 'SUBMIT', { owner: 'other' }],
      ['an account of nearly that name', 'SUBMIT', { owner: 'acme2' }],
      ['the account, for another preset', 'SUBMIT', { owner: 'acme', presets: ['test/waiting'] }],
    ] as const) {
      const { text } = await make({ role, ...input })
      await submit(text, 'waiting')
      askers.set(name, { key: () => Promise.resolve(text), role, sees: false })
    }
    const ann = (): Promise<string> =>
      token(acme, '{ presetId: "test/waiting", subject: "ann", role: SUBMIT }')
    await submit(await ann(), 'waiting')
    askers.set('a token for a preset', { key: ann, role: 'SUBMIT', sees: false })
    askers.set('a token for another task', {
      key: () => token(acme, `{ taskId: "${own}" }`),
      role: 'READ',
      sees: false,
    })
    const leaving = await make({ role: 'ADMIN' })
    const ofLeaving = await token(leaving.text, '{ presetId: "test/waiting" }')
    await ask(first, `mutation { revokeApiKey(id: "${leaving.id}") { __typename } }`)
    nobodies.set('a revoked one', leaving.text)
    nobodies.set('a token of a revoked one', ofLeaving)
    nobodies.set('an expired one', expired.text)
    await vi.waitFor(async () => {
      const { status } = await new ThreePaths(service.url, expired.text).overHttp({ query: '{ __typename }' })
      expect(status).toBe(401)
    }, 5_000)
  })
  afterAll(() => service[Symbol.asyncDispose]())

  const askerOf = (name: string): Asker => {
    const asker = askers.get(name)
    if (asker === undefined) throw new Error(`There is no ${name}.`)
    return asker
  }
  const STRANGERS = [
    'another account',
    'an account of nearly that name',
    'the account, for another preset',
    'a token for a preset',
    'a token for another task',
  ]

  interface Answer extends Heard {
    readonly question: Question
    readonly path: string
  }

  /** The answers to all questions on every path, some at a time. */
  async function answersTo(questions: readonly Question[], key: Asker['key']): Promise<readonly Answer[]> {
    const answers: Answer[] = []
    for (let at = 0; at < questions.length; at += WITH_ONE_TOKEN)
      answers.push(...(await answersOf(questions.slice(at, at + WITH_ONE_TOKEN), await key())))
    expect(answers.filter(({ text }) => text.includes('RATE_LIMITED'))).toEqual([])
    return answers
  }

  async function answersOf(questions: readonly Question[], key: string): Promise<readonly Answer[]> {
    await using by = new ThreePaths(service.url, key)
    const answers: Answer[] = []
    for (let at = 0; at < questions.length; at += AT_ONCE) {
      const some = questions.slice(at, at + AT_ONCE).flatMap((question) => {
        const { query } = question
        const isSubscription = query.startsWith('subscription')
        return [
          ...(isSubscription
            ? []
            : [by.overHttp({ query }).then((heard) => ({ ...heard, question, path: 'HTTP' }))]),
          by.overStream({ query }).then((heard) => ({ ...heard, question, path: 'stream' })),
          by.overSocket({ query }).then((heard) => ({ ...heard, question, path: 'WebSocket' })),
        ]
      })
      answers.push(...(await Promise.all(some)))
    }
    return answers
  }

  /** The answers that are not as the role has it. */
  function wrongOf(answers: readonly Answer[], role: Role): readonly string[] {
    return answers.flatMap(({ question, path, codes, hasData, text }) => {
      const isExpected = isAtLeast(role, question.role)
        ? !/FORBIDDEN|VALIDATION|TOO_|UNAUTHENTICATED|INTERNAL/.test(codes.join())
        : codes.join() === 'FORBIDDEN' && !hasData
      return isExpected ? [] : [`${question.about} over ${path}: ${text.slice(0, 300)}`]
    })
  }

  test.each(ROLES)(
    '%s may ask for what its role allows, on every path, and for nothing else',
    async (name) => {
      const { key, role } = askerOf(name)
      // Of mutations something that is not there, so that all stays as it is.
      const values = { 'Query.task': `"${running}"`, taskId: `"${running}"` }
      expect(wrongOf(await answersTo(questionsOf(schema, NEEDS, values), key), role)).toEqual([])
    },
  )

  test.each(STRANGERS)('%s learns nothing of the account’s task, whatever it asks', async (name) => {
    const { key, role } = askerOf(name)
    const values = { id: `"${running}"`, taskId: `"${running}"`, presetId: '"test/running"' }
    const answers = await answersTo(questionsOf(schema, NEEDS, values), key)
    const leaks = answers.filter(({ text }) => text.includes(CANARY))
    expect(leaks.map(({ path, text }) => `${path}: ${text.slice(0, 500)}`)).toEqual([])
    // What a token is refused because it is one is not its role's.
    if (!name.includes('token')) expect(wrongOf(answers, role)).toEqual([])
  })

  test('a token for a task shows no presets', async () => {
    const by = new ThreePaths(service.url, await askerOf('a token for another task').key())
    expect(await ask(by, '{ presets { id } preset(id: "test/waiting") { id } }')).toEqual({
      presets: [],
      preset: null,
    })
  })

  async function get(
    path: string,
    key: string | null,
  ): Promise<{ readonly status: number; readonly text: string }> {
    const headers: Record<string, string> = key === null ? {} : { authorization: `Bearer ${key}` }
    const response = await fetch(new URL(path, service.url), { headers })
    return { status: response.status, text: await response.text() }
  }
  const downloads = async (): Promise<readonly string[]> => {
    const { task } = await ask<{ task: { artifacts: { url: string }[] } }>(
      first,
      `{ task(id: "${ended}") { artifacts { url } } }`,
    )
    return [task.artifacts[0]?.url ?? '', `/export/events?task=${ended}`, `/export/tasks/${ended}/bundle`]
  }

  test.each([...ROLES, ...STRANGERS])(
    '%s gets the files and exports of what it may see, and of nothing else',
    async (name) => {
      const { role, sees, ...asker } = askerOf(name)
      const key = await asker.key()
      for (const path of await downloads()) {
        const { status, text } = await get(path, key)
        expect({ path, status, has: text.includes(CANARY) }).toEqual({
          path,
          status: sees ? 200 : 404,
          has: sees,
        })
      }
      const tasks = await get('/export/tasks', key)
      expect({ status: tasks.status, has: tasks.text.includes(CANARY) }).toEqual({ status: 200, has: sees })
      expect((await get('/export/audit', key)).status).toBe(role === 'ADMIN' ? 200 : 403)
    },
  )

  test('who has a token for the task itself sees it and its files', async () => {
    const key = await token(await askerOf('SUBMIT').key(), `{ taskId: "${ended}" }`)
    const [artifact = ''] = await downloads()
    expect(await get(artifact, key)).toMatchObject({ status: 200 })
    expect((await get('/export/tasks', key)).text.trim().split('\n')).toHaveLength(1)
  })

  test.each([...nobodies.keys(), 'a revoked one', 'a token of a revoked one', 'an expired one'])(
    'who shows %s gets nothing on any path',
    async (name) => {
      const key = nobodies.get(name) ?? null
      const by = new ThreePaths(service.url, key)
      const paths = ['/export/tasks', '/export/audit', '/nowhere', ...(await downloads())]
      const questions = questionsOf(schema, NEEDS, {})
      const heard = [
        ...(await Promise.all(questions.map(({ query }) => by.overHttp({ query })))),
        ...(await Promise.all(questions.map(({ query }) => by.overStream({ query })))),
        ...(await Promise.all(paths.map((path) => get(path, key)))),
      ]
      for (const { status, text } of heard) {
        expect(text).toContain('UNAUTHENTICATED')
        expect(text).not.toContain('"data"')
        expect([401, 429]).toContain(status)
      }
      const socket = new RawSocket(service, undefined, key === null ? {} : { authorization: `Bearer ${key}` })
      await socket.opened()
      socket.send({ type: 'connection_init', payload: key === null ? {} : { authorization: key } })
      expect((await socket.closed).code).toBe(4403)
      expect(socket.messages).toEqual([])
      expect((await get('/healthz', key)).status).toBe(200)
    },
  )

  test('the audit log tells of all that was refused, and no flood of it makes it long', async () => {
    const log = async (filter: object): Promise<readonly string[]> => {
      const { auditLog } = await ask<{
        auditLog: { edges: { node: { action: string; actor: { kind: string } } }[] }
      }>(
        first,
        'query ($filter: AuditFilter) { auditLog(first: 200, filter: $filter) { edges { node { action actor { kind } } } } }',
        { filter },
      )
      return auditLog.edges.map(({ node }) => `${node.actor.kind} ${node.action}`)
    }
    const forbidden = await log({ result: 'FORBIDDEN' })
    for (const each of ['key task.cancel', 'key gpu.drain', 'key key.create', 'token task.submit'])
      expect(forbidden).toContain(each)
    const unknown = await log({ result: 'UNAUTHENTICATED' })
    expect(new Set(unknown)).toEqual(new Set(['unknown key.use']))
    // Of some thousand.
    expect(unknown.length).toBeLessThan(20)
  })
})
