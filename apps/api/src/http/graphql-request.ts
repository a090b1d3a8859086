import type { FastifyReply, FastifyRequest } from 'fastify'
import type { GraphQLFormattedError } from 'graphql'
import type { GateRequest } from '../graphql/gate.ts'

/** The operation that a request asks for: from the JSON of a POST or the search parameters of a GET. A text says what is wrong with it. */
export function parseGraphqlRequest({ method, body, url }: FastifyRequest): GateRequest | string {
  if (method === 'GET') return parseSearch(new URLSearchParams(url.split('?', 2)[1]))
  if (Array.isArray(body)) return 'Operations cannot be sent in batches.'
  if (!isRecord(body)) return 'The body must be a JSON object.'
  return parseFields(body)
}

/** Answers a request in the form of a GraphQL response that has nothing but errors. */
export function sendErrors(
  reply: FastifyReply,
  status: number,
  errors: readonly GraphQLFormattedError[],
): FastifyReply {
  const type = 'application/graphql-response+json'
  const accepted = reply.request.headers.accept?.includes(type) ? type : 'application/json'
  return reply.code(status).type(`${accepted}; charset=utf-8`).send(JSON.stringify({ errors }))
}

function parseSearch(search: URLSearchParams): GateRequest | string {
  for (const name of ['query', 'operationName', 'variables', 'extensions']) {
    if (search.getAll(name).length > 1) return `${name} may be given once only.`
  }
  try {
    return parseFields({
      query: search.get('query'),
      operationName: search.get('operationName'),
      variables: JSON.parse(search.get('variables') ?? 'null') as unknown,
    })
  } catch {
    return 'variables must be JSON.'
  }
}

function parseFields({
  query,
  operationName,
  variables,
}: Readonly<Record<string, unknown>>): GateRequest | string {
  if (typeof query !== 'string' || query === '') return 'query must be a text that is not empty.'
  if (typeof operationName !== 'string' && operationName != null) return 'operationName must be a text.'
  if (!isRecord(variables) && variables != null) return 'variables must be an object.'
  return { query, operationName, variables }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
