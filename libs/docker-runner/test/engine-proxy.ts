import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** An answer that a test writes piece by piece. */
export interface HeldAnswer {
  /** The lines of the request before its body. */
  readonly head: string
  write(text: string): void
  end(): void
  /** Whether the other side has closed the connection. */
  readonly isClosed: boolean
}

/** What the proxy does with a connection, told by its first request line (`POST /containers/create?… HTTP/1.1`). */
export type Treatment =
  /** Passes it on in both directions. */
  | { readonly kind: 'pass' }
  /** Takes it and never answers. */
  | { readonly kind: 'swallow' }
  /** Closes it at once. */
  | { readonly kind: 'refuse' }
  /** Passes the request on, and closes the connection instead of giving the answer. */
  | { readonly kind: 'lose answer' }
  /** Passes everything on but the end of the answer. */
  | { readonly kind: 'hold end' }
  /** Gives an answer of the test's own, once `after` is over. */
  | {
      readonly kind: 'answer'
      readonly body: Buffer
      readonly status?: number
      readonly after?: Promise<unknown>
    }
  /** Begins an answer of the test's own, which it writes and ends as it likes. */
  | { readonly kind: 'hold'; readonly begun: (answer: HeldAnswer) => void }

/** An engine that can be away, hang and lie: a proxy on a Unix socket before the real one. */
export interface EngineProxy extends AsyncDisposable {
  readonly dockerHost: string
  /** How a new connection is treated from now on; the newest rule that gives something decides. */
  rule(treat: (requestLine: string) => Treatment | undefined): void
  /** Breaks every connection that is open now. */
  breakAll(): void
  /** The request lines so far. */
  readonly requests: readonly string[]
}

export async function openEngineProxy(engineSocket: string): Promise<EngineProxy> {
  const folder = await mkdtemp(join(tmpdir(), 'engine-proxy-'))
  const path = join(folder, 'docker.sock')
  const sockets = new Set<Socket>()
  const rules: ((requestLine: string) => Treatment | undefined)[] = []
  const requests: string[] = []

  function keep(socket: Socket): void {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('close', () => sockets.delete(socket))
  }

  const server = createServer({ allowHalfOpen: true }, (client) => {
    keep(client)
    client.once('data', (first) => {
      const requestLine = first.toString('latin1').split('\r\n', 1)[0] ?? ''
      requests.push(requestLine)
      const treatment = rules.reduce<Treatment>((found, rule) => rule(requestLine) ?? found, { kind: 'pass' })
      if (treatment.kind === 'swallow') return
      if (treatment.kind === 'refuse') {
        client.destroy()
        return
      }
      if (treatment.kind === 'answer') {
        const { body, status = 200, after } = treatment
        const head = `HTTP/1.1 ${status} Test\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n`
        void Promise.resolve(after).then(() => client.end(Buffer.concat([Buffer.from(head), body])))
        return
      }
      if (treatment.kind === 'hold') {
        const [head = ''] = first.toString('latin1').split('\r\n\r\n', 1)
        client.once('end', () => client.destroy())
        client.write('HTTP/1.1 200 Test\r\nConnection: close\r\n\r\n')
        treatment.begun({
          head,
          write: (text) => void client.write(text),
          end: () => void client.end(),
          get isClosed() {
            return client.destroyed
          },
        })
        return
      }
      const engine = connect({ path: engineSocket, allowHalfOpen: true })
      keep(engine)
      engine.write(first)
      client.pipe(engine)
      client.once('close', () => engine.destroy())
      if (treatment.kind === 'lose answer') engine.once('data', () => client.destroy())
      else engine.pipe(client, { end: treatment.kind === 'pass' })
      if (treatment.kind === 'pass') engine.once('close', () => client.destroy())
    })
  })
  server.listen(path)
  await once(server, 'listening')

  return {
    dockerHost: `unix://${path}`,
    rule: (treat) => {
      rules.push(treat)
    },
    breakAll() {
      for (const socket of sockets) socket.destroy()
    },
    requests,
    async [Symbol.asyncDispose]() {
      server.close()
      for (const socket of sockets) socket.destroy()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
