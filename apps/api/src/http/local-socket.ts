import { rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** The system's limit for the path of a socket, with its ending zero. */
const MAX_PATH_BYTES = 107

/** Serves the same over a socket in the file system, to those who may open it. */
export interface LocalSocket extends AsyncDisposable {
  /** Whether a connection came that way. */
  owns(socket: Socket): boolean
}

/**
 * Serves the app at the path too, which only the user of the process can open: who can, could also write to the database. One that another
 * process has left there is replaced. `null`: the path is too long for a socket.
 */
export async function serveLocally(app: FastifyInstance, path: string): Promise<LocalSocket | null> {
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) return null
  const own = new WeakSet<Socket>()
  const server = createServer((request, response) => {
    app.routing(request, response)
  })
  server.on('connection', (socket) => own.add(socket))
  await rm(path, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    // The socket is made within the call. Nothing else is made meanwhile, with a mask that is not meant for it.
    const mask = process.umask(0o177)
    server.listen(path, resolve)
    process.umask(mask)
  })
  return {
    owns: (socket) => own.has(socket),
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve()
        })
        server.closeAllConnections()
      }),
  }
}
