import {
  createSourceEventStream,
  execute,
  type ExecutionArgs,
  type ExecutionResult,
  type GraphQLSchema,
  Kind,
  OperationTypeNode,
} from 'graphql'
import type { FormatError } from './errors.ts'
import type { Admitted } from './gate.ts'
import { createResultMemo } from './result-memo.ts'

/** What a context may be made from. */
export interface ContextRequest {
  /** Fires when nobody waits for the answer any more. */
  readonly signal: AbortSignal
  /** Of the client; `null`: it has hung up already. */
  readonly address: string | null
}

/**
 * The results of one operation, each as the JSON text of a GraphQL response: one of a query or mutation, many of a subscription. The next
 * one is made only when it is asked for. `return()` ends it at once, also while a `next()` waits.
 */
export interface Results extends AsyncIterableIterator<string, undefined> {
  return(): Promise<IteratorResult<string, undefined>>
}

/** Runs admitted operations on behalf of the streaming transports. */
export interface Operations {
  run(
    admitted: Admitted,
    variables: Readonly<Record<string, unknown>> | null | undefined,
    address: string | null,
  ): Results
}

export interface OperationsOptions {
  readonly schema: GraphQLSchema
  readonly createContext: (request: ContextRequest) => unknown
  readonly formatError: FormatError
  /**
   * Fields of Subscription whose results depend on the value that their source gives and on nothing else: neither on the time nor on who
   * asks. Subscribers that get the same object there, with the same operation, share one execution and one text.
   */
  readonly sharedSubscriptions: ReadonlySet<string>
}

export function createOperations(options: OperationsOptions): Operations {
  const { schema, createContext, formatError, sharedSubscriptions } = options
  const memo = createResultMemo()
  /** How many subscriptions are open under each share key: one alone has nobody to remember results for. */
  const sharers = new Map<string, number>()

  async function executed(args: ExecutionArgs): Promise<string> {
    return textOf(await execute(args))
  }

  function textOf({ data, errors }: ExecutionResult): string {
    return JSON.stringify({
      ...(errors !== undefined && { errors: errors.map(formatError) }),
      ...(data !== undefined && { data }),
    })
  }

  function leave(shared: string): void {
    const left = (sharers.get(shared) ?? 1) - 1
    if (left === 0) sharers.delete(shared)
    else sharers.set(shared, left)
  }

  return {
    run({ document, operation, shareKey }, variables, address) {
      const ended = new AbortController()
      const call = (signal: AbortSignal): ExecutionArgs => ({
        schema,
        document,
        operationName: operation.name?.value,
        variableValues: variables,
        contextValue: createContext({ signal, address }),
      })
      if (operation.operation !== OperationTypeNode.SUBSCRIPTION) {
        return results(ended, () => one(() => executed(call(ended.signal))))
      }
      const [root] = operation.selectionSet.selections
      const isShared = root?.kind === Kind.FIELD && sharedSubscriptions.has(root.name.value)
      const shared = isShared ? shareKey : null

      return results(ended, async () => {
        const source = await createSourceEventStream(call(ended.signal))
        if (!(Symbol.asyncIterator in source)) return one(() => Promise.resolve(textOf(source)))
        const payloads: AsyncIterator<unknown> = source[Symbol.asyncIterator]()
        if (shared !== null) sharers.set(shared, (sharers.get(shared) ?? 0) + 1)
        return {
          async next() {
            const payload = await payloads.next()
            if (payload.done) return DONE
            // Each value is read with a context of its own, and a shared one must not end with whoever came first.
            const isAlone = shared === null || sharers.get(shared) === 1
            const make = (): Promise<string> => {
              const { signal } = isAlone ? ended : new AbortController()
              return executed({ ...call(signal), rootValue: payload.value })
            }
            const text = isAlone ? make() : memo.text(payload.value, shared, make)
            return { done: false, value: await text }
          },
          end() {
            if (shared !== null) leave(shared)
            return payloads.return?.()
          },
        }
      })
    },
  }
}

const DONE = { done: true, value: undefined } as const

interface Steps {
  next(): Promise<IteratorResult<string, undefined>>
  end(): unknown
}

function one(make: () => Promise<string>): Steps {
  let made = false
  return {
    async next() {
      if (made) return DONE
      made = true
      return { done: false, value: await make() }
    },
    end: () => undefined,
  }
}

/** Opens the steps with the first `next()`; ends them with the first `return()`, and then waits for nothing more. */
function results(ended: AbortController, open: () => Promise<Steps> | Steps): Results {
  let steps: Promise<Steps> | null = null
  let endWaiting: (() => void) | null = null

  async function take(): Promise<IteratorResult<string, undefined>> {
    // A source that cannot be opened is an error like one that breaks later.
    steps ??= Promise.resolve().then(open)
    const opened = await steps
    return ended.signal.aborted ? DONE : opened.next()
  }
  function close(): void {
    if (ended.signal.aborted) return
    ended.abort()
    // What a source says to its end is of no interest any more, neither when nor how.
    steps?.then((opened) => opened.end()).catch(() => undefined)
    endWaiting?.()
  }

  return {
    [Symbol.asyncIterator]() {
      return this
    },
    next() {
      if (ended.signal.aborted) return Promise.resolve(DONE)
      return new Promise((resolve, reject) => {
        endWaiting = () => {
          resolve(DONE)
        }
        take().then(
          (result) => {
            resolve(result)
            if (result.done) close()
          },
          (error: unknown) => {
            reject(error instanceof Error ? error : new Error('A source broke.', { cause: error }))
            close()
          },
        )
      })
    },
    return() {
      close()
      return Promise.resolve(DONE)
    },
  }
}
