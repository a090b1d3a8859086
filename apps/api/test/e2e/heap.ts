import { once } from 'node:events'
import WebSocket from 'ws'
import type { TestService } from './service.ts'

/** For the environment of a service whose heap is to be measured. */
export const MEASURED = { NODE_OPTIONS: '--inspect=127.0.0.1:0' } as const

/** What is still reachable in the service's memory, after a collection of all that is not, in MB: what is in V8's heap and what hangs on it. */
export async function heapMb(service: TestService): Promise<number> {
  const [url] = /ws:\/\/127\.0\.0\.1:\d+\/[\w-]+/.exec(service.output) ?? []
  if (url === undefined) throw new Error(`the service cannot be inspected:\n${service.output}`)
  const socket = new WebSocket(url)
  await once(socket, 'open')
  try {
    let id = 0
    const call = async (method: string, params: object = {}): Promise<unknown> => {
      socket.send(JSON.stringify({ id: ++id, method, params }))
      const [message] = (await once(socket, 'message')) as [Buffer]
      return (JSON.parse(message.toString()) as { readonly result: unknown }).result
    }
    // What finalizers let go of is collected the second time.
    for (let times = 0; times < 2; times++) await call('HeapProfiler.collectGarbage')
    const { result } = (await call('Runtime.evaluate', {
      expression: 'process.memoryUsage()',
      returnByValue: true,
    })) as { readonly result: { readonly value: { readonly heapUsed: number; readonly external: number } } }
    return (result.value.heapUsed + result.value.external) / 2 ** 20
  } finally {
    socket.close()
    await once(socket, 'close')
  }
}
