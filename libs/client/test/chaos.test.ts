import { afterAll, beforeAll, expect, test } from 'vitest'
import type { GpuClient } from '../src/index.ts'
import { type Fate, openProxy, CUTS } from './proxy.ts'
import { createRandom } from './random.ts'
import { eventsOf, expectWhole, storedEvents, submit } from './reading.ts'
import { connect, counting, flooding, Service } from './service.ts'

const CUTS_IN_ALL = 200
/** Stalls are noticed soon, and sometimes seen where there are none. */
const HASTY = { timing: { connectMs: 500, livenessMs: 150, requestMs: 1_000 } }

let service: Service
let direct: GpuClient
beforeAll(async () => {
  service = await Service.start({ count: counting(150), flood: flooding(1_500, 100) })
  direct = connect(service.url)
})
afterAll(async () => {
  direct.close()
  await service[Symbol.asyncDispose]()
})

test(`followers get every event exactly once over ${CUTS_IN_ALL} cuts at random`, async () => {
  const random = createRandom()
  await using proxy = await openProxy(service)
  proxy.fate = (): Fate => ({
    cut: random.pick(CUTS),
    // Mostly in the middle of something; sometimes late enough for the largest batch to get through.
    afterBytes: random.next() < 0.7 ? random.magnitude(100, 20_000) : random.magnitude(100_000, 1_000_000),
    delayMs: random.next() < 0.3 ? random.magnitude(1, 30) : 0,
  })
  let transcripts = 0
  while (proxy.cuts < CUTS_IN_ALL) {
    const live = await submit(direct, 'count')
    const loud = await submit(direct, 'flood')
    // The two followers of a client share its connection, and each cut.
    const followers = [1, 2, 3, 4].map(async () => {
      await using client = connect(proxy.url, HASTY)
      return await Promise.all([eventsOf(client.followTask(live)), eventsOf(client.followTask(loud))])
    })
    const seen = await Promise.all(followers)
    const stored = await Promise.all([storedEvents(direct, live), storedEvents(direct, loud)])
    stored.forEach(expectWhole)
    for (const transcript of seen) expect(transcript).toEqual(stored)
    transcripts += 2 * seen.length
  }
  console.log(`${proxy.cuts} cuts, ${transcripts} transcripts`)
}, 180_000)

test('followers come to the end where no connection lives long enough for a whole batch', async () => {
  const random = createRandom()
  await using proxy = await openProxy(service)
  // A batch has some 90 kB.
  proxy.fate = (): Fate => ({ cut: 'rst', afterBytes: random.magnitude(10_000, 30_000), delayMs: 0 })
  const id = await submit(direct, 'flood')
  await eventsOf(direct.followTask(id))
  await using client = connect(proxy.url, HASTY)
  expect(await eventsOf(client.followTask(id))).toEqual(await storedEvents(direct, id))
  expect(proxy.cuts).toBeGreaterThan(5)
})

test('a submission over a network that loses answers makes one task', async () => {
  const random = createRandom()
  await using proxy = await openProxy(service)
  // Each connection breaks after a few answers, mostly within one.
  proxy.fate = (): Fate => ({
    cut: random.pick(CUTS),
    afterBytes: random.magnitude(300, 20_000),
    delayMs: 0,
  })
  await using client = connect(proxy.url, HASTY)
  const before = new Set((await direct.tasks({ first: 100 })).tasks.map(({ id }) => id))
  const ids: string[] = []
  for (let n = 0; n < 30; n++) ids.push(await submit(client, 'count'))
  expect(new Set(ids).size).toBe(30)
  const after = (await direct.tasks({ first: 100 })).tasks.map(({ id }) => id).filter((id) => !before.has(id))
  expect(after.toSorted()).toEqual(ids.toSorted())
  expect(proxy.cuts).toBeGreaterThan(0)
  for (const id of ids) await direct.cancelTask(id)
  for (const id of ids) await eventsOf(direct.followTask(id))
})
