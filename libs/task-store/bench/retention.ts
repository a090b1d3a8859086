// What a large database costs: its lists, and forgetting a part of it while others write. Run it with:
// npx tsx libs/task-store/bench/retention.ts [how many tasks]

import { statSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { argv } from 'node:process'
import { setTimeout as later } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { silentLogger, type TaskFilter, type TaskStore } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { openTaskStore } from '../src/index.ts'
import {
  claimOf,
  completed,
  deltas,
  eventsAfter,
  newTask,
  presetId,
  settlement,
  START,
  taskId,
  temporaryFolder,
  workerId,
} from '../test/fixtures.ts'
import type { Figure } from './append.ts'

const TASKS = 100_000
/** So many of them are forgotten. */
const FORGOTTEN = 20_000
const BATCH = 50
const MB = 1024 * 1024
/** Of the first task that is created beside all this. */
const NEXT = 1_000_000_000

/** Takes about a minute. */
export async function bench(count = TASKS): Promise<readonly Figure[]> {
  using folder = temporaryFolder()
  const file = `${folder.path}/bench.db`
  await seed(file, count)
  await using store = await openTaskStore({ url: `file:${file}`, logger: silentLogger })
  const { databaseBytes } = await store.usage()
  const size = `${count.toLocaleString('en')} tasks, ${Math.round(databaseBytes / MB)} MB`
  const figures: Figure[] = []

  const filters: readonly (readonly [name: string, filter: TaskFilter])[] = [
    ['the first page', {}],
    ['a page of one status', { status: ['FAILED'] }],
    ['a page of one label', { label: { key: 'team', value: 'red' } }],
    [
      'a page of a preset, a status and a time',
      { presetId: 'test/inference', status: ['COMPLETED'], createdBefore: START + count / 2 },
    ],
  ]
  for (const [name, filter] of filters) {
    const { tookMs, cpuMs } = await slowest(10, () => store.tasks({ filter, first: 100, after: null }))
    figures.push({
      name,
      value: tookMs,
      unit: 'ms',
      ratio: tookMs / 200,
      note: `budget 200 ms, the slowest of 10 (on average ${cpuMs.toFixed(1)} ms CPU); ${size}`,
    })
  }

  const alone = await creating(store, NEXT, () => later(3_000))
  const during = await creating(store, NEXT + 100_000, () => forget(store, FORGOTTEN, file))
  const { tookMs, cpuMs, longestMs, longestLog } = during.result
  figures.push(
    ...latencies('create a task, nothing else going on', alone),
    ...latencies('create a task while others are forgotten', during),
    {
      name: 'forget a task',
      value: cpuMs / FORGOTTEN,
      unit: 'ms CPU',
      ratio: 0,
      note: `${Math.round((FORGOTTEN * 1_000) / tookMs)} tasks/s; ${FORGOTTEN} of ${size}`,
    },
    {
      name: 'the longest step of it',
      value: longestMs,
      unit: 'ms CPU',
      ratio: longestMs / 50,
      note: 'budget 50 ms; with what others did meanwhile',
    },
    {
      name: 'the longest write-ahead log meanwhile',
      value: longestLog / MB,
      unit: 'MB',
      ratio: longestLog / (64 * MB),
      note: 'budget 64 MB',
    },
  )
  const from = performance.now()
  const before = await store.usage()
  while (await store.giveSpaceBack());
  const after = await store.usage()
  figures.push({
    name: 'give space back to the disk',
    value: performance.now() - from,
    unit: 'ms',
    ratio: 0,
    note: `the file from ${Math.round(before.fileBytes / MB)} to ${Math.round(after.fileBytes / MB)} MB`,
  })
  return figures
}

/** A database with so many ended tasks, made of one that had its whole life in a store. */
async function seed(file: string, count: number): Promise<void> {
  {
    await using store = await openTaskStore({ url: `file:${file}`, logger: silentLogger })
    await store.create([newTask(0, { labels: { team: 'red' } })])
    await store.claim([claimOf(0)])
    const events = [...deltas(2, 30), ...eventsAfter(32, completed)]
    const tasks = [{ taskId: taskId(0), attempt: 1, after: 2, events, settle: settlement }]
    await store.append({ workerId: workerId(0), tasks })
    await store.updateWorker(workerId(0), { status: 'EXITED', exitedAt: START })
  }
  const database = new Database(file)
  database.pragma('synchronous=OFF')
  const id = (kind: string) => `printf('01900000-0000-7000-8${kind}-%012x', n.i)`
  const clone = (table: string, changed: Readonly<Record<string, string>>, of: string): void => {
    const columns = database.pragma(`table_info("${table}")`) as readonly { readonly name: string }[]
    const values = columns.map(({ name }) => changed[name] ?? `t."${name}"`)
    database.exec(`
      WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${count - 1})
      INSERT INTO "${table}" SELECT ${values.join(', ')} FROM "${table}" AS t, n WHERE ${of}`)
  }
  const status = `CASE n.i % 10 WHEN 0 THEN 'FAILED' ELSE 'COMPLETED' END`
  const createdAt = `${START} + n.i`
  const own = `t."taskId" = '${taskId(0)}'`
  const labels = `printf('{"team":"%s"}', CASE n.i % 3 WHEN 0 THEN 'red' ELSE 'blue' END)`
  // One for each moment.
  const place = `(${createdAt}) << 21`
  clone(
    'Task',
    { id: id('001'), workerId: id('002'), status, labels, createdAt, finishedAt: createdAt, place },
    `t."id" = '${taskId(0)}'`,
  )
  for (const table of ['EventChunk', 'Output']) clone(table, { taskId: id('001') }, own)
  clone('Attempt', { taskId: id('001'), workerId: id('002') }, own)
  clone('Worker', { id: id('002'), exitedAt: createdAt }, `t."id" = '${workerId(0)}'`)
  database.close()
}

interface Forgetting {
  readonly tookMs: number
  /** Of the processor, in all and in the call that took the most: a machine that is busy with other things does not change it much. */
  readonly cpuMs: number
  readonly longestMs: number
  readonly longestLog: number
}

/** Removes the tasks that ended first, and the workers of that time, as the service does. */
async function forget(store: TaskStore, count: number, file: string): Promise<Forgetting> {
  const start = performance.now()
  const before = START + count
  let [cpuMs, longestMs, longestLog] = [0, 0, 0]
  async function measured<T>(call: Promise<T>): Promise<T> {
    const from = process.cpuUsage()
    const result = await call
    const { user, system } = process.cpuUsage(from)
    cpuMs += (user + system) / 1_000
    longestMs = Math.max(longestMs, (user + system) / 1_000)
    longestLog = Math.max(longestLog, statSync(`${file}-wal`).size)
    return result
  }
  for (;;) {
    const ended = await measured(store.endedTasks({ before, limit: BATCH, withArtifacts: false }))
    if (ended.length === 0) break
    const begun = await measured(store.beginRemoval(ended.map(({ id }) => id)))
    let left = begun.map(({ id }) => id)
    while (left.length > 0) left = left.slice(await measured(store.continueRemoval(left)))
  }
  while (!(await measured(store.removeWorkers(before))));
  return { tookMs: performance.now() - start, cpuMs, longestMs, longestLog }
}

interface Creating<T> {
  readonly result: T
  /** Of each creation, in ascending order. */
  readonly tookMs: readonly number[]
  readonly loop: { readonly p99: number; readonly max: number }
}

/** Creates tasks, 100 in a second, for as long as something else goes on. */
async function creating<T>(store: TaskStore, from: number, work: () => Promise<T>): Promise<Creating<T>> {
  const delay = monitorEventLoopDelay({ resolution: 2 })
  const ended = new AbortController()
  const tookMs: number[] = []
  const creations = (async () => {
    for (let n = from; !ended.signal.aborted; n++) {
      const start = performance.now()
      await store.create([newTask(n, { presetId: presetId('other/inference') })])
      tookMs.push(performance.now() - start)
      await later(10)
    }
  })()
  delay.enable()
  const result = await work()
  delay.disable()
  ended.abort()
  await creations
  tookMs.sort((a, b) => a - b)
  return { result, tookMs, loop: { p99: delay.percentile(99) / 1e6, max: delay.max / 1e6 } }
}

function latencies(name: string, { tookMs, loop }: Creating<unknown>): readonly Figure[] {
  const at = (part: number): number => tookMs[Math.floor((tookMs.length - 1) * part)] ?? 0
  const note = `${tookMs.length} of them; p50 ${at(0.5).toFixed(1)} ms, the slowest ${at(1).toFixed(1)} ms`
  return [
    {
      name: `${name}, p99`,
      value: at(0.99),
      unit: 'ms',
      ratio: at(0.99) / 50,
      note: `budget 50 ms; ${note}`,
    },
    {
      name: `${name}: delay of the event loop, longest`,
      value: loop.max,
      unit: 'ms',
      ratio: loop.max / 50,
      note: `budget 50 ms; p99 ${loop.p99.toFixed(1)} ms`,
    },
  ]
}

async function slowest(
  times: number,
  work: () => Promise<unknown>,
): Promise<{ readonly tookMs: number; readonly cpuMs: number }> {
  let tookMs = 0
  const from = process.cpuUsage()
  for (let n = 0; n < times; n++) {
    const start = performance.now()
    await work()
    tookMs = Math.max(tookMs, performance.now() - start)
  }
  const { user, system } = process.cpuUsage(from)
  return { tookMs, cpuMs: (user + system) / 1_000 / times }
}

if (argv[1] === fileURLToPath(import.meta.url)) console.table(await bench(Number(argv[2] ?? TASKS)))
