import type { Server } from 'node:http'
import type { Socket } from 'node:net'

/**
 * Watches a server's connections; gives the function that cuts those on which nothing is being answered. Node.js has one of its own that
 * leaves connections on which nothing was ever asked, as browsers and pools open them. Connections that come later are cut at once.
 */
export function watchIdleConnections(server: Server): () => void {
  const idle = new Set<Socket>()
  let cutting = false
  server.on('connection', (socket) => {
    if (cutting) {
      socket.destroy()
      return
    }
    idle.add(socket)
    socket.once('close', () => idle.delete(socket))
  })
  server.on('request', ({ socket }, response) => {
    idle.delete(socket)
    response.once('close', () => {
      if (!socket.destroyed) idle.add(socket)
    })
  })
  server.on('upgrade', ({ socket }) => {
    idle.delete(socket)
  })
  return () => {
    cutting = true
    for (const socket of idle) socket.destroy()
  }
}
