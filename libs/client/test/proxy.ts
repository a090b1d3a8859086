import { once } from 'node:events'
import { createServer, connect, type AddressInfo, type Socket } from 'node:net'

/** How a connection ends before its time. */
export type Cut =
  /** Closed in an orderly way, in the middle of what was being said. */
  | 'fin'
  /** Reset. */
  | 'rst'
  /** Neither side hears of the other any more, and neither is told. */
  | 'stall'
  /** Closed like `fin`, and no new connection is let in for a while. */
  | 'refuse'

export const CUTS = ['fin', 'rst', 'stall', 'refuse'] as const satisfies readonly Cut[]

/** A network that breaks: a TCP proxy before a service. */
export interface Proxy extends AsyncDisposable {
  readonly url: string
  /** What becomes of each new connection; `null`: it lives. */
  fate: () => Fate | null
  /** Cuts every connection that is open now. */
  cutAll(cut: Cut): void
  /** New connections are closed at once while this is set. */
  isShut: boolean
  /** How many connections were cut. */
  readonly cuts: number
  /** Connections that are open and pass on what comes. */
  readonly open: number
  /** How many bytes have gone to clients. */
  readonly bytes: number
}

export interface Fate {
  readonly cut: Cut
  /** How many bytes from the service get through before. */
  readonly afterBytes: number
  /** How long each piece is held back, in milliseconds. */
  readonly delayMs: number
}

const REFUSAL_MS = 80

export async function openProxy(service: { readonly url: string }): Promise<Proxy> {
  const target = new URL(service.url)
  /** By the client's end; the function cuts it. */
  const open = new Map<Socket, (cut: Cut) => void>()
  const sockets = new Set<Socket>()
  const timers = new Set<ReturnType<typeof setTimeout>>()
  let cuts = 0
  let bytes = 0

  function keep(socket: Socket): void {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('close', () => sockets.delete(socket))
  }

  function later(ms: number, run: () => void): void {
    const timer = setTimeout(() => {
      timers.delete(timer)
      run()
    }, ms)
    timers.add(timer)
  }

  const server = createServer((client) => {
    keep(client)
    if (proxy.isShut) {
      client.resetAndDestroy()
      return
    }
    const upstream = connect(Number(target.port), target.hostname)
    keep(upstream)
    const fate = proxy.fate()
    let left = fate?.afterBytes ?? Number.POSITIVE_INFINITY

    function cut(how: Cut): void {
      if (!open.delete(client)) return
      cuts++
      switch (how) {
        case 'refuse':
          proxy.isShut = true
          later(REFUSAL_MS, () => (proxy.isShut = false))
          client.end()
          upstream.destroy()
          return
        case 'fin':
          client.end()
          upstream.destroy()
          return
        case 'rst':
          client.resetAndDestroy()
          upstream.resetAndDestroy()
          return
        case 'stall':
          // Both are read on, and what they say goes nowhere.
          return
      }
    }
    open.set(client, cut)

    client.on('data', (data) => {
      if (open.has(client)) upstream.write(data)
    })
    upstream.on('data', (data) => {
      if (!open.has(client)) return
      const piece = data.subarray(0, left)
      left -= piece.length
      bytes += piece.length
      const passOn = (): void => {
        if (!open.has(client)) return
        if (!client.write(piece)) {
          upstream.pause()
          client.once('drain', () => upstream.resume())
        }
        if (fate !== null && left === 0) cut(fate.cut)
      }
      if (fate === null || fate.delayMs === 0) passOn()
      else later(fate.delayMs, passOn)
    })
    const end = (other: Socket) => () => {
      if (open.delete(client)) other.destroy()
    }
    client.once('close', end(upstream))
    upstream.once('close', end(client))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo

  const proxy: Proxy = {
    url: `http://127.0.0.1:${port}/graphql`,
    fate: () => null,
    cutAll(how) {
      for (const cut of [...open.values()]) cut(how)
    },
    isShut: false,
    get cuts() {
      return cuts
    },
    get open() {
      return open.size
    },
    get bytes() {
      return bytes
    },
    async [Symbol.asyncDispose]() {
      for (const timer of timers) clearTimeout(timer)
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
  return proxy
}
