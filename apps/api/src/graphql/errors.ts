import { randomUUID } from 'node:crypto'
import { GraphQLError, type GraphQLFormattedError } from 'graphql'
import type { LimitReached } from '../access/meters.ts'
import { isOutage, StoreError } from '@gpu-service/task-store'
import type { Logger } from '@gpu-service/tasks'

/** Why a request could not be served, for programs. An error with another code, or none, is a fault of the service and is not shown. */
const PUBLIC_CODES = [
  // The request is not one.
  'BAD_REQUEST',
  'GRAPHQL_PARSE_FAILED',
  'GRAPHQL_VALIDATION_FAILED',
  'OPERATION_RESOLUTION_FAILURE',
  'BAD_USER_INPUT',
  'PERSISTED_QUERY_NOT_SUPPORTED',
  // Who asks is not known, or may not ask this.
  'UNAUTHENTICATED',
  'FORBIDDEN',
  // The query gate.
  'QUERY_TOO_LARGE',
  'QUERY_TOO_COMPLEX',
  'TOO_MANY_OPERATIONS',
  // Who asks has asked for more than he may.
  'RATE_LIMITED',
  // The database takes nothing at the moment.
  'DATABASE_UNAVAILABLE',
  // Resolvers.
  'NOT_FOUND',
  'BAD_CURSOR',
  'HISTORY_REMOVED',
] as const
export type PublicCode = (typeof PUBLIC_CODES)[number]

/** When a client that was told DATABASE_UNAVAILABLE may ask again. */
const RETRY_AFTER_SECONDS = 5

/** An error that a client is meant to see. */
export function refusal(code: PublicCode, message: string): GraphQLError {
  return new GraphQLError(message, { extensions: { code } })
}

/** The refusal of whoever has reached a limit. */
export function limited({ message, limit, retryAfterSeconds }: LimitReached): GraphQLError {
  return new GraphQLError(message, { extensions: { code: 'RATE_LIMITED', limit, retryAfterSeconds } })
}

/** Turns whatever was thrown into what a client may see. The same for all transports. */
export type FormatError = (error: unknown) => GraphQLFormattedError

/**
 * Errors with a public code, and what the GraphQL library says about a request that does not fit the schema, pass. An outage of the
 * database is told as one. Anything else is unexpected: it is logged whole under an id, and the client gets INTERNAL_SERVER_ERROR with this id and nothing more.
 */
export function createErrorFormat(logger: Logger): FormatError {
  return (error) => {
    const located = error instanceof GraphQLError ? error : null
    const { locations, path } = located?.toJSON() ?? {}
    const place = { ...(locations !== undefined && { locations }), ...(path !== undefined && { path }) }
    const code = located === null ? null : publicCode(located)
    if (located !== null && code !== null) {
      const { limit, retryAfterSeconds } = located.extensions
      const comeBack = code === 'RATE_LIMITED' && { limit, retryAfterSeconds }
      return { message: located.message, ...place, extensions: { code, ...comeBack } }
    }
    const root = rootOf(error)
    if (root instanceof StoreError && root.code !== 'DATABASE_CORRUPT' && isOutage(root)) {
      logger.warn({ err: root, path: path?.join('.') }, 'An operation failed because of the database.')
      const message = `${root.message} Nothing was changed; it can be tried again.`
      const extensions = { code: 'DATABASE_UNAVAILABLE', retryAfterSeconds: RETRY_AFTER_SECONDS }
      return { message, ...place, extensions }
    }
    const errorId = randomUUID()
    logger.error({ err: root, errorId, path: path?.join('.') }, 'An operation failed unexpectedly.')
    const message = `Something went wrong in the service; its log has the details under ${errorId}.`
    return { message, ...place, extensions: { code: 'INTERNAL_SERVER_ERROR', errorId } }
  }
}

function publicCode(located: GraphQLError): PublicCode | null {
  const root = rootOf(located)
  // Not thrown as an answer: a bug, or a neighbour that failed.
  if (!(root instanceof GraphQLError)) return null
  const code = located.extensions['code'] ?? root.extensions['code']
  if (code !== undefined) return PUBLIC_CODES.find((known) => known === code) ?? null
  // The library's own errors have no code. Those without a path are about the request, and so are those that point at an argument; one
  // about a value that a resolver gave has a path but no place of its own.
  return located.path === undefined || root.nodes !== undefined ? 'BAD_USER_INPUT' : null
}

/** What was thrown, without the library's wrapping. */
function rootOf(error: unknown): unknown {
  let root = error
  while (root instanceof GraphQLError && root.originalError !== undefined) root = root.originalError
  return root
}
