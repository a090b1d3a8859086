import { once } from 'node:events'
import { connect, type NetConnectOpts, type Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type Dockerode from 'dockerode'
import { isRecord } from './container-info.ts'

const MAX_HEAD_BYTES = 64 * 1024
/** Bytes that come sooner than this after they are asked for are part of a flood. */
const FLOOD_MS = 1

/**
 * Where the engine is, if it can be talked to over a bare socket; `null`: over TLS or SSH only. docker-modem knows, but does not tell in its
 * types.
 */
export function bareAddress(docker: Dockerode): NetConnectOpts | null {
  const { modem }: { modem: object } = docker
  const host: unknown = Reflect.get(modem, 'host')
  if (typeof host !== 'string') {
    const path: unknown = Reflect.get(modem, 'socketPath')
    return typeof path === 'string' ? { path } : null
  }
  const port = Number(Reflect.get(modem, 'port'))
  const isPlain = Reflect.get(modem, 'protocol') === 'http' && !host.includes('/') && port > 0
  return isPlain ? { host, port } : null
}

/** What docker-modem adds to every request. */
function headersOf(docker: Dockerode): string {
  const { modem }: { modem: object } = docker
  const headers: unknown = Reflect.get(modem, 'headers')
  const lines = isRecord(headers)
    ? Object.entries(headers).map(([name, value]) => `${name}: ${String(value)}\r\n`)
    : []
  return lines.join('')
}

/**
 * Asks with HTTP/1.0, so that the answer comes without chunks: the engine makes a chunk of each log entry, and each costs a round through Node's
 * HTTP parser. Whether such an answer has ended too early cannot be told. Gives the status and a socket that holds the body.
 */
export async function askBare(
  docker: Dockerode,
  address: NetConnectOpts,
  path: string,
  signal: AbortSignal,
): Promise<{ status: number; body: Socket }> {
  // The kernel is asked only when bytes are wanted, so that it gathers them meanwhile. (Missing in the types of Node.)
  const options = { ...address, readableHighWaterMark: 1 }
  const body = connect(options)
  const onAbort = () => {
    body.destroy(new Error('aborted'))
  }
  const onEnd = () => {
    body.destroy(new Error('the connection was closed'))
  }
  signal.addEventListener('abort', onAbort)
  body.once('end', onEnd)
  // Whoever reads it is told; an error that comes while nobody does must not end the process.
  body.on('error', () => undefined)
  try {
    const version: unknown = Reflect.get(docker.modem, 'version')
    const prefix = typeof version === 'string' ? `/${version}` : ''
    body.write(`GET ${prefix}${path} HTTP/1.0\r\nHost: docker\r\n${headersOf(docker)}\r\n`)
    const head = await readHead(body)
    return { status: Number(/^HTTP\/1\.\d (\d{3})/.exec(head)?.[1] ?? 0), body }
  } catch (error) {
    body.destroy()
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
    body.off('end', onEnd)
  }
}

async function readHead(socket: Socket): Promise<string> {
  let read = Buffer.alloc(0)
  while (read.length < MAX_HEAD_BYTES) {
    const chunk: unknown = socket.read()
    if (!Buffer.isBuffer(chunk)) {
      if (socket.errored) throw socket.errored
      await once(socket, 'readable')
      continue
    }
    read = Buffer.concat([read, chunk])
    const end = read.indexOf('\r\n\r\n')
    if (end < 0) continue
    if (end + 4 < read.length) socket.unshift(read.subarray(end + 4))
    return read.toString('latin1', 0, end)
  }
  throw new Error('the answer has no end of its head')
}

/** The chunks of a stream; in a flood it is asked seldom, and gives much at once. A lone line is not held up. */
export async function* gathered(stream: Readable): AsyncGenerator<unknown, void, void> {
  let askedAt = performance.now()
  const chunks: AsyncIterable<unknown> = stream
  for await (const chunk of chunks) {
    const isFlood = performance.now() - askedAt < FLOOD_MS
    yield chunk
    if (isFlood) await sleep(FLOOD_MS)
    askedAt = performance.now()
  }
}
