import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { GpuClient } from '../src/index.ts'
import { openProxy } from './proxy.ts'
import { eventsOf, expectWhole, storedEvents, submit } from './reading.ts'
import { connect, counting, Service, worker } from './service.ts'

const CLIENTS = 300

let service: Service
let direct: GpuClient
let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gpu-client-storm-'))
  service = await Service.start({
    // Until it is told.
    steady: worker(
      `while [ ! -e ${folder}/enough ]; do echo '{"event":"text_delta","delta":"more "}'; sleep 0.05; done`,
    ),
    short: counting(200),
  })
  direct = connect(service.url)
})
afterAll(async () => {
  direct.close()
  await service[Symbol.asyncDispose]()
  await rm(folder, { recursive: true })
})

test(`${CLIENTS} clients that are cut off at once are all back soon, and miss nothing`, async () => {
  await using proxy = await openProxy(service)
  const id = await submit(direct, 'steady')
  // With the waits that users have: what is tested is that they spread.
  const clients = Array.from({ length: CLIENTS }, () =>
    connect(proxy.url, { timing: { retryBaseMs: 400, connectMs: 10_000, livenessMs: 12_000 } }),
  )
  let level = 0
  const following = clients.map((client) =>
    eventsOf(
      (async function* () {
        let isFirst = true
        for await (const batch of client.followTask(id)) {
          if (isFirst) level++
          isFirst = false
          yield batch
        }
      })(),
    ),
  )
  await expect.poll(() => level, { timeout: 30_000 }).toBe(CLIENTS)
  const cutAt = performance.now()
  proxy.cutAll('rst')
  expect(proxy.cuts).toBe(CLIENTS)
  await expect.poll(() => proxy.open, { timeout: 30_000 }).toBe(CLIENTS)
  console.log(`${CLIENTS} clients were back after ${Math.round(performance.now() - cutAt)} ms`)
  await writeFile(join(folder, 'enough'), '')
  const transcripts = await Promise.all(following)
  const stored = await storedEvents(direct, id)
  expectWhole(stored)
  for (const transcript of transcripts) expect(transcript).toEqual(stored)
  for (const client of clients) client.close()
})

test('one client with more followers than fit on a connection gets over a restart of the service', async () => {
  const id = await submit(direct, 'short')
  await using client = connect(service.url)
  const following = Array.from({ length: 120 }, () => eventsOf(client.followTask(id)))
  for await (const { events } of client.followTask(id)) if (events.some(({ seq }) => seq > 20)) break
  await service.down('SIGKILL')
  await service.up()
  const transcripts = await Promise.all(following)
  const stored = await storedEvents(direct, id)
  expectWhole(stored)
  for (const transcript of transcripts) expect(transcript).toEqual(stored)
})
