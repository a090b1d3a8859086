import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A call to the engine beside which the service is killed. */
export interface EngineFailpoint {
  /** Of the first line of its request: `POST /v1.41/containers/create?name=… HTTP/1.1`. */
  readonly call: RegExp
  /** Before the engine hears of it, or when it has answered and the service has not heard. */
  readonly side: 'before' | 'after'
}

/** A way to the engine on which the service can be killed at any of its calls. */
export interface EngineGate extends AsyncDisposable {
  readonly dockerHost: string
  /** Kills the process at the next such call; never, where `null`. */
  set(failpoint: EngineFailpoint | null, pid: number): void
}

export async function openEngineGate(engineSocket: string): Promise<EngineGate> {
  const folder = await mkdtemp(join(tmpdir(), 'engine-gate-'))
  const path = join(folder, 'docker.sock')
  const sockets = new Set<Socket>()
  let armed: { readonly failpoint: EngineFailpoint; readonly pid: number } | null = null

  function keep(socket: Socket): void {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('close', () => sockets.delete(socket))
  }

  const server = createServer({ allowHalfOpen: true }, (client) => {
    keep(client)
    client.once('data', (first) => {
      const requestLine = first.toString('latin1').split('\r\n', 1)[0] ?? ''
      const hit = armed?.failpoint.call.test(requestLine) === true ? armed : null
      if (hit !== null) armed = null
      if (hit?.failpoint.side === 'before') {
        process.kill(hit.pid, 'SIGKILL')
        return
      }
      const engine = connect({ path: engineSocket, allowHalfOpen: true })
      keep(engine)
      engine.write(first)
      if (hit !== null) {
        // The rest of the request goes through; of the answer nothing does.
        client.pipe(engine)
        engine.once('data', () => process.kill(hit.pid, 'SIGKILL'))
        return
      }
      client.pipe(engine).pipe(client)
      client.once('close', () => engine.destroy())
      engine.once('close', () => client.destroy())
    })
  })
  server.listen(path)
  await once(server, 'listening')

  return {
    dockerHost: `unix://${path}`,
    set(failpoint, pid) {
      armed = failpoint === null ? null : { failpoint, pid }
    },
    async [Symbol.asyncDispose]() {
      server.close()
      for (const socket of sockets) socket.destroy()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
