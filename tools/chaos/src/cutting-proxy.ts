import { once } from 'node:events'
import { connect, createServer, type ListenOptions, type NetConnectOpts, type Socket } from 'node:net'

/** A network that fails: it stands between two parties, and cuts or stalls what goes through. */
export interface CuttingProxy extends AsyncDisposable {
  /** Where it listens, for TCP. */
  readonly port: number
  /** Breaks every connection that is open now. */
  cut(): void
  /** From now on (or no more) nothing gets through: connections stay open and say nothing, new ones are taken and not answered. */
  stall(stalled: boolean): void
  /** How many connections were broken. */
  readonly broken: number
}

/** @param target Where connections are passed on to at the moment; `null`: nobody is there, they are closed. */
export async function openCuttingProxy(
  listen: ListenOptions,
  target: () => NetConnectOpts | null,
): Promise<CuttingProxy> {
  const links = new Set<readonly [Socket, Socket]>()
  const waiting = new Set<Socket>()
  let stalled = false
  let broken = 0

  function join(client: Socket): void {
    waiting.delete(client)
    const address = target()
    if (address === null || client.destroyed) {
      client.destroy()
      return
    }
    const server = connect({ ...address, allowHalfOpen: true })
    server.on('error', () => undefined)
    const link = [client, server] as const
    links.add(link)
    client.pipe(server)
    server.pipe(client)
    for (const socket of link) {
      socket.once('close', () => {
        links.delete(link)
        for (const other of link) other.destroy()
      })
    }
  }

  const proxy = createServer({ allowHalfOpen: true }, (client) => {
    client.on('error', () => undefined)
    if (stalled) {
      waiting.add(client)
      client.once('close', () => waiting.delete(client))
    } else join(client)
  })
  proxy.listen(listen)
  await once(proxy, 'listening')
  const address = proxy.address()

  function cut(): void {
    for (const link of links) {
      broken++
      for (const socket of link) socket.destroy()
    }
    for (const socket of waiting) socket.destroy()
  }

  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    cut,
    stall(now) {
      if (stalled === now) return
      stalled = now
      for (const [client, server] of links) {
        if (stalled) {
          client.unpipe(server)
          server.unpipe(client)
          client.pause()
          server.pause()
        } else {
          client.pipe(server)
          server.pipe(client)
        }
      }
      if (!stalled) for (const client of waiting) join(client)
    },
    get broken() {
      return broken
    },
    async [Symbol.asyncDispose]() {
      proxy.close()
      cut()
      await once(proxy, 'close')
    },
  }
}
