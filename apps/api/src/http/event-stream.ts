import type { ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { OperationTypeNode } from 'graphql'
import { type FormatError, limited, refusal } from '../graphql/errors.ts'
import type { Admit, GateRequest } from '../graphql/gate.ts'
import type { Operations, Results } from '../graphql/operations.ts'
import type { Caller } from '../access/authenticator.ts'
import { callerOf } from './caller.ts'
import { parseGraphqlRequest, sendErrors } from './graphql-request.ts'

export interface EventStreamOptions {
  readonly admit: Admit<Caller>
  readonly operations: Operations
  readonly formatError: FormatError
  /** The most streams at a time. */
  readonly maxStreams: number
  /** How often a comment is sent, so that idle streams are not cut; a client that takes nothing from one to the next is cut off. */
  readonly keepAliveMs: number
}

export interface EventStreams {
  /** Ends all streams, without a `complete`: their clients are to come back. */
  close(): void
}

interface Admitted {
  readonly run: () => Results
  /** What it takes until it has ended. */
  readonly place: Disposable | null
}

/**
 * Serves operations as server-sent events at `/graphql/stream`: one operation per request, its results as `next` events, then `complete`
 * (the "distinct connections" mode of the graphql-sse protocol). A client that reads slowly is waited for: no result is made for it while
 * the last one is not on its way.
 */
export function serveEventStreams(app: FastifyInstance, options: EventStreamOptions): EventStreams {
  const { admit, operations, formatError, maxStreams, keepAliveMs } = options
  const streams = new Set<ServerResponse>()

  app.route({ method: ['GET', 'POST'], url: '/graphql/stream', handler: serve })

  function serve(request: FastifyRequest, reply: FastifyReply): FastifyReply {
    // Exact, as the protocol has it: what a form, an image or a link asks for is something else.
    if (request.headers.accept !== 'text/event-stream') {
      return refuse(reply, 406, 'The Accept header must be text/event-stream.')
    }
    const parsed = parseGraphqlRequest(request)
    if (typeof parsed === 'string') return refuse(reply, 400, parsed)
    if (streams.size >= maxStreams) return refuse(reply, 503, 'There are too many streams.')
    reply.hijack()
    const response = reply.raw
    for (const [name, value] of Object.entries(reply.getHeaders())) {
      if (value !== undefined) response.setHeader(name, value)
    }
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', connection: 'close' })
    // Some browsers take the response for open only when something has come.
    response.write(COMMENT)
    const caller = callerOf(request)
    const results = resultsOf(parsed, request.method, caller)
    if ('refused' in results) response.end(nextEvent(errorText(results.refused)) + COMPLETE_EVENT)
    else {
      response.once('close', () => {
        results.place?.[Symbol.dispose]()
      })
      void send(response, results.run(), caller)
    }
    return reply
  }

  /** What is refused is told on the stream too: a browser's EventSource can read nothing else. */
  function resultsOf(
    parsed: GateRequest,
    method: string,
    caller: Caller,
  ): Admitted | { readonly refused: readonly unknown[] } {
    const admission = admit(parsed, caller)
    if (admission.status === 'refused') return { refused: admission.errors }
    if (method === 'GET' && admission.operation.operation === OperationTypeNode.MUTATION) {
      return { refused: [refusal('BAD_REQUEST', 'A mutation needs a POST.')] }
    }
    const isSubscription = admission.operation.operation === OperationTypeNode.SUBSCRIPTION
    const place = isSubscription ? caller.meter.open('subscriptions') : null
    if (place !== null && 'limit' in place) return { refused: [limited(place)] }
    return { place, run: () => operations.run(admission, parsed.variables, caller) }
  }

  async function send(response: ServerResponse, results: Results, caller: Caller): Promise<void> {
    const hold = caller.hold()
    hold.ended.addEventListener('abort', () => {
      if (!isOver(response))
        response.end(nextEvent(errorText([refusal('UNAUTHENTICATED', OVER)])) + COMPLETE_EVENT)
    })
    let taken = -1
    const keepAlive = setInterval(() => {
      const { socket } = response
      if (socket === null) return
      const before = taken
      taken = socket.bytesWritten - socket.writableLength
      if (socket.writableLength === 0 && !response.writableEnded) response.write(COMMENT)
      else if (taken === before) response.destroy()
    }, keepAliveMs)
    response.once('close', () => {
      streams.delete(response)
      clearInterval(keepAlive)
      hold[Symbol.dispose]()
      void results.return()
    })
    streams.add(response)
    try {
      for await (const text of results) {
        if (isOver(response)) return
        if (!response.write(nextEvent(text))) await drained(response)
      }
      if (!isOver(response)) response.end(COMPLETE_EVENT)
    } catch (error) {
      const last = nextEvent(errorText([error])) + COMPLETE_EVENT
      if (!isOver(response)) response.end(last)
    }
  }

  function errorText(errors: readonly unknown[]): string {
    return JSON.stringify({ errors: errors.map(formatError) })
  }
  function refuse(reply: FastifyReply, status: number, message: string): FastifyReply {
    return sendErrors(reply, status, [formatError(refusal('BAD_REQUEST', message))])
  }

  return {
    close() {
      for (const response of streams) response.end()
    },
  }
}

const OVER = 'The API key or token is not valid any more.'
const COMMENT = ':\n\n'
const COMPLETE_EVENT = 'event: complete\ndata: \n\n'

/** JSON has no line breaks outside of texts, where they are escaped. */
function nextEvent(text: string): string {
  return `event: next\ndata: ${text}\n\n`
}

/** The client has gone, or the server has ended the stream. */
function isOver(response: ServerResponse): boolean {
  return response.destroyed || response.writableEnded
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.once('drain', done).once('close', done)
  })
}
