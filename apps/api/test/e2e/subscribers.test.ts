import { readdir } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { RawSocket } from '../server/harness.ts'
import { heapMb, MEASURED } from './heap.ts'
import { CONNECTED, FINISHED, script } from './scripts.ts'
import { EVENT_FIELDS, faultsOf, TestService, type SeenEvent } from './service.ts'

const EVENTS = `subscription ($id: ID!) { taskEvents(taskId: $id) { events { ${EVENT_FIELDS} } } }`
/** How often the service pings, which is how soon it notices twice over. */
const KEEP_ALIVE_MS = 12_000

const flood = (lines: number): string =>
  `${CONNECTED}; yes '{"event":"text_delta","delta":"${'x'.repeat(990)} "}' | head -n ${lines}; ${FINISHED}`

let service: TestService
beforeAll(async () => {
  service = await TestService.start({
    runner: 'process',
    presets: {
      count: script(
        `${CONNECTED}; i=0; while [ $i -lt 100 ]; do echo "{\\"event\\":\\"text_delta\\",\\"delta\\":\\"$i \\"}"; i=$((i+1)); sleep 0.01; done; ${FINISHED}`,
      ),
      flood: script(flood(12_000)),
    },
    env: MEASURED,
  })
})
afterAll(() => service[Symbol.asyncDispose]())

/** The batches that came for one subscription. */
function batchesOf(socket: RawSocket, id: string): SeenEvent[][] {
  return socket.messages
    .filter((message) => message['id'] === id && message['type'] === 'next')
    .map(
      ({ payload }) => (payload as { data: { taskEvents: { events: SeenEvent[] } } }).data.taskEvents.events,
    )
}

/** Of a process, connections included. */
async function openFiles(pid: number): Promise<number> {
  return (await readdir(`/proc/${pid}/fd`)).length
}

const completed = (id: string) => (message: Record<string, unknown>) =>
  message['id'] === id && message['type'] === 'complete'

test('subscribers of one task, many on one socket and on many, all get all', async () => {
  const id = await service.submit('count')
  const sockets = await Promise.all(Array.from({ length: 50 }, () => new RawSocket(service).ready()))
  const subscriptions = sockets.flatMap((socket, index) =>
    Array.from({ length: index === 0 ? 80 : 2 }, (_, n) => ({ socket, name: String(n) })),
  )
  for (const { socket, name } of subscriptions) socket.subscribe(name, EVENTS, { id })
  await Promise.all(subscriptions.map(({ socket, name }) => socket.message(completed(name))))
  const stored = await service.events(id)
  expect(faultsOf(stored)).toEqual([])
  for (const { socket, name } of subscriptions) expect(batchesOf(socket, name).flat()).toEqual(stored)
  for (const { socket } of sockets) socket.terminate()
})

test('a client that reads nothing for a while gets what came meanwhile in large batches, and all of it', async () => {
  const id = await service.submit('flood')
  const slow = await new RawSocket(service).ready()
  slow.subscribe('a', EVENTS, { id })
  await slow.message(({ type }) => type === 'next')
  slow.socket.pause()
  const stored = await service.events(id)
  slow.socket.resume()
  await slow.message(completed('a'))
  const batches = batchesOf(slow, 'a')
  expect(batches.flat()).toEqual(stored)
  expect(Math.max(...batches.map(({ length }) => length))).toBeGreaterThan(100)
  slow.socket.terminate()
})

test('fifty clients that stop reading cost little memory, and are cut off while another gets everything', async () => {
  const id = await service.submit('flood')
  await service.events(id)
  const [before, files] = [await heapMb(service), await openFiles(service.pid)]
  const stalled = await Promise.all(Array.from({ length: 50 }, () => new RawSocket(service).ready()))
  for (const socket of stalled) {
    socket.socket.pause()
    socket.subscribe('a', EVENTS, { id })
  }
  const begun = performance.now()
  const events = await service.events(id)
  expect(faultsOf(events)).toEqual([])
  // One batch for each, which is the text of at most 500 events, and nothing beside it.
  expect((await heapMb(service)) - before).toBeLessThan(45)
  // A client that reads nothing does not see its connection end.
  await expect
    .poll(() => openFiles(service.pid), { timeout: 2 * KEEP_ALIVE_MS + 5_000, interval: 250 })
    .toBeLessThan(files + 5)
  expect(performance.now() - begun).toBeLessThan(2 * KEEP_ALIVE_MS + 5_000)
  for (const { socket } of stalled) socket.terminate()
  expect(await service.events(id)).toEqual(events)
}, 90_000)
