import { setTimeout as delay } from 'node:timers/promises'
import {
  GraphQLInt,
  GraphQLList,
  GraphQLNonNull,
  GraphQLObjectType,
  GraphQLSchema,
  GraphQLString,
} from 'graphql'
import { type Client, createClient } from 'graphql-ws'
import { expect } from 'vitest'
import WebSocket from 'ws'
import { LOCAL, type Logger } from '@gpu-service/tasks'
import type { Authenticator } from '../../src/access/authenticator.ts'
import { UNMETERED } from '../../src/access/meters.ts'
import { refusal } from '../../src/graphql/errors.ts'
import type { ContextRequest } from '../../src/graphql/operations.ts'
import type { Artifacts } from '../../src/http/artifacts.ts'
import type { ExportOptions } from '../../src/http/exports.ts'
import { scalars } from '../../src/graphql/scalars.ts'
import { type Server, type ServerLimits, type ServerOptions, startServer } from '../../src/server.ts'
import type { UploadIntake } from '../../src/uploads.ts'

export interface Tick {
  readonly n: number
  readonly text: string
}

/** A source of ticks that readers pull from, with the same object for every reader, as the service's feeds are. */
export class Topic {
  readonly ticks: Tick[] = []
  /** Readers that have not gone. */
  readers = 0
  /** How often a reader has asked for a tick and got one. */
  pulled = 0
  #closed = false
  #waiting = new Set<() => void>()

  push(text: string): void {
    this.ticks.push({ n: this.ticks.length + 1, text })
    this.#wake()
  }

  end(): void {
    this.#closed = true
    this.#wake()
  }

  read(): AsyncIterableIterator<Tick> {
    let position = 0
    let gone = false
    this.readers++
    const leave = (): Promise<IteratorResult<Tick>> => {
      if (!gone) this.readers--
      gone = true
      this.#wake()
      return Promise.resolve({ done: true, value: undefined })
    }
    return {
      [Symbol.asyncIterator]() {
        return this
      },
      next: async () => {
        for (;;) {
          const tick = this.ticks[position]
          if (gone || (tick === undefined && this.#closed)) return leave()
          if (tick !== undefined) {
            position++
            this.pulled++
            return { done: false, value: tick }
          }
          await new Promise<void>((resolve) => this.#waiting.add(resolve))
        }
      },
      return: leave,
    }
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = new Set()
    for (const wake of waiting) wake()
  }
}

export interface World {
  readonly server: Server
  readonly topic: Topic
  readonly log: { readonly level: string; readonly fields: object; readonly message: string }[]
  /** What the mutation has set. */
  readonly written: string[]
  /** How often a tick's text has been resolved. */
  resolved(): number
  /** Lets `slow` answer. */
  release(): void
  /** Resolves when `slow` has been asked. */
  readonly slowAsked: Promise<void>
  readonly signals: AbortSignal[]
}

/** Lets everybody in, as the local admin. */
const ANYBODY: Authenticator = {
  authenticate: ({ address }) => ({
    status: 'known',
    caller: {
      principal: LOCAL,
      address,
      meter: UNMETERED,
      hold: () => ({ ended: new AbortController().signal, [Symbol.dispose]: () => undefined }),
    },
  }),
}

export async function startWorld(
  options: Partial<Omit<ServerOptions, 'config' | 'limits'>> & {
    readonly config?: Partial<ServerOptions['config']>
    readonly limits?: Partial<ServerLimits>
  } = {},
): Promise<World & AsyncDisposable> {
  const topic = new Topic()
  const log: World['log'] = []
  const written: string[] = []
  const signals: AbortSignal[] = []
  let resolved = 0
  let release = (): void => undefined
  let asked = (): void => undefined
  const released = new Promise<void>((resolve) => (release = resolve))
  const slowAsked = new Promise<void>((resolve) => (asked = resolve))

  const text = { type: new GraphQLNonNull(GraphQLString) }
  const tick: GraphQLObjectType<Tick> = new GraphQLObjectType<Tick>({
    name: 'Tick',
    fields: () => ({
      n: { type: new GraphQLNonNull(GraphQLInt) },
      text: {
        ...text,
        args: { suffix: { type: GraphQLString } },
        resolve: (source, { suffix }: { suffix?: string }) => {
          resolved++
          return source.text + (suffix ?? '')
        },
      },
      next: { type: tick, resolve: () => null },
    }),
  })
  const payload = (value: unknown): unknown => value
  const schema = new GraphQLSchema({
    query: new GraphQLObjectType({
      name: 'Query',
      fields: {
        hello: { ...text, resolve: () => 'world' },
        echo: {
          type: scalars.JSON,
          args: { value: { type: scalars.JSON } },
          resolve: (_, { value }: { value: unknown }) => value,
        },
        plus: {
          type: GraphQLInt,
          args: { n: { type: new GraphQLNonNull(GraphQLInt) } },
          resolve: (_, { n }: { n: number }) => n + 1,
        },
        overflow: { type: GraphQLInt, resolve: () => 2 ** 40 },
        boom: {
          type: GraphQLString,
          resolve: () => {
            throw new Error('the secret password is hunter2', { cause: new Error('the deeper cause') })
          },
        },
        missing: {
          type: GraphQLString,
          resolve: () => {
            throw refusal('NOT_FOUND', 'There is no such thing.')
          },
        },
        ticks: {
          type: new GraphQLList(tick),
          args: { first: { type: GraphQLInt, defaultValue: 20 } },
          resolve: () => topic.ticks,
        },
        slow: {
          ...text,
          resolve: async () => {
            asked()
            await released
            return 'done'
          },
        },
      },
    }),
    mutation: new GraphQLObjectType({
      name: 'Mutation',
      fields: {
        write: {
          ...text,
          args: { value: text },
          resolve: (_, { value }: { value: string }) => {
            written.push(value)
            return value
          },
        },
      },
    }),
    subscription: new GraphQLObjectType({
      name: 'Subscription',
      fields: {
        ticks: {
          type: new GraphQLNonNull(tick),
          args: { topic: { type: GraphQLString } },
          subscribe: () => topic.read(),
          resolve: payload,
        },
        // Opens when the world is released.
        late: {
          type: new GraphQLNonNull(tick),
          subscribe: async () => {
            asked()
            await released
            return topic.read()
          },
          resolve: payload,
        },
        unshared: { type: new GraphQLNonNull(tick), subscribe: () => topic.read(), resolve: payload },
        missing: {
          type: tick,
          subscribe: () => {
            throw refusal('NOT_FOUND', 'There is no such feed.')
          },
        },
        breaks: {
          type: tick,
          async *subscribe() {
            yield await Promise.resolve({ n: 1, text: 'one' })
            throw new Error('the secret source broke')
          },
          resolve: payload,
        },
        stuck: {
          type: tick,
          async *subscribe() {
            yield await Promise.resolve({ n: 1, text: 'one' })
            await new Promise(() => undefined)
          },
          resolve: payload,
        },
      },
    }),
  })

  const record =
    (level: string) =>
    (fields: object, message: string): void => {
      log.push({ level, fields, message })
    }
  const logger: Logger = {
    debug: record('debug'),
    info: record('info'),
    warn: record('warn'),
    error: record('error'),
  }
  const server = await startServer({
    schema,
    sharedSubscriptions: new Set(['ticks']),
    createContext: ({ signal }: ContextRequest) => {
      signals.push(signal)
      return {}
    },
    authenticator: ANYBODY,
    onForbidden: () => undefined,
    artifacts: NO_ARTIFACTS,
    uploads: onlyGiven('uploads') as UploadIntake,
    exports: onlyGiven('exports') as ExportOptions,
    health: () => Promise.resolve({ ready: true, checks: {} }),
    logger,
    ...options,
    config: { host: '127.0.0.1', port: 0, allowedOrigins: [], allowedHosts: [], ...options.config },
  })
  return {
    server,
    topic,
    log,
    written,
    signals,
    slowAsked,
    resolved: () => resolved,
    release: () => {
      release()
    },
    async [Symbol.asyncDispose]() {
      release()
      topic.end()
      await server[Symbol.asyncDispose]()
    },
  }
}

export const NO_ARTIFACTS: Artifacts = {
  open: () => Promise.resolve(null),
  openInput: () => Promise.resolve(null),
}

/** Whoever uses something of it gives what there is. */
function onlyGiven(what: string): object {
  return new Proxy(
    {},
    {
      get(_target, name) {
        throw new Error(`The test does not say what ${what}.${String(name)} is.`)
      },
    },
  )
}

/** A POST of an operation; gives the status and the parsed body. */
export async function post(
  url: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; headers: Headers; body: ResponseBody }> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
  return { status: response.status, headers: response.headers, body: (await response.json()) as ResponseBody }
}

export interface ResponseBody {
  readonly data?: unknown
  readonly errors?: readonly {
    readonly message: string
    readonly path?: readonly string[]
    readonly extensions: { readonly code: string; readonly errorId?: string }
  }[]
}

export function wsUrl({ url }: Pick<Server, 'url'>): string {
  return url.replace('http:', 'ws:')
}

/** The reference client, without its retries. */
export function connect(server: Server): Client {
  return createClient({
    url: wsUrl(server),
    webSocketImpl: WebSocket,
    retryAttempts: 0,
    lazy: true,
    lazyCloseTimeout: 0,
  })
}

/** A bare socket that speaks the protocol as the test says. */
export class RawSocket {
  readonly socket: WebSocket
  readonly messages: Record<string, unknown>[] = []
  readonly closed: Promise<{ code: number; reason: string }>
  #listeners: (() => void)[] = []

  constructor(
    server: Pick<Server, 'url'>,
    protocols: string[] = ['graphql-transport-ws'],
    headers: Record<string, string> = {},
    /** Whether it answers the server's pings. */
    autoPong = true,
  ) {
    this.socket = new WebSocket(wsUrl(server), protocols, { headers, autoPong })
    this.socket.on('error', () => undefined)
    this.socket.on('message', (data: Buffer) => {
      this.messages.push(JSON.parse(data.toString()) as Record<string, unknown>)
      this.#heard()
    })
    this.closed = new Promise((resolve) => {
      this.socket.on('close', (code, reason) => {
        this.#heard()
        resolve({ code, reason: reason.toString() })
      })
    })
  }

  async opened(): Promise<this> {
    if (this.socket.readyState === WebSocket.CONNECTING) {
      await new Promise<void>((resolve, reject) => {
        this.socket.once('open', resolve)
        this.socket.once('error', reject)
      })
    }
    return this
  }

  /** Opened and introduced. */
  async ready(): Promise<this> {
    await this.opened()
    this.send({ type: 'connection_init' })
    await this.message(({ type }) => type === 'connection_ack')
    return this
  }

  send(message: unknown): void {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message))
  }

  subscribe(id: string, query: string, variables?: Record<string, unknown>): void {
    this.send({ id, type: 'subscribe', payload: { query, ...(variables && { variables }) } })
  }

  /** The first message, already here or still to come, that fits. */
  async message(fits: (message: Record<string, unknown>) => boolean): Promise<Record<string, unknown>> {
    for (;;) {
      const found = this.messages.find(fits)
      if (found !== undefined) return found
      if (this.socket.readyState === WebSocket.CLOSED)
        throw new Error('The socket closed before the message came.')
      await new Promise<void>((resolve) => this.#listeners.push(resolve))
    }
  }

  #heard(): void {
    for (const listener of this.#listeners.splice(0)) listener()
  }
}

/** The status with which an upgrade is refused. */
export function refusedUpgrade(
  server: Server,
  headers: Record<string, string>,
  path = '/graphql',
): Promise<number> {
  const socket = new WebSocket(wsUrl(server).replace('/graphql', path), ['graphql-transport-ws'], { headers })
  return new Promise((resolve, reject) => {
    socket.on('unexpected-response', (request, response) => {
      resolve(response.statusCode ?? 0)
      request.destroy()
    })
    socket.on('open', () => {
      socket.terminate()
      reject(new Error('The upgrade was not refused.'))
    })
    socket.on('error', () => undefined)
  })
}

/** Waits until something is so that has no event of its own. */
export async function until(condition: () => boolean, timeoutMs = 5_000): Promise<void> {
  const deadline = Date.now() + timeoutMs
  while (!condition()) {
    expect(Date.now(), 'the condition did not come').toBeLessThan(deadline)
    await delay(2)
  }
}

/** The text of an event stream, as one request gives it. */
export function stream(server: Server, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(`${server.url}/stream`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify(body),
    ...init,
  })
}
