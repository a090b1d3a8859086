import { Backoff } from './backoff.ts'
import { GpuClientError, graphqlError, type GraphqlError, passing, statusError } from './error.ts'
import type { Operation } from './operation.ts'
import type { Timing } from './timing.ts'

export interface RequestsOptions {
  readonly url: string
  readonly fetch: typeof fetch
  readonly headers: () => Promise<Record<string, string>>
  readonly timing: Timing
}

export interface RequestOptions {
  readonly signal?: AbortSignal | undefined
  /** Running it twice is no different from running it once, so that it can be tried again when no answer came. */
  readonly isRepeatable: boolean
}

/** Queries and mutations, over HTTP. */
export interface Requests {
  /**
   * Where nobody answers, what may be repeated is tried again a few times.
   * @throws GpuClientError; the signal's reason where it is aborted.
   */
  ask<R, V extends Record<string, unknown>>(
    operation: Operation<'query' | 'mutation', R, V>,
    variables: V,
    options: RequestOptions,
  ): Promise<R>
  /** Why nothing is served to this client at the address, for good; `null`: something is, or nobody answers. */
  readonly examine: () => Promise<GpuClientError | null>
}

interface Answer {
  readonly data?: unknown
  readonly errors?: readonly GraphqlError[]
}

export function createRequests(options: RequestsOptions): Requests {
  const { url, timing } = options

  async function askOnce(body: object, signal: AbortSignal | undefined): Promise<unknown> {
    const deadline = AbortSignal.timeout(timing.requestMs)
    const answer = await post(
      JSON.stringify(body),
      signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
    ).catch((error: unknown) => {
      signal?.throwIfAborted()
      throw passing('UNREACHABLE', `${url} could not be reached.`, error)
    })
    const parsed = parse(answer.text)
    if (parsed === null) throw statusError(answer.status)
    if (parsed.errors !== undefined) throw graphqlError(parsed.errors)
    return parsed.data
  }

  async function post(
    body: string,
    signal: AbortSignal,
  ): Promise<{ readonly status: number; readonly text: string }> {
    const headers = {
      ...(await options.headers()),
      'content-type': 'application/json',
      accept: 'application/json',
    }
    const response = await options.fetch(url, { method: 'POST', headers, body, signal })
    return { status: response.status, text: await response.text() }
  }

  return {
    async ask<R>(
      { text, name }: Operation<'query' | 'mutation', R, never>,
      variables: Record<string, unknown>,
      { signal, isRepeatable }: RequestOptions,
    ) {
      const backoff = new Backoff(timing)
      for (let left = timing.requestTries; ; left--) {
        try {
          // The service answers by its schema, for which the operation's types were made.
          return (await askOnce({ query: text, operationName: name, variables }, signal)) as R
        } catch (error) {
          if (!isRepeatable || left <= 1 || !(error instanceof GpuClientError) || !mayCome(error)) throw error
          backoff.failed(error)
          await backoff.wait(signal ?? NEVER)
        }
      }
    },
    async examine() {
      try {
        await askOnce({ query: '{ __typename }' }, undefined)
        return null
      } catch (error) {
        return error instanceof GpuClientError && isRefusal(error) ? error : null
      }
    },
  }
}

const NEVER = new AbortController().signal

const MAY_COME = ['UNREACHABLE', 'UNAVAILABLE', 'DATABASE_UNAVAILABLE', 'RATE_LIMITED']

/** No answer of the service, or none that says what became of the request: one may come. */
function mayCome({ code }: GpuClientError): boolean {
  return MAY_COME.includes(code)
}

function isRefusal({ code }: GpuClientError): boolean {
  return code === 'UNAUTHENTICATED' || code === 'FORBIDDEN'
}

/** `null`: it is no answer by GraphQL. */
function parse(text: string): Answer | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  if (typeof value !== 'object' || value === null) return null
  const { data, errors } = value as Answer
  if (Array.isArray(errors)) return { errors: errors as readonly GraphqlError[] }
  return data === undefined || data === null ? null : { data }
}
