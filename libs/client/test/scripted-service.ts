import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { WebSocketServer } from 'ws'

/** What a service says to one subscription; it is told what was asked for. */
export interface Call {
  /** Counts the subscriptions of all connections, from 1. */
  readonly n: number
  readonly variables: Readonly<Record<string, unknown>>
  /** Sends a batch of a task's events with these `seq`s. */
  readonly events: (seqs: readonly number[]) => void
  /** Sends the last event of a task. */
  readonly final: (seq: number) => void
  readonly result: (payload: object) => void
  readonly error: (code: string, extensions?: object) => void
  readonly complete: () => void
  /** Closes the connection. */
  readonly close: (code: number) => void
}

/** A service that does what a test says: real connections, and answers that no sound service gives. */
export interface ScriptedService extends AsyncDisposable {
  readonly url: string
  /** What came as `connection_init`, of each connection that was let in. */
  readonly introductions: readonly unknown[]
  readonly requests: readonly { readonly headers: IncomingHttpHeaders; readonly body: unknown }[]
  /** When each subscription came, in milliseconds. */
  readonly calls: readonly number[]
}

export interface Script {
  readonly subscribe?: (call: Call) => void
  /** Status and body of each answer to a request; `null`: the connection is broken. */
  readonly request?: (n: number) => readonly [status: number, body: unknown] | null
  /** With which HTTP status WebSockets are refused. */
  readonly refuseSockets?: number
}

export async function startScriptedService(script: Script): Promise<ScriptedService> {
  const introductions: unknown[] = []
  const requests: { headers: IncomingHttpHeaders; body: unknown }[] = []
  const calls: number[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      requests.push({ headers: request.headers, body: JSON.parse(Buffer.concat(chunks).toString()) })
      const answer = script.request?.(requests.length) ?? null
      if (answer === null) {
        request.socket.resetAndDestroy()
        return
      }
      const [status, body] = answer
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    })
  })
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'graphql-transport-ws' })
  server.on('upgrade', (request, socket, head) => {
    if (script.refuseSockets !== undefined) {
      socket.end(`HTTP/1.1 ${script.refuseSockets} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
      return
    }
    sockets.handleUpgrade(request, socket, head, (client) => {
      const send = (message: object): void => {
        client.send(JSON.stringify(message))
      }
      client.on('message', (data: Buffer) => {
        const message = JSON.parse(data.toString()) as {
          readonly type: string
          readonly id: string
          readonly payload?: { readonly variables: Record<string, unknown> }
        }
        if (message.type === 'ping') send({ type: 'pong' })
        if (message.type === 'connection_init') {
          introductions.push(message.payload)
          send({ type: 'connection_ack' })
        }
        if (message.type !== 'subscribe') return
        calls.push(performance.now())
        const { id } = message
        const result = (payload: object): void => {
          send({ id, type: 'next', payload })
        }
        const batch = (events: readonly { readonly seq: number }[]): void => {
          result({ data: { taskEvents: { events, lastSeq: events.at(-1)?.seq } } })
        }
        script.subscribe?.({
          n: calls.length,
          variables: message.payload?.variables ?? {},
          events: (seqs) => {
            batch(seqs.map((seq) => ({ __typename: 'ConnectionEvent', seq, attempt: 1 })))
          },
          final: (seq) => {
            const event = { __typename: 'TaskStatusEvent', seq, attempt: 1, taskStatus: 'COMPLETED' }
            batch([event])
          },
          result,
          error: (code, extensions = {}) => {
            send({ id, type: 'error', payload: [{ message: 'no', extensions: { code, ...extensions } }] })
          },
          complete: () => {
            send({ id, type: 'complete' })
          },
          close: (code) => {
            client.close(code, 'as the test says')
          },
        })
      })
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  return {
    url: `http://127.0.0.1:${port}/graphql`,
    introductions,
    requests,
    calls,
    async [Symbol.asyncDispose]() {
      for (const client of sockets.clients) client.terminate()
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}
