import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GpuClient, isFinal, type Task } from '../src/index.ts'
import { openProxy } from './proxy.ts'
import { eventsOf, submit } from './reading.ts'
import { connect, counting, Service, worker } from './service.ts'

let service: Service
let direct: GpuClient
beforeAll(async () => {
  service = await Service.start(
    { short: counting(30), nothing: worker('true'), long: worker('sleep 60') },
    { GPUS: 'simulated:2x24576', GPU_SAMPLE_SECONDS: '0.3' },
  )
  direct = connect(service.url)
})
afterAll(async () => {
  direct.close()
  await service[Symbol.asyncDispose]()
})

/** Keeps the latest of each thing that comes, until it is stopped. */
function collect<T extends { readonly id: string }>(values: AsyncIterableIterator<T, undefined>) {
  const latest = new Map<string, T>()
  const done = (async () => {
    for await (const value of values) latest.set(value.id, value)
  })()
  return {
    latest,
    async stop() {
      await values.return?.()
      await done
    },
  }
}

test('tells the end of a task that ended while the network was away', async () => {
  await using proxy = await openProxy(service)
  await using client = connect(proxy.url)
  const tasks = collect(client.watchTasks())
  const [short, long] = [await submit(direct, 'short'), await submit(direct, 'long')]
  await expect.poll(() => tasks.latest.get(short)?.status, { timeout: 10_000 }).toBe('RUNNING')
  await expect.poll(() => tasks.latest.get(long)?.status, { timeout: 10_000 }).toBe('RUNNING')
  proxy.isShut = true
  proxy.cutAll('rst')
  await eventsOf(direct.followTask(short))
  proxy.isShut = false
  await expect.poll(() => tasks.latest.get(short)?.status, { timeout: 10_000 }).toBe('COMPLETED')
  expect(tasks.latest.get(long)?.status).toBe('RUNNING')
  await direct.cancelTask(long)
  await expect.poll(() => tasks.latest.get(long)?.status, { timeout: 20_000 }).toBe('CANCELLED')
  await tasks.stop()
})

test('tells only of the tasks that match', async () => {
  const tasks = collect(direct.watchTasks({ label: { key: 'team', value: 'red' } }))
  const inputs = ['red', 'blue'].map((team) => ({ presetId: 'test/nothing', labels: { team } }))
  const result = await direct.submitTasks(inputs)
  if (result.__typename !== 'SubmitTasksSuccess') throw new Error(result.message)
  const [red, blue] = result.tasks.map(({ task }) => task.id)
  await expect.poll(() => tasks.latest.get(red ?? '')?.status, { timeout: 10_000 }).toBe('COMPLETED')
  await eventsOf(direct.followTask(blue ?? ''))
  expect([...tasks.latest.keys()]).toEqual([red])
  await tasks.stop()
})

test('gives a watcher that is slow the latest state of each task, and no more', async () => {
  const watching = direct.watchTasks({ presetId: 'test/nothing' })
  const id = await submit(direct, 'nothing')
  const first = await watching.next()
  await eventsOf(direct.followTask(id))
  const more = await Promise.all(Array.from({ length: 30 }, () => submit(direct, 'nothing')))
  for (const other of more) await eventsOf(direct.followTask(other))
  expect(first.done).toBe(false)
  const seen: Task[] = []
  while (seen.filter(({ status }) => isFinal(status)).length < 31) {
    const { value } = await watching.next()
    if (value !== undefined) seen.push(value)
  }
  // One for each, and the few that had left the shelf before their end.
  expect(seen.length).toBeLessThan(31 + 5)
  await watching.return?.()
})

test('watches workers and GPUs over a restart of the service, ends of workers included', async () => {
  await using client = connect(service.url)
  const workers = collect(client.watchWorkers())
  const gpus = collect(client.watchGpus())
  const id = await submit(direct, 'long')
  const isAt = (status: string) => () => [...workers.latest.values()].some((seen) => seen.status === status)
  await expect.poll(isAt('WORKING'), { timeout: 10_000 }).toBe(true)
  await expect.poll(() => gpus.latest.size).toBe(2)
  await service.down('SIGKILL')
  gpus.latest.clear()
  await service.up()
  await expect.poll(() => gpus.latest.size, { timeout: 10_000 }).toBe(2)
  await direct.cancelTask(id)
  await eventsOf(direct.followTask(id))
  await expect.poll(isAt('WORKING'), { timeout: 20_000 }).toBe(false)
  await expect.poll(isAt('EXITED'), { timeout: 20_000 }).toBe(true)
  await workers.stop()
  await gpus.stop()
})
