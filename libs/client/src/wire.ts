import { Backoff } from './backoff.ts'
import { Connection, type ConnectionOptions, type Sink, type Subscription } from './connection.ts'
import { lasting } from './error.ts'

/** The service runs at most 100 operations at a time on one connection, unless it is told otherwise. */
const MAX_SUBSCRIPTIONS = 50

export type WireOptions = Omit<ConnectionOptions, 'onEnd'>

/**
 * The way to the service that all subscriptions of a client share: one connection, more only where that is full, none while nobody needs
 * one. Where it breaks, all that were on it are told, and those that come back meet again on the next one: one wait, one connection,
 * however many they are.
 */
export class Wire {
  readonly #options: WireOptions
  readonly #connections = new Set<Connection>()
  readonly #backoff: Backoff
  #isClosed = false

  constructor(options: WireOptions) {
    this.#options = options
    this.#backoff = new Backoff(options.timing)
  }

  /**
   * Subscribes as soon as a connection may be made, and gives the function that ends it.
   * @throws the signal's reason where it is aborted before that; GpuClientError CLOSED on a closed wire.
   */
  async subscribe(subscription: Subscription, sink: Sink, signal: AbortSignal): Promise<() => void> {
    await this.#backoff.wait(signal)
    if (this.#isClosed) throw lasting('CLOSED', 'The client was closed.')
    const connection = this.#withRoom() ?? this.#connect()
    return connection.subscribe(subscription, {
      next: (result) => {
        this.#backoff.worked()
        sink.next(result)
      },
      failed: (error) => {
        sink.failed(error)
      },
      completed: () => {
        sink.completed()
      },
    })
  }

  close(): void {
    this.#isClosed = true
    for (const connection of this.#connections) connection.close()
  }

  #withRoom(): Connection | undefined {
    for (const connection of this.#connections) if (connection.size < MAX_SUBSCRIPTIONS) return connection
    return undefined
  }

  #connect(): Connection {
    const connection = new Connection({
      ...this.#options,
      onEnd: (error) => {
        this.#connections.delete(connection)
        if (error.isPassing) this.#backoff.failed(error)
      },
    })
    this.#connections.add(connection)
    return connection
  }
}
