import { setTimeout as delay } from 'node:timers/promises'
import { type Client, createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { type EventBatch, EVENTS_SUBSCRIPTION, type SeenEvent } from './api.ts'

const FIRST_RETRY_MS = 50
const LAST_RETRY_MS = 1_000
/** Codes that say that the cursor or the task is wrong: of a task that was accepted, and a cursor that was given, they are broken promises. */
const BROKEN_PROMISES = new Set(['NOT_FOUND', 'BAD_CURSOR'])

/** Follows tasks over connections that break, and always goes on behind the last event that it has. */
export interface Subscriber extends AsyncDisposable {
  /**
   * The task's events behind `after`, to the end of the task. `onEvents` is told of each batch as it comes.
   * @throws BrokenPromise where the service does not know the task or the cursor any more; the signal's reason where it is aborted.
   */
  follow(
    taskId: string,
    options: {
      readonly after: number
      readonly signal: AbortSignal
      readonly onEvents?: (events: readonly SeenEvent[]) => void
    },
  ): Promise<readonly SeenEvent[]>
  /** How many times a subscription was taken up again. */
  readonly resumed: number
}

export class BrokenPromise extends Error {
  override readonly name = 'BrokenPromise'
}

/** One WebSocket, opened again whenever it is needed. */
export function openSubscriber(url: () => string): Subscriber {
  const client: Client = createClient({
    url: () => url().replace('http:', 'ws:'),
    webSocketImpl: WebSocket,
    retryAttempts: 0,
    lazy: true,
    connectionAckWaitTimeout: 5_000,
  })
  let resumed = 0

  /** One subscription; `false` where it broke off. */
  async function part(
    taskId: string,
    seen: SeenEvent[],
    after: number,
    signal: AbortSignal,
    onEvents: (events: readonly SeenEvent[]) => void,
  ): Promise<boolean> {
    const variables = { id: taskId, after: seen.at(-1)?.seq ?? after }
    const results = client.iterate<EventBatch>({ query: EVENTS_SUBSCRIPTION, variables })
    const leave = () => void results.return?.()
    signal.addEventListener('abort', leave)
    try {
      for await (const { data, errors } of results) {
        const [error] = errors ?? []
        const code = error?.extensions?.['code']
        if (error !== undefined && typeof code === 'string' && BROKEN_PROMISES.has(code))
          throw new BrokenPromise(`${code} after ${variables.after}: ${error.message}`)
        if (data == null) return false
        seen.push(...data.taskEvents.events)
        onEvents(data.taskEvents.events)
      }
      return !signal.aborted
    } catch (error) {
      if (error instanceof BrokenPromise) throw error
      return false
    } finally {
      signal.removeEventListener('abort', leave)
    }
  }

  return {
    async follow(taskId, { after, signal, onEvents = () => undefined }) {
      const seen: SeenEvent[] = []
      for (let waitMs = FIRST_RETRY_MS; ; waitMs = Math.min(2 * waitMs, LAST_RETRY_MS)) {
        const before = seen.length
        if (await part(taskId, seen, after, signal, onEvents)) return seen
        signal.throwIfAborted()
        if (seen.length > before) waitMs = FIRST_RETRY_MS
        resumed++
        await delay(waitMs, undefined, { signal })
      }
    },
    get resumed() {
      return resumed
    },
    async [Symbol.asyncDispose]() {
      await client.dispose()
    },
  }
}
