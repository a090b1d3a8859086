import type { IncomingMessage } from 'node:http'
import type { FastifyRequest } from 'fastify'
import type { Caller, Origin } from '../access/authenticator.ts'

/** Who an authenticated request is from. @throws TypeError for one that nobody has asked for its key, which is a bug. */
export function callerOf({ caller }: FastifyRequest): Caller {
  if (caller === null) throw new TypeError('A request came around the authentication.')
  return caller
}

/** Where a request, or a WebSocket's, comes from; `isLocalSocket`: over the service's own socket in the file system. */
export function originOf({ socket, headers, httpVersion }: IncomingMessage, isLocalSocket: boolean): Origin {
  // A connection that has broken off has no address any more, and is nobody's.
  return { address: isLocalSocket ? null : (socket.remoteAddress ?? 'unknown'), headers, httpVersion }
}
