import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'

/** Does to a container what somebody with the docker command could do behind the service's back. Throws what the engine refuses. */
export async function dockerCall(method: 'POST' | 'DELETE', path: string): Promise<void> {
  const engine = new URL(process.env['DOCKER_HOST'] ?? '')
  const address =
    engine.protocol === 'unix:'
      ? { socketPath: engine.pathname }
      : { host: engine.hostname, port: engine.port }
  const call = request({ ...address, method, path }).end()
  const [answer] = (await once(call, 'response')) as [IncomingMessage]
  const said = await text(answer)
  if (answer.statusCode !== 204) throw new Error(`the engine answered ${answer.statusCode}: ${said}`)
}
