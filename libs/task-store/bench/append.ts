// How fast the store is at what the service does all day. Run it with: npx tsx libs/task-store/bench/append.ts

import { argv } from 'node:process'
import { fileURLToPath } from 'node:url'
import { silentLogger, type TaskEvent, type TaskStore, type WorkerProgress } from '@gpu-service/tasks'
import { openTaskStore } from '../src/index.ts'
import { claimOf, deltas, newTask, taskId, temporaryFolder, workerId } from '../test/fixtures.ts'
import { benchLife } from './life.ts'

export interface Figure {
  readonly name: string
  readonly value: number
  readonly unit: string
  /** Value against its budget or against the same work done bare: above 1 is worse where less is better, better where more is. */
  readonly ratio: number
  readonly note: string
}

/** Measures a store of its own in a temporary folder; takes about 40 seconds. */
export async function bench(): Promise<readonly Figure[]> {
  using folder = temporaryFolder()
  const url = `file:${folder.path}/bench.db`
  const figures: Figure[] = []
  {
    const bareFile = `${folder.path}/bare.db`
    await (await openTaskStore({ url: `file:${bareFile}`, logger: silentLogger }))[Symbol.asyncDispose]()
    await using store = await openTaskStore({ url, logger: silentLogger })
    figures.push(...(await benchLife(store, bareFile)))
    const writer = await running(store, 20)
    figures.push(await commits(writer, 'commit of 1 worker, 1 task, 1 event', 1, 1, 1.2))
    figures.push(await commits(writer, 'commit of 20 workers, 1 event each', 20, 1, 5))
    figures.push(await commits(writer, 'commit of 1 task, 500 events', 1, 500, 3))
    figures.push(await commits(writer, 'commit of 20 tasks, 50 events each', 20, 50, 10))
    figures.push(...(await log(store)))
  }
  const start = performance.now()
  const store = await openTaskStore({ url, logger: silentLogger })
  figures.push(figure('open an up-to-date database', performance.now() - start, 'ms', 150, 'wall time'))
  await store[Symbol.asyncDispose]()
  return figures
}

function figure(name: string, value: number, unit: string, budget: number, note: string): Figure {
  return { name, value, unit, ratio: value / budget, note: `budget ${budget} ${unit}; ${note}` }
}

interface Appender {
  append(tasks: number, events: number): Promise<void>
}

async function running(store: TaskStore, count: number): Promise<Appender> {
  const lastSeqs = new Map<number, number>()
  for (let n = 0; n < count; n++) {
    await store.create([newTask(n)])
    await store.claim([claimOf(n)])
    lastSeqs.set(n, 2)
  }
  return {
    async append(tasks, events) {
      const calls = Array.from({ length: tasks }, (_, n) => {
        const after = lastSeqs.get(n) ?? 0
        lastSeqs.set(n, after + events)
        return store.append(progress(n, after, deltas(after, events)))
      })
      await Promise.all(calls)
    },
  }
}

function progress(n: number, after: number, events: readonly TaskEvent[]): WorkerProgress {
  return {
    workerId: workerId(n),
    cursor: { stdout: `1790000000.${after}/1`, stderr: '' },
    tasks: [{ taskId: taskId(n), attempt: 1, after, events }],
  }
}

async function commits(
  writer: Appender,
  name: string,
  tasks: number,
  events: number,
  budgetMs: number,
): Promise<Figure> {
  for (let i = 0; i < 30; i++) await writer.append(tasks, events)
  const count = tasks === 1 && events === 1 ? 2_000 : 200
  const start = performance.now()
  const cpu = process.cpuUsage()
  for (let i = 0; i < count; i++) await writer.append(tasks, events)
  const { user, system } = process.cpuUsage(cpu)
  const seconds = (performance.now() - start) / 1_000
  const perSecond = `${Math.round(count / seconds)} commits/s, ${Math.round((count * tasks * events) / seconds)} events/s`
  return figure(name, (user + system) / 1_000 / count, 'ms CPU', budgetMs, perSecond)
}

/** A log of a million events: written, read, compacted. */
async function log(store: TaskStore): Promise<readonly Figure[]> {
  const n = 100
  const total = 1_000_000
  await store.create([newTask(n)])
  await store.claim([claimOf(n)])
  const writeStart = performance.now()
  for (let after = 2; after < total; after += 1_000) {
    await store.append(progress(n, after, deltas(after, Math.min(1_000, total - after))))
  }
  const writeSeconds = (performance.now() - writeStart) / 1_000

  const readStart = performance.now()
  let read = 0
  for (let events = await store.events(taskId(n), 0, 10_000); events.length > 0;) {
    read += events.length
    events = await store.events(taskId(n), read, 10_000)
  }
  const readSeconds = (performance.now() - readStart) / 1_000

  const small = 101
  await store.create([newTask(small)])
  await store.claim([claimOf(small)])
  for (let after = 2; after < 10_000; after++) await store.append(progress(small, after, deltas(after, 1)))
  const large = await longestTurnMs(() => store.compact(taskId(n)))
  const fragments = await longestTurnMs(() => store.compact(taskId(small)))
  return [
    figure(
      'write 1,000,000 events, 1,000 a commit',
      total / writeSeconds,
      'events/s',
      100_000,
      'more is better',
    ),
    figure(
      'read 1,000,000 events, 10,000 at a time',
      read / readSeconds,
      'events/s',
      300_000,
      'more is better',
    ),
    figure('compact 1,000,000 events in large chunks', large, 'ms', 20, 'longest turn of the event loop'),
    figure('compact 10,000 events in chunks of 1', fragments, 'ms', 20, 'longest turn of the event loop'),
  ]
}

async function longestTurnMs(work: () => Promise<void>): Promise<number> {
  let longest = 0
  let last = performance.now()
  let going = true
  const tick = () => {
    const now = performance.now()
    longest = Math.max(longest, now - last)
    last = now
    if (going) setImmediate(tick)
  }
  setImmediate(tick)
  await work()
  going = false
  return Math.max(longest, performance.now() - last)
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  for (const { name, value, unit, note } of await bench()) {
    console.log(`${name}: ${value < 100 ? value.toFixed(2) : Math.round(value)} ${unit} (${note})`)
  }
}
