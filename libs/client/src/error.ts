import { CloseCode } from 'graphql-ws/client'

/** What the client says itself. */
export type ClientCode =
  /** Nobody answers at the address, or not in time. */
  | 'UNREACHABLE'
  /** The connection was there and broke. */
  | 'DISCONNECTED'
  /** The service asks to come back later. */
  | 'UNAVAILABLE'
  /** It does not know who asks. */
  | 'UNAUTHENTICATED'
  /** It knows, and does not serve them. */
  | 'FORBIDDEN'
  /** It does not understand this client. */
  | 'REJECTED'
  /** What answers does not speak the protocol. */
  | 'BAD_RESPONSE'
  /** Events are missing between two that came. */
  | 'HOLE'
  /** The client was closed. */
  | 'CLOSED'

/** The service's own codes that tell of a passing state, not of the request. */
const PASSING_CODES = ['INTERNAL_SERVER_ERROR', 'TOO_MANY_OPERATIONS', 'RATE_LIMITED', 'DATABASE_UNAVAILABLE']

/** Why something could not be had. */
export class GpuClientError extends Error {
  override readonly name = 'GpuClientError'
  /** One of `ClientCode`, or one that the service gives: `NOT_FOUND`, `BAD_CURSOR`, `BAD_USER_INPUT`, `GRAPHQL_VALIDATION_FAILED`, … */
  readonly code: string
  /** The same may work later; else asking again gives the same. */
  readonly isPassing: boolean
  /** The service asks not to come back before so many milliseconds; 0: it does not say. */
  readonly retryAfterMs: number

  constructor(
    code: string,
    message: string,
    options: { readonly isPassing: boolean; readonly retryAfterMs?: number; readonly cause?: unknown },
  ) {
    super(message, { cause: options.cause })
    this.code = code
    this.isPassing = options.isPassing
    this.retryAfterMs = options.retryAfterMs ?? 0
  }
}

export function passing(code: ClientCode, message: string, cause?: unknown): GpuClientError {
  return new GpuClientError(code, message, { isPassing: true, cause })
}

export function lasting(code: ClientCode, message: string, cause?: unknown): GpuClientError {
  return new GpuClientError(code, message, { isPassing: false, cause })
}

/** An error as GraphQL gives it. */
export interface GraphqlError {
  readonly message: string
  readonly extensions?: { readonly code?: unknown; readonly retryAfterSeconds?: unknown } | undefined
}

/** The first of an answer's errors decides; all of them are the `cause`. */
export function graphqlError(errors: readonly GraphqlError[]): GpuClientError {
  const [first] = errors
  const { code, retryAfterSeconds } = first?.extensions ?? {}
  if (first === undefined || typeof code !== 'string') {
    return lasting(
      'BAD_RESPONSE',
      first?.message ?? 'The service answered with an empty list of errors.',
      errors,
    )
  }
  const isPassing = PASSING_CODES.includes(code)
  const retryAfterMs = typeof retryAfterSeconds === 'number' ? retryAfterSeconds * 1_000 : 0
  return new GpuClientError(code, first.message, { isPassing, retryAfterMs, cause: errors })
}

/** Going away, service restart, try again later, too many introductions. */
const LATER: readonly number[] = [1001, 1012, 1013, CloseCode.TooManyInitialisationRequests]
/** The last one: a message that is too big. */
const NOT_UNDERSTOOD: readonly number[] = [CloseCode.BadRequest, CloseCode.SubprotocolNotAcceptable, 1009]
const UNAUTHENTICATED: number = CloseCode.Unauthorized
const FORBIDDEN: number = CloseCode.Forbidden

/** Why a WebSocket was closed. */
export function closeError(code: number, reason: string, cause?: unknown): GpuClientError {
  const told = `The connection was closed with ${code}${reason === '' ? '' : `: ${reason}`}.`
  if (code === UNAUTHENTICATED) return lasting('UNAUTHENTICATED', told, cause)
  if (code === FORBIDDEN) return lasting('FORBIDDEN', told, cause)
  if (NOT_UNDERSTOOD.includes(code)) return lasting('REJECTED', told, cause)
  return passing(LATER.includes(code) ? 'UNAVAILABLE' : 'DISCONNECTED', told, cause)
}

/** Why an HTTP answer has no GraphQL in it. */
export function statusError(status: number): GpuClientError {
  const told = `The service answered with HTTP status ${status}.`
  switch (status) {
    case 401:
      return lasting('UNAUTHENTICATED', told)
    case 403:
      return lasting('FORBIDDEN', told)
    case 429:
    case 502:
    case 503:
    case 504:
      return passing('UNAVAILABLE', told)
    default:
      return lasting('BAD_RESPONSE', told)
  }
}
