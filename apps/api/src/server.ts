import { ApolloServer } from '@apollo/server'
import { fastifyApolloHandler } from '@as-integrations/fastify'
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { type GraphQLError, type GraphQLSchema, OperationTypeNode } from 'graphql'
import type { Logger } from '@gpu-service/tasks'
import type { Authenticator, Caller } from './access/authenticator.ts'
import { type Config, isLoopback } from './config.ts'
import { createErrorFormat, limited } from './graphql/errors.ts'
import { type Admission, createGate, type GateRequest } from './graphql/gate.ts'
import { type ContextRequest, createOperations } from './graphql/operations.ts'
import { createAccess, PREFLIGHT_HEADERS } from './http/access.ts'
import { type Artifacts, serveArtifacts } from './http/artifacts.ts'
import { watchIdleConnections } from './http/connections.ts'
import { limitBody } from './http/body.ts'
import { callerOf, originOf } from './http/caller.ts'
import { type ExportOptions, serveExports } from './http/exports.ts'
import { serveEventStreams } from './http/event-stream.ts'
import { parseGraphqlRequest, sendErrors } from './http/graphql-request.ts'
import { type Health, serveHealth } from './http/health.ts'
import { type LocalSocket, serveLocally } from './http/local-socket.ts'
import { serveSockets } from './http/sockets.ts'
import { serveUploads } from './http/uploads.ts'
import type { UploadIntake } from './uploads.ts'

export interface ServerLimits {
  /** How long a request's head may take to come. */
  readonly headMs: number
  /** Of a request's body. */
  readonly maxBodyBytes: number
  /** How long a request's body may take; one that is read as it comes may take longer, but not be silent so long. */
  readonly bodyMs: number
  /** Of one message over a WebSocket. */
  readonly maxMessageBytes: number
  /** The most WebSockets at a time. */
  readonly maxSockets: number
  /** The most operations at a time on one WebSocket. */
  readonly maxOperationsPerSocket: number
  /** The most event streams at a time. */
  readonly maxStreams: number
  /** How long a WebSocket's client may take to introduce itself. */
  readonly initTimeoutMs: number
  /** How often streaming clients are asked for a sign of life. */
  readonly keepAliveMs: number
  /** How long requests under way may take to end when the server does. */
  readonly drainMs: number
}

/** Twice the largest input of a task, with room for the rest of its submission; WebSocket frames have less around it. */
export const DEFAULT_SERVER_LIMITS: ServerLimits = {
  headMs: 10_000,
  maxBodyBytes: 512 * 1024,
  bodyMs: 30_000,
  maxMessageBytes: 320 * 1024,
  maxSockets: 5_000,
  maxOperationsPerSocket: 100,
  maxStreams: 5_000,
  initTimeoutMs: 3_000,
  keepAliveMs: 12_000,
  drainMs: 5_000,
}

export interface ServerOptions {
  readonly config: Pick<Config, 'host' | 'port' | 'allowedOrigins' | 'allowedHosts'>
  readonly schema: GraphQLSchema
  /** Fields of Subscription whose results depend on nothing but the value that their source gives (see `createOperations`). */
  readonly sharedSubscriptions?: ReadonlySet<string>
  readonly createContext: (request: ContextRequest) => object
  readonly authenticator: Authenticator
  /** Told of mutations that were refused because of who asked. */
  readonly onForbidden: (mutations: ReadonlySet<string>, caller: Caller) => void
  /** Path of a socket at which the same is served to whoever may open it, as the local admin. */
  readonly localSocket?: string
  readonly artifacts: Artifacts
  readonly uploads: UploadIntake
  readonly exports: ExportOptions
  readonly health: () => Promise<Health>
  readonly logger: Logger
  /** Whether clients may ask for the schema; unless given, where only this machine can reach the server. */
  readonly introspection?: boolean
  readonly limits?: Partial<ServerLimits>
}

export interface Server extends AsyncDisposable {
  /** Where GraphQL is served, `http://…/graphql`; WebSockets at the same place. */
  readonly url: string
  readonly port: number
  /**
   * Stops listening, tells WebSocket clients to come back (1001), ends event streams, and waits for the requests under way, but no longer
   * than `drainMs`.
   */
  [Symbol.asyncDispose](): Promise<void>
}

/** How often it is looked for requests that take too long to come. */
const LOOK_MS = 1_000
const MAX_HEADER_BYTES = 16 * 1024
const MAX_CONNECTIONS = 16_384
/** How long WebSocket clients may take to hang up. */
const HANG_UP_MS = 1_000

const HINT = `GPU Service speaks GraphQL here.

POST {"query": "{ service { version } }"} to this address as application/json;
subscriptions come over a WebSocket at this address (graphql-transport-ws),
or as server-sent events from /graphql/stream.
`

/** Serves the schema over HTTP, WebSockets and event streams on one port, all behind one gate, and with them artifacts and health. */
export async function startServer(options: ServerOptions): Promise<Server> {
  const { config, schema, createContext, authenticator, logger } = options
  const { host } = config
  const limits = { ...DEFAULT_SERVER_LIMITS, ...options.limits }
  const introspection = options.introspection ?? isLoopback(host)
  const gate = createGate({ schema, introspection })
  function admit(request: GateRequest, caller: Caller): Admission {
    const admission = gate.admit(request, caller.principal.role)
    if (admission.status === 'refused' && admission.forbidden.size > 0)
      options.onForbidden(admission.forbidden, caller)
    return admission
  }
  const formatError = createErrorFormat(logger)
  const access = createAccess(config)
  const operations = createOperations({
    schema,
    createContext,
    formatError,
    sharedSubscriptions: options.sharedSubscriptions ?? new Set(),
  })

  const apollo = new ApolloServer<object>({
    schema,
    // The gate has decided, for all transports.
    introspection: true,
    hideSchemaDetailsFromClientErrors: !introspection,
    csrfPrevention: true,
    allowBatchedHttpRequests: false,
    persistedQueries: false,
    includeStacktraceInErrorResponses: false,
    stopOnTerminationSignals: false,
    formatError: (_formatted, error) => formatError(error),
    logger: apolloLogger(logger),
    nodeEnv: 'production',
  })
  await apollo.start()

  const app = createApp(limits)
  const cutIdle = watchIdleConnections(app.server)
  let localSocket: LocalSocket | null = null
  let stopped: Promise<void> | null = null
  app.addHook('onRequest', async (request, reply) => {
    if (request.routeOptions.config.readsBody !== true) limitBody(request.raw, reply.raw, limits.bodyMs)
    reply.headers({
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-store',
      ...access.corsHeaders(request.headers),
    })
    const reason = access.refusalOf(request.raw)
    if (reason !== null) return sendErrors(reply, 403, [problem('FORBIDDEN', reason)])
    if (request.method === 'OPTIONS' && request.headers.origin !== undefined) {
      return reply.code(204).headers(PREFLIGHT_HEADERS).send()
    }
    if (isHint(request)) return
    const origin = originOf(request.raw, localSocket?.owns(request.raw.socket) ?? false)
    const authentication = authenticator.authenticate(origin, request.headers.authorization ?? null)
    if (authentication.status === 'known') {
      request.caller = authentication.caller
      const reached = request.routeOptions.config.open === true ? null : request.caller.meter.request()
      if (reached !== null) {
        reply.code(429).header('retry-after', reached.retryAfterSeconds)
        return sendErrors(reply, reply.statusCode, [formatError(limited(reached))])
      }
    } else if (request.routeOptions.config.open !== true) {
      if (authentication.status === 'unknown') reply.code(401).header('www-authenticate', 'Bearer')
      else reply.code(429).header('retry-after', authentication.retryAfterSeconds)
      return sendErrors(reply, reply.statusCode, [problem('UNAUTHENTICATED', authentication.message)])
    }
  })
  app.addHook('onSend', async (_request, reply) => {
    if (stopped !== null) reply.header('connection', 'close')
    return Promise.resolve()
  })
  app.addHook('onResponse', (request, reply, done) => {
    const { method, routeOptions } = request
    const fields = {
      method,
      route: routeOptions.url,
      status: reply.statusCode,
      ms: Math.round(reply.elapsedTime),
    }
    logger.debug(fields, 'Answered.')
    done()
  })
  app.setNotFoundHandler((_request, reply) =>
    sendErrors(reply, 404, [problem('NOT_FOUND', 'There is nothing here.')]),
  )
  app.setErrorHandler((error, _request, reply) => {
    const status = clientStatusOf(error)
    return status === null
      ? sendErrors(reply, 500, [formatError(error)])
      : sendErrors(reply, status, [problem('BAD_REQUEST', error instanceof Error ? error.message : '')])
  })

  const execute = fastifyApolloHandler(apollo, {
    context: (request, reply) =>
      Promise.resolve(createContext({ signal: hangUpOf(reply), caller: callerOf(request) })),
  })
  app.route({
    method: ['GET', 'POST'],
    url: '/graphql',
    async handler(request, reply) {
      if (isHint(request)) return reply.type('text/plain; charset=utf-8').send(HINT)
      const parsed = parseGraphqlRequest(request)
      if (typeof parsed === 'string') {
        return sendErrors(reply, isJson(request) ? 400 : 415, [problem('BAD_REQUEST', parsed)])
      }
      const admission = admit(parsed, callerOf(request))
      if (admission.status === 'refused')
        return sendErrors(reply, statusOf(admission.errors), admission.errors.map(formatError))
      if (admission.operation.operation === OperationTypeNode.SUBSCRIPTION) {
        const message = 'Subscriptions come over a WebSocket at this address, or from /graphql/stream.'
        return sendErrors(reply, 400, [problem('BAD_REQUEST', message)])
      }
      return execute.call(app, request, reply)
    },
  })
  const streams = serveEventStreams(app, { admit, operations, formatError, ...limits })
  serveArtifacts(app, options.artifacts)
  serveUploads(app, { intake: options.uploads, stallMs: limits.bodyMs })
  serveExports(app, options.exports)
  serveHealth(app, options.health)
  const sockets = serveSockets(app.server, {
    schema,
    admit,
    operations,
    access,
    authenticator,
    formatError,
    logger,
    ...limits,
    maxOperations: limits.maxOperationsPerSocket,
  })

  try {
    await app.listen({ host, port: config.port })
    if (options.localSocket !== undefined) localSocket = await serveLocally(app, options.localSocket)
  } catch (error) {
    await app.close()
    await apollo.stop()
    throw error
  }
  const address = app.server.address()
  const port = typeof address === 'object' && address !== null ? address.port : config.port

  async function stop(): Promise<void> {
    const cutOff = setTimeout(() => {
      app.server.closeAllConnections()
    }, limits.drainMs)
    const closed = app.close()
    cutIdle()
    streams.close()
    await localSocket?.[Symbol.asyncDispose]()
    await sockets.close(Math.min(HANG_UP_MS, limits.drainMs))
    await closed
    clearTimeout(cutOff)
    // After the last request: Apollo refuses what comes later. Once only: a second concurrent stop of it never ends.
    await apollo.stop()
  }

  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}/graphql`,
    port,
    [Symbol.asyncDispose]: () => (stopped ??= stop()),
  }
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who it is from; `null` only where the route is open to everybody. */
    caller: Caller | null
  }
  interface FastifyContextConfig {
    /** Answered whoever asks. */
    open?: boolean
    /** It reads the request's body as it comes, and says how long that may take. */
    readsBody?: boolean
  }
}

/** What a person sees who opens the address in a browser. */
function isHint({ method, headers, url }: FastifyRequest): boolean {
  return (
    method === 'GET' &&
    url.split('?', 1)[0] === '/graphql' &&
    headers.accept?.includes('text/html') === true &&
    !/[?&]query=/.test(url)
  )
}

function statusOf([first]: readonly GraphQLError[]): number {
  return first?.extensions['code'] === 'FORBIDDEN' ? 403 : 400
}

function createApp({ maxBodyBytes, headMs }: ServerLimits): FastifyInstance {
  const app = fastify({
    bodyLimit: maxBodyBytes,
    // There are limits of our own for the time that bodies may take.
    requestTimeout: 0,
    http: { headersTimeout: headMs, maxHeaderSize: MAX_HEADER_BYTES, connectionsCheckingInterval: LOOK_MS },
    // A path that cannot be decoded, or is too long, has no route, and so none of its hooks.
    frameworkErrors(error, _request, reply) {
      void sendErrors(reply, clientStatusOf(error) ?? 400, [problem('BAD_REQUEST', 'The path is not one.')])
    },
    // Idle connections are cut by whoever closes the app.
    forceCloseConnections: false,
    exposeHeadRoutes: false,
    // A key by this name is data like any other; nothing here copies it into an object's prototype.
    onProtoPoisoning: 'ignore',
    onConstructorPoisoning: 'ignore',
  })
  app.server.maxConnections = MAX_CONNECTIONS
  app.decorateRequest('caller', null)
  // A body of another type is not read: whoever needs one says what it must be.
  app.removeContentTypeParser('text/plain')
  app.addContentTypeParser('*', (_request, payload, done) => {
    payload.resume()
    done(null)
  })
  return app
}

function problem(code: string, message: string) {
  return { message, extensions: { code } }
}

/** The status of an error that the client caused, as the framework says it; `null`: the client did not. */
function clientStatusOf(error: unknown): number | null {
  if (!(error instanceof Error) || !('statusCode' in error)) return null
  const status = error.statusCode
  return typeof status === 'number' && status >= 400 && status < 500 ? status : null
}

function isJson({ method, headers }: FastifyRequest): boolean {
  return method === 'GET' || /^application\/json\b/i.test(headers['content-type'] ?? '')
}

/** Fires when the client hangs up before it has its answer. */
function hangUpOf(reply: FastifyReply): AbortSignal {
  const hangUp = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) hangUp.abort()
  })
  return hangUp.signal
}

function apolloLogger(logger: Logger) {
  return {
    debug: (message: unknown) => {
      logger.debug({}, String(message))
    },
    info: (message: unknown) => {
      logger.info({}, String(message))
    },
    warn: (message: unknown) => {
      logger.warn({}, String(message))
    },
    error: (message: unknown) => {
      logger.error({}, String(message))
    },
  }
}
