import type { IncomingMessage, ServerResponse } from 'node:http'
import { UploadError } from '../uploads.ts'

/** Of a body that comes more slowly than so many bytes in `stallMs`, nothing more is expected. */
const MIN_BYTES = 16 * 1024

/**
 * A request's body, piece by piece, as fast as it is taken. However it is left, the connection stays as it is, so that an answer can be given.
 * @throws UploadError UPLOAD_STALLED where next to nothing comes for `stallMs`, UPLOAD_CUT, or, when `signal` fires, UNAUTHENTICATED.
 */
export async function* bodyOf(
  request: IncomingMessage,
  { stallMs, signal }: { readonly stallMs: number; readonly signal: AbortSignal },
): AsyncGenerator<Buffer, void> {
  let wake = (): void => undefined
  const woken = (): void => {
    wake()
  }
  const pace = { came: 0, isWaiting: false, isStalled: false }
  const timer = setInterval(() => {
    // Whoever takes the pieces may be slow itself.
    if (pace.isWaiting && pace.came < MIN_BYTES) pace.isStalled = true
    pace.came = 0
    wake()
  }, stallMs)
  for (const event of EVENTS) request.on(event, woken)
  signal.addEventListener('abort', woken)
  try {
    for (;;) {
      if (signal.aborted) throw new UploadError('UNAUTHENTICATED', 'The key is not valid any more.')
      if (pace.isStalled)
        throw new UploadError('UPLOAD_STALLED', `Nearly nothing came for ${stallMs / 1_000} s.`)
      const chunk = request.read() as Buffer | null
      if (chunk !== null) {
        pace.came += chunk.length
        yield chunk
      } else if (request.readableEnded) return
      else if (request.destroyed) throw new UploadError('UPLOAD_CUT', 'The client has hung up.')
      else {
        pace.isWaiting = true
        await new Promise<void>((resolve) => (wake = resolve))
        pace.isWaiting = false
      }
    }
  } finally {
    clearInterval(timer)
    for (const event of EVENTS) request.off(event, woken)
    signal.removeEventListener('abort', woken)
  }
}

const EVENTS = ['readable', 'end', 'close', 'error'] as const

/**
 * Takes what still comes of a body that is of no use, until it is over or `ms` have passed: a client that is in the middle of sending would
 * otherwise be reset before it has read its answer.
 */
export function discardBody(request: IncomingMessage, ms: number): Promise<void> {
  return new Promise((resolve) => {
    if (request.readableEnded || request.destroyed) {
      resolve()
      return
    }
    const timer = setTimeout(resolve, ms)
    request.once('close', () => {
      clearTimeout(timer)
      resolve()
    })
    request.once('end', resolve)
    request.on('error', () => undefined)
    request.resume()
  })
}

/** Cuts the connection off where the request's body is not there in time; Node.js has one limit for all requests. */
export function limitBody(request: IncomingMessage, response: ServerResponse, ms: number): void {
  const { 'content-length': length, 'transfer-encoding': encoding } = request.headers
  if (length === undefined && encoding === undefined) return
  const timer = setTimeout(() => {
    if (request.complete) return
    const { socket } = request
    if (!response.headersSent) socket.write('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n')
    socket.destroySoon()
  }, ms)
  request.once('close', () => {
    clearTimeout(timer)
  })
}
