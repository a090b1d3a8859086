import type { IncomingMessage, Server } from 'node:http'
import type { Duplex } from 'node:stream'
import { type ExecutionArgs, type ExecutionResult, type GraphQLSchema, OperationTypeNode } from 'graphql'
import { CloseCode, handleProtocols, makeServer, MessageType, parseMessage } from 'graphql-ws'
import { type WebSocket, WebSocketServer } from 'ws'
import type { Logger } from '@gpu-service/tasks'
import { type FormatError, limited, refusal } from '../graphql/errors.ts'
import type { Admit } from '../graphql/gate.ts'
import type { Operations, Results } from '../graphql/operations.ts'
import type { Authenticator, Caller, Origin } from '../access/authenticator.ts'
import type { Hold } from '../access/key-ring.ts'
import type { Access } from './access.ts'
import { originOf } from './caller.ts'

export interface SocketOptions {
  readonly schema: GraphQLSchema
  readonly admit: Admit<Caller>
  readonly operations: Operations
  readonly access: Access
  readonly authenticator: Authenticator
  readonly formatError: FormatError
  readonly logger: Logger
  /** Of one message from a client. */
  readonly maxMessageBytes: number
  /** The most sockets at a time. */
  readonly maxSockets: number
  /** The most operations at a time on one socket. */
  readonly maxOperations: number
  /** How long a client may take to say `connection_init`. */
  readonly initTimeoutMs: number
  /** How often a client is pinged; one that has not answered by the next time is cut off. */
  readonly keepAliveMs: number
}

export interface Sockets {
  /** Tells every client to come back later (1001), and cuts off those that do not hang up within `graceMs`. */
  close(graceMs: number): Promise<void>
}

/** The code of RFC 6455's registry for what may go well another time. */
const TRY_AGAIN_LATER = 1013
/** A client that has this much waiting for it is not listened to until it has read. */
const MAX_BUFFERED_BYTES = 1024 * 1024

/** How long a client that is told to go may take to hang up; until then it has its place among the sockets. */
const HANG_UP_MS = 2_000

/** Messages that go one way only, and not to a server. */
const OF_SERVERS: readonly MessageType[] = [MessageType.ConnectionAck, MessageType.Next, MessageType.Error]

/**
 * Serves operations over WebSockets at `/graphql`, by the protocol graphql-transport-ws. A client that reads slowly is waited for: no
 * result is made for a subscription while its last one is not on its way.
 */
export function serveSockets(server: Server, options: SocketOptions): Sockets {
  const { schema, admit, operations, access, authenticator, formatError, logger } = options
  const { maxSockets, keepAliveMs } = options
  let closing = false
  // On its own, for the types know no `closeTimeout` yet.
  const socketOptions = {
    noServer: true,
    maxPayload: options.maxMessageBytes,
    perMessageDeflate: false,
    closeTimeout: HANG_UP_MS,
    handleProtocols,
  }
  const sockets = new WebSocketServer(socketOptions)
  const protocol = makeServer<Record<string, unknown> | undefined, Connection>({
    connectionInitWaitTimeout: options.initTimeoutMs,
    onConnect({ connectionParams, extra }) {
      const { authorization } = connectionParams ?? {}
      const given = typeof authorization === 'string' ? authorization : null
      const credential = given ?? extra.origin.headers.authorization ?? null
      const authentication = authenticator.authenticate(extra.origin, credential)
      if (authentication.status !== 'known') return false
      const reached = extra.admit(authentication.caller)
      if (reached !== null) extra.socket.close(TRY_AGAIN_LATER, reached)
      return reached === null
    },
    onSubscribe(context, id, { query, operationName, variables }) {
      if (Object.keys(context.subscriptions).length > options.maxOperations) {
        const message = `At most ${options.maxOperations} operations may run at a time on one socket.`
        return [refusal('TOO_MANY_OPERATIONS', message)]
      }
      const { caller, socket } = context.extra
      if (caller === null) throw new TypeError('An operation came before its socket was admitted.')
      const reached = caller.meter.request()
      if (reached !== null) return [limited(reached)]
      const admission = admit({ query, operationName, variables }, caller)
      if (admission.status === 'refused') return admission.errors
      const { document, operation } = admission
      const place =
        operation.operation === OperationTypeNode.SUBSCRIPTION ? caller.meter.open('subscriptions') : null
      if (place !== null && 'limit' in place) return [limited(place)]
      const delivery = new Delivery(socket, id, operations.run(admission, variables, caller), place)
      return { schema, document, operationName: operation.name?.value, contextValue: delivery }
    },
    subscribe: deliver,
    execute: deliver,
    onError: (_context, _id, _payload, errors) => errors.map(formatError),
  })

  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    // Before the socket has another listener, and after it has lost it, an error must not end the process.
    socket.on('error', (error) => {
      logger.debug({ err: error }, 'A connection broke.')
    })
    const refused = refusalOf(request)
    if (refused !== null) {
      refuse(socket, ...refused)
      return
    }
    sockets.handleUpgrade(request, socket, head, (opened) => {
      accept(opened, originOf(request, false))
    })
  })

  function refusalOf(request: IncomingMessage): [status: string, reason: string] | null {
    const reason = access.refusalOf(request)
    if (reason !== null) return ['403 Forbidden', reason]
    if (request.url?.split('?', 1)[0] !== '/graphql')
      return ['404 Not Found', 'WebSockets are served at /graphql.']
    if (closing) return ['503 Service Unavailable', 'The service is stopping.']
    return sockets.clients.size >= maxSockets
      ? ['503 Service Unavailable', 'There are too many sockets.']
      : null
  }

  function accept(socket: WebSocket, origin: Origin): void {
    const connection = new Connection(socket, origin)
    socket.on('error', (error) => {
      logger.debug({ err: error }, 'A WebSocket broke.')
    })
    const closed = protocol.opened(
      {
        protocol: socket.protocol,
        send: (text) => send(socket, text),
        close: (code, reason) => {
          socket.close(code, reason)
        },
        onMessage(listener) {
          socket.on('message', (data, isBinary) => {
            if (isBinary || !Buffer.isBuffer(data)) {
              socket.close(CloseCode.BadRequest, 'Invalid message received')
              return
            }
            const text = data.toString()
            listener(text).catch((error: unknown) => {
              // The library throws for it as for its own faults; anybody may send it.
              if (OF_SERVERS.includes(parseMessage(text).type))
                socket.close(CloseCode.BadRequest, 'Invalid message received')
              else fail(error)
            })
          })
        },
      },
      connection,
    )
    let alive = true
    const keepAlive = setInterval(() => {
      if (!alive) {
        socket.terminate()
        return
      }
      alive = false
      socket.ping()
    }, keepAliveMs)
    socket.on('pong', () => {
      alive = true
    })
    socket.on('close', (code, reason) => {
      clearInterval(keepAlive)
      connection[Symbol.dispose]()
      closed(code, reason.toString()).catch(fail)
    })

    function fail(error: unknown): void {
      logger.error({ err: error }, 'A WebSocket could not be served.')
      socket.close(CloseCode.InternalServerError, 'Internal server error')
    }
  }

  return {
    async close(graceMs) {
      closing = true
      const clients = [...sockets.clients]
      for (const client of clients) client.close(1001, 'Going away')
      const cutOff = setTimeout(() => {
        for (const client of clients) client.terminate()
      }, graceMs)
      await Promise.all(clients.map(gone))
      clearTimeout(cutOff)
    },
  }
}

/** A socket and who is at its other end. */
class Connection implements Disposable {
  readonly socket: WebSocket
  readonly origin: Origin
  #caller: Caller | null = null
  #hold: Hold | null = null
  #place: Disposable | null = null

  constructor(socket: WebSocket, origin: Origin) {
    this.socket = socket
    this.origin = origin
  }

  /** `null`: that has not been told yet. */
  get caller(): Caller | null {
    return this.#caller
  }

  /** Gives why it cannot be kept open; `null`: it can. */
  admit(caller: Caller): string | null {
    const place = caller.meter.open('sockets')
    if ('limit' in place) return place.message
    this.#place = place
    this.#caller = caller
    this.#hold = caller.hold()
    this.#hold.ended.addEventListener('abort', () => {
      this.socket.close(CloseCode.Forbidden, 'Forbidden')
    })
    return null
  }

  [Symbol.dispose](): void {
    this.#place?.[Symbol.dispose]()
    this.#hold?.[Symbol.dispose]()
  }
}

/**
 * What the protocol's server is told is the operation's result: a sequence that sends the results by itself and yields none. So a text that
 * is shared by many subscribers is made once for all of them.
 */
class Delivery implements AsyncIterableIterator<ExecutionResult> {
  readonly #socket: WebSocket
  readonly #start: string
  readonly #results: Results
  readonly #place: Disposable | null

  /** `place`: what it takes until it has ended. */
  constructor(socket: WebSocket, id: string, results: Results, place: Disposable | null) {
    this.#socket = socket
    this.#start = `{"id":${JSON.stringify(id)},"type":"${MessageType.Next}","payload":`
    this.#results = results
    this.#place = place
  }

  async next(): Promise<IteratorResult<ExecutionResult>> {
    try {
      for await (const text of this.#results) {
        if (this.#socket.readyState !== this.#socket.OPEN) break
        await send(this.#socket, `${this.#start}${text}}`)
      }
    } finally {
      this.#place?.[Symbol.dispose]()
    }
    return { done: true, value: undefined }
  }

  async return(): Promise<IteratorResult<ExecutionResult>> {
    this.#place?.[Symbol.dispose]()
    await this.#results.return()
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }
}

function deliver({ contextValue }: ExecutionArgs): Delivery {
  if (contextValue instanceof Delivery) return contextValue
  throw new TypeError('An operation came around the gate.')
}

/** Resolves when the text has left for the network, or the socket is gone. */
function send(socket: WebSocket, text: string): Promise<void> {
  if (socket.readyState !== socket.OPEN) return Promise.resolve()
  return new Promise((resolve) => {
    socket.send(text, () => {
      if (socket.isPaused && socket.bufferedAmount < MAX_BUFFERED_BYTES) socket.resume()
      // Where it failed, the socket's end says so to everybody.
      resolve()
    })
    if (socket.bufferedAmount > MAX_BUFFERED_BYTES) socket.pause()
  })
}

function gone(socket: WebSocket): Promise<void> {
  if (socket.readyState === socket.CLOSED) return Promise.resolve()
  return new Promise((resolve) => {
    socket.once('close', () => {
      resolve()
    })
  })
}

function refuse(socket: Duplex, status: string, reason: string): void {
  const head = [
    `HTTP/1.1 ${status}`,
    'Connection: close',
    'Content-Type: text/plain; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(reason)}`,
  ]
  socket.end(`${head.join('\r\n')}\r\n\r\n${reason}`)
}
