import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { GpuClientError, type GpuClient, type TaskEvent } from '../src/index.ts'
import { openProxy } from './proxy.ts'
import { eventsOf, expectWhole, storedEvents, submit } from './reading.ts'
import { connect, counting, Service, worker } from './service.ts'

let service: Service
let direct: GpuClient
beforeAll(async () => {
  service = await Service.start({
    count: counting(100),
    long: counting(250),
    nothing: worker('true'),
    blocking: { script: worker('sleep 60'), timeouts: { stop_grace: '1s' } },
  })
  direct = connect(service.url)
})
afterAll(async () => {
  direct.close()
  await service[Symbol.asyncDispose]()
})

/** Follows up to the first event that fits, and gives what came. */
async function upTo(
  client: GpuClient,
  id: string,
  fits: (event: TaskEvent) => boolean,
): Promise<TaskEvent[]> {
  const seen: TaskEvent[] = []
  for await (const { events } of client.followTask(id)) {
    seen.push(...events)
    if (events.some(fits)) break
  }
  return seen
}

const counted = (text: string) => (event: TaskEvent) =>
  event.__typename === 'TextDeltaEvent' && event.delta === text

test('goes on where it was when the service is killed and started again', async () => {
  const id = await submit(direct, 'long')
  const troubles: string[] = []
  await using client = connect(service.url)
  const following = eventsOf(client.followTask(id, { onRetry: ({ code }) => troubles.push(code) }))
  await upTo(direct, id, counted('50 '))
  await service.down('SIGKILL')
  await service.up()
  const events = await following
  expectWhole(events)
  expect(events).toEqual(await storedEvents(direct, id))
  expect(troubles).toContain('DISCONNECTED')
})

test('goes on where it was when the service is stopped, which asks to come back later', async () => {
  const id = await submit(direct, 'long')
  const troubles: string[] = []
  await using client = connect(service.url)
  const following = eventsOf(client.followTask(id, { onRetry: ({ code }) => troubles.push(code) }))
  await upTo(direct, id, counted('50 '))
  await service.down('SIGTERM')
  await service.up()
  const events = await following
  expectWhole(events)
  expect(events).toEqual(await storedEvents(direct, id))
  expect(troubles).toContain('UNAVAILABLE')
})

test('gets the rest of a task that ended while the network was away', async () => {
  await using proxy = await openProxy(service)
  await using client = connect(proxy.url)
  const id = await submit(client, 'count')
  const following = eventsOf(client.followTask(id))
  await upTo(client, id, counted('10 '))
  proxy.isShut = true
  proxy.cutAll('rst')
  const events = await eventsOf(direct.followTask(id))
  proxy.isShut = false
  expect(await following).toEqual(events)
  expectWhole(events)
})

test('notices a peer that is silent, and goes on over another connection', async () => {
  await using proxy = await openProxy(service)
  await using client = connect(proxy.url)
  const id = await submit(client, 'long')
  const troubles: string[] = []
  const following = eventsOf(client.followTask(id, { onRetry: ({ message }) => troubles.push(message) }))
  await upTo(direct, id, counted('20 '))
  proxy.cutAll('stall')
  await expect
    .poll(() => troubles, { timeout: 5_000 })
    .toEqual(['Nothing was heard of the service for 800 ms.'])
  expectWhole(await following)
})

test('gives the same list before the start, during, and after the end', async () => {
  const blocking = await Promise.all(Array.from({ length: 32 }, () => submit(direct, 'blocking')))
  const id = await submit(direct, 'count')
  expect((await direct.task(id))?.status).toBe('QUEUED')
  await using client = connect(service.url)
  const before = eventsOf(client.followTask(id))
  for (const other of blocking) await direct.cancelTask(other)
  await upTo(direct, id, counted('10 '))
  const during = eventsOf(client.followTask(id))
  const stored = await before
  expectWhole(stored)
  expect(await during).toEqual(stored)
  expect(await eventsOf(client.followTask(id))).toEqual(stored)
  expect(await storedEvents(client, id)).toEqual(stored)
  await Promise.all(blocking.map((other) => eventsOf(direct.followTask(other))))
})

test('gives from any cursor exactly the rest, and nothing after the last event', async () => {
  const id = await submit(direct, 'nothing')
  const events = await eventsOf(direct.followTask(id))
  for (let after = 0; after <= events.length; after++) {
    expect(await eventsOf(direct.followTask(id, { after }))).toEqual(events.slice(after))
  }
})

test('gives up at once on what does not pass', async () => {
  const id = await submit(direct, 'nothing')
  await eventsOf(direct.followTask(id))
  await expect(eventsOf(direct.followTask(id, { after: 1_000 }))).rejects.toMatchObject({
    code: 'BAD_CURSOR',
  })
  await expect(eventsOf(direct.followTask(id, { after: -1 }))).rejects.toMatchObject({ code: 'BAD_CURSOR' })
  await expect(eventsOf(direct.followTask(id, { after: 1.5 }))).rejects.toMatchObject({
    code: 'BAD_USER_INPUT',
  })
  await expect(eventsOf(direct.followTask('none'))).rejects.toMatchObject({ code: 'NOT_FOUND' })
})

test('ends with the reason of its signal, with the client, and quietly where its consumer leaves', async () => {
  const id = await submit(direct, 'blocking')
  const client = connect(service.url)
  const stop = new AbortController()
  const stopped = eventsOf(client.followTask(id, { signal: stop.signal }))
  const closed = eventsOf(client.followTask(id))
  const left = client.followTask(id)
  await upTo(client, id, (event) => event.__typename === 'ConnectionEvent')
  // All that there is has come; the next wait has no end of its own.
  let waiting = left.next()
  while ((await Promise.race([waiting, delay(300)])) !== undefined) waiting = left.next()
  await left.return?.()
  expect(await waiting).toEqual({ done: true, value: undefined })
  const reason = new Error('enough')
  stop.abort(reason)
  await expect(stopped).rejects.toBe(reason)
  client.close()
  await expect(closed).rejects.toMatchObject({ code: 'CLOSED' })
  await expect(eventsOf(client.followTask(id))).rejects.toBeInstanceOf(GpuClientError)
  await direct.cancelTask(id)
  await eventsOf(direct.followTask(id))
})
