import { once } from 'node:events'
import WebSocket from 'ws'

const ANSWER_TIMEOUT_MS = 10_000

/** The Node.js inspector of a process that was started with `--inspect=127.0.0.1:0`. */
export interface Inspector extends Disposable {
  heapUsedMb(): Promise<number>
  collectGarbage(): Promise<void>
  /** What keeps its event loop alive: timers, sockets, servers, pipes, … */
  handles(): Promise<number>
}

/** @param output What the process has printed: the address stands in it. */
export async function openInspector(output: string): Promise<Inspector> {
  const address = /Debugger listening on (ws:\S+)/.exec(output)?.[1]
  if (address === undefined) throw new Error('the process has no inspector')
  const socket = new WebSocket(address)
  await once(socket, 'open')
  let asked = 0

  async function call<T>(method: string, params: object = {}): Promise<T> {
    const id = ++asked
    socket.send(JSON.stringify({ id, method, params }))
    const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS)
    for (;;) {
      const [message] = (await once(socket, 'message', { signal })) as [Buffer]
      const answer = JSON.parse(message.toString()) as { id?: number; result: T }
      if (answer.id === id) return answer.result
    }
  }

  return {
    async heapUsedMb() {
      return (await call<{ usedSize: number }>('Runtime.getHeapUsage')).usedSize / 2 ** 20
    },
    async collectGarbage() {
      await call('HeapProfiler.collectGarbage')
    },
    async handles() {
      const expression = 'process.getActiveResourcesInfo().length'
      return (await call<{ result: { value: number } }>('Runtime.evaluate', { expression })).result.value
    },
    [Symbol.dispose]() {
      socket.close()
    },
  }
}
