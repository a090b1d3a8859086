import type { Sink } from './connection.ts'
import { GpuClientError, graphqlError, type GraphqlError } from './error.ts'
import type { Operation } from './operation.ts'
import type { Wire } from './wire.ts'

/** Where the values of a subscription wait for the consumer; bounded. */
export interface Shelf<T> {
  /** Takes the value; `false`: it is full, and there is no place for another one after this. */
  put(value: T): boolean
  /** Gives everything that waits, and is empty then. */
  take(): readonly T[]
}

/** A shelf for values that must all be had, in their order. */
export function createQueue<T>(capacity: number): Shelf<T> {
  let values: T[] = []
  return {
    put: (value) => values.push(value) < capacity,
    take() {
      const taken = values
      values = []
      return taken
    },
  }
}

/** A shelf for states of things of which only the latest matters: as large as there are things. */
export function createLatest<T>(keyOf: (value: T) => string): Shelf<T> {
  const values = new Map<string, T>()
  return {
    put(value) {
      const key = keyOf(value)
      // To the end: in the order in which they came last.
      values.delete(key)
      values.set(key, value)
      return true
    },
    take() {
      const taken = [...values.values()]
      values.clear()
      return taken
    },
  }
}

export type Taken<T> =
  | { readonly kind: 'values'; readonly values: readonly T[] }
  /** Nothing came within the time. */
  | { readonly kind: 'quiet' }
  /** The service has said that this was all. */
  | { readonly kind: 'completed' }
  /** The consumer was too slow for the shelf, so the subscription was given back. What was on the shelf has been taken. */
  | { readonly kind: 'full' }

/**
 * One subscription, from its begin to its end or the first trouble. What comes is put on a shelf until the consumer takes it, and where that
 * is full the subscription is ended: so a consumer that stops taking holds nothing but the shelf.
 */
export class Leg<R, T> implements Sink {
  readonly #shelf: Shelf<T>
  readonly #valueOf: (data: R) => T
  readonly #signal: AbortSignal
  #end: 'completed' | 'full' | GpuClientError | null = null
  #unsubscribe: () => void = () => undefined
  #wake: () => void = () => undefined
  #isEmpty = true

  private constructor(shelf: Shelf<T>, valueOf: (data: R) => T, signal: AbortSignal) {
    this.#shelf = shelf
    this.#valueOf = valueOf
    this.#signal = signal
  }

  static async open<R, V extends Record<string, unknown>, T>(
    wire: Wire,
    operation: Operation<'subscription', R, V>,
    variables: V,
    to: { readonly shelf: Shelf<T>; readonly valueOf: (data: R) => T; readonly signal: AbortSignal },
  ): Promise<Leg<R, T>> {
    const leg = new Leg(to.shelf, to.valueOf, to.signal)
    leg.#unsubscribe = await wire.subscribe({ query: operation.text, variables }, leg, to.signal)
    to.signal.addEventListener('abort', leg.close)
    return leg
  }

  /**
   * Everything that has come since the last time; waits where that is nothing, for no longer than `withinMs` where it is given.
   * @throws GpuClientError where the subscription broke; the signal's reason where it is aborted.
   */
  async take(withinMs?: number): Promise<Taken<T>> {
    if (this.#isEmpty && this.#end === null && !this.#signal.aborted) {
      await new Promise<void>((resolve) => {
        const timer = withinMs === undefined ? undefined : setTimeout(resolve, withinMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    this.#signal.throwIfAborted()
    if (!this.#isEmpty) {
      this.#isEmpty = true
      return { kind: 'values', values: this.#shelf.take() }
    }
    if (this.#end === null) return { kind: 'quiet' }
    if (this.#end instanceof GpuClientError) throw this.#end
    return { kind: this.#end }
  }

  /** Gives the subscription back. Closing twice is harmless. */
  readonly close = (): void => {
    this.#signal.removeEventListener('abort', this.close)
    this.#unsubscribe()
    this.#wake()
  }

  next({ data, errors }: Parameters<Sink['next']>[0]): void {
    if (this.#end !== null) return
    if (errors !== undefined) {
      this.failed(errors)
      this.#unsubscribe()
      return
    }
    this.#isEmpty = false
    // The service answers by its schema, for which the operation's types were made.
    if (!this.#shelf.put(this.#valueOf(data as R))) {
      this.#end = 'full'
      this.#unsubscribe()
    }
    this.#wake()
  }

  failed(error: GpuClientError | readonly GraphqlError[]): void {
    this.#end ??= error instanceof GpuClientError ? error : graphqlError(error)
    this.#wake()
  }

  completed(): void {
    this.#end ??= 'completed'
    this.#wake()
  }
}
