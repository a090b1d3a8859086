import {
  CloseCode,
  GRAPHQL_TRANSPORT_WS_PROTOCOL,
  type Message,
  MessageType,
  parseMessage,
  stringifyMessage,
} from 'graphql-ws/client'
import { closeError, type GpuClientError, type GraphqlError, lasting, passing } from './error.ts'
import type { Timing } from './timing.ts'

/** What is used of a WebSocket: the browser's, that of Node.js 22 and newer, and that of the package `ws` all have it. */
export interface WebSocketLike {
  readonly readyState: number
  addEventListener(type: 'open', listener: () => void): void
  addEventListener(type: 'message', listener: (event: { readonly data: unknown }) => void): void
  addEventListener(
    type: 'close',
    listener: (event: { readonly code: number; readonly reason: string }) => void,
  ): void
  addEventListener(type: 'error', listener: (event: { readonly error?: unknown }) => void): void
  send(data: string): void
  close(code?: number, reason?: string): void
  /** Drops the connection without a farewell to a peer that does not answer; browsers have no such thing. */
  terminate?(): void
}

export type WebSocketConstructor = new (url: string, protocol: string) => WebSocketLike

const OPEN = 1

/** Where the results of one subscription go. After `failed` or `completed` nothing comes any more. */
export interface Sink {
  next(result: { readonly data?: unknown; readonly errors?: readonly GraphqlError[] | undefined }): void
  failed(error: GpuClientError | readonly GraphqlError[]): void
  completed(): void
}

export interface Subscription {
  readonly query: string
  readonly variables: Record<string, unknown>
}

export interface ConnectionOptions {
  readonly url: string
  readonly webSocket: WebSocketConstructor
  /** What the client says of itself. */
  readonly params: () => Promise<Record<string, string>>
  readonly timing: Timing
  /** Why the service cannot be reached, as far as it tells without a WebSocket; `null`: it does not. */
  readonly examine: () => Promise<GpuClientError | null>
  /** Is told why the connection ended, once, before its subscriptions are. */
  readonly onEnd: (error: GpuClientError) => void
}

/**
 * One WebSocket that speaks graphql-transport-ws, from its opening to its end; it does not come back. Subscriptions may be put on it before it
 * is open. A peer that is silent for too long counts as gone, and a connection that nobody has used for a while closes itself.
 */
export class Connection {
  readonly #socket: WebSocketLike
  readonly #options: ConnectionOptions
  readonly #sinks = new Map<string, { readonly subscription: Subscription; readonly sink: Sink }>()
  readonly #timers: ReturnType<typeof setTimeout>[] = []
  #state: 'opening' | 'open' | 'ended' = 'opening'
  #lastId = 0
  #heard = true
  #idle: ReturnType<typeof setTimeout> | undefined

  constructor(options: ConnectionOptions) {
    const { url, webSocket, timing } = options
    this.#options = options
    this.#socket = new webSocket(url, GRAPHQL_TRANSPORT_WS_PROTOCOL)
    let trouble: unknown
    // It stays: an error after the end must have a listener, too.
    this.#socket.addEventListener('error', ({ error }) => {
      trouble = error
    })
    this.#socket.addEventListener('close', ({ code, reason }) => {
      if (this.#state === 'ended') return
      const error = closeError(code, reason, trouble)
      if (this.#state === 'open' || error.code !== 'DISCONNECTED') this.#end(error)
      else void this.#explain(passing('UNREACHABLE', `No connection to ${url} could be made.`, trouble))
    })
    this.#socket.addEventListener('open', () => void this.#introduce())
    this.#socket.addEventListener('message', ({ data }) => {
      this.#hear(data)
    })
    this.#timers.push(
      setTimeout(() => {
        if (this.#state !== 'opening') return
        this.#drop(
          passing('UNREACHABLE', `${url} did not agree to a connection within ${timing.connectMs} ms.`),
        )
      }, timing.connectMs),
    )
  }

  /** How many subscriptions are on it. */
  get size(): number {
    return this.#sinks.size
  }

  get hasEnded(): boolean {
    return this.#state === 'ended'
  }

  /** Gives the function that takes the subscription off it; what comes for it later is not passed on. */
  subscribe(subscription: Subscription, sink: Sink): () => void {
    const id = String(++this.#lastId)
    clearTimeout(this.#idle)
    this.#sinks.set(id, { subscription, sink })
    if (this.#state === 'open') this.#send({ id, type: MessageType.Subscribe, payload: subscription })
    return () => {
      if (this.#remove(id) !== undefined && this.#state === 'open') {
        this.#send({ id, type: MessageType.Complete })
      }
    }
  }

  /** Says goodbye; what is still on it fails with CLOSED. */
  close(): void {
    this.#end(lasting('CLOSED', 'The client was closed.'))
    this.#socket.close(1000, 'Normal closure')
  }

  async #introduce(): Promise<void> {
    try {
      const params = await this.#options.params()
      const payload = Object.keys(params).length > 0 ? { payload: params } : {}
      this.#send({ type: MessageType.ConnectionInit, ...payload })
    } catch (error) {
      this.#end(passing('UNREACHABLE', 'The headers could not be had.', error))
      this.#socket.close(1000)
    }
  }

  #hear(data: unknown): void {
    if (this.#state === 'ended') return
    this.#heard = true
    let message: Message
    try {
      message = parseMessage(data)
    } catch (error) {
      this.#end(
        passing('BAD_RESPONSE', 'What was received is not of the protocol graphql-transport-ws.', error),
      )
      this.#socket.close(CloseCode.BadResponse, 'Bad response')
      return
    }
    switch (message.type) {
      case MessageType.ConnectionAck:
        this.#begin()
        return
      case MessageType.Ping:
        this.#send({ type: MessageType.Pong })
        return
      case MessageType.Next:
        this.#sinks.get(message.id)?.sink.next(message.payload)
        return
      case MessageType.Error:
        this.#remove(message.id)?.failed(message.payload)
        return
      case MessageType.Complete:
        this.#remove(message.id)?.completed()
        return
      default:
    }
  }

  #begin(): void {
    if (this.#state !== 'opening') return
    this.#state = 'open'
    for (const [id, { subscription }] of this.#sinks) {
      this.#send({ id, type: MessageType.Subscribe, payload: subscription })
    }
    const { livenessMs } = this.#options.timing
    let pinged = false
    this.#timers.push(
      setInterval(() => {
        if (!this.#heard && pinged) {
          this.#drop(passing('DISCONNECTED', `Nothing was heard of the service for ${2 * livenessMs} ms.`))
          return
        }
        pinged = !this.#heard
        this.#heard = false
        if (pinged) this.#send({ type: MessageType.Ping })
      }, livenessMs),
    )
  }

  #remove(id: string): Sink | undefined {
    const sink = this.#sinks.get(id)?.sink
    this.#sinks.delete(id)
    if (sink !== undefined && this.#sinks.size === 0 && this.#state !== 'ended') {
      this.#idle = setTimeout(() => {
        this.close()
      }, this.#options.timing.idleMs)
    }
    return sink
  }

  /** A WebSocket that was refused does not say why; the same address may. */
  async #explain(error: GpuClientError): Promise<void> {
    this.#end((await this.#options.examine()) ?? error)
  }

  #end(error: GpuClientError): void {
    if (this.#state === 'ended') return
    this.#state = 'ended'
    for (const timer of [...this.#timers, this.#idle]) clearTimeout(timer)
    this.#options.onEnd(error)
    const sinks = [...this.#sinks.values()]
    this.#sinks.clear()
    for (const { sink } of sinks) sink.failed(error)
  }

  #send(message: Message): void {
    if (this.#socket.readyState === OPEN) this.#socket.send(stringifyMessage(message))
  }

  /** Lets go of a peer that does not answer. */
  #drop(error: GpuClientError): void {
    this.#end(error)
    if (this.#socket.terminate === undefined) this.#socket.close()
    else this.#socket.terminate()
  }
}
