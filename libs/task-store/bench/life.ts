// What a short task costs the store from its submission to its end, beside what SQLite alone takes for the same rows.

import {
  type NewTask,
  type TaskAppend,
  type TaskEvent,
  type TaskStore,
  type WorkerProgress,
} from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import {
  claimOf,
  completed,
  eventsAfter,
  newTask,
  newWorker,
  running,
  settlement,
  taskId,
  workerId,
} from '../test/fixtures.ts'
import type { Figure } from './append.ts'

const WORKERS = 4
const TASKS = 2_000
/** Of the first task: apart from all others that the database holds. */
let next = 10_000_000

/** Takes about 15 seconds. */
export async function benchLife(store: TaskStore, bareFile: string): Promise<readonly Figure[]> {
  for (let n = 0; n < WORKERS; n++) await store.createWorker(newWorker(next + n, { mode: 'SESSION' }))
  const workers = Array.from({ length: WORKERS }, (_, n) => newWorker(next + n))
  const claimBy = (n: number) => ({
    ...claimOf(n),
    ...{ worker: workers[n % WORKERS] ?? newWorker(n), warm: true },
  })
  // Only its id and its claim: it is there.
  const warmClaim = (n: number) => {
    const { worker, ...claim } = claimBy(n)
    return { ...claim, worker: { id: worker.id, claim: worker.claim } }
  }

  async function life(n: number): Promise<void> {
    const [first, last] = appendsOf(n)
    await store.create([taskOf(n)])
    await store.claim([warmClaim(n)])
    await store.append(progress(n, first))
    await store.append(progress(n, last))
    await store.compact(taskId(n))
  }

  function progress(n: number, append: TaskAppend): WorkerProgress {
    const worker = workers[n % WORKERS]
    const cursor = { stdout: `1790000000.${append.after}/1`, stderr: '' }
    return { workerId: worker?.id ?? workerId(n), cursor, tasks: [append] }
  }

  await inFlight(8, 300, life)
  const bare = bareLife(bareFile)
  const figures: Figure[] = []
  for (const count of [1, 8, 64]) {
    const { cpuMs, perSecond } = await inFlight(count, TASKS, life)
    figures.push({
      name: `the whole life of a short task, ${count} in flight`,
      value: cpuMs,
      unit: 'ms CPU',
      ratio: cpuMs / bare.cpuMs,
      note: `${Math.round(perSecond)} tasks/s; SQLite alone, in the same transactions one by one: ${bare.cpuMs.toFixed(3)} ms CPU`,
    })
  }

  const created: number[] = []
  const creating = await inFlight(1, TASKS, async (n) => {
    created.push(n)
    await store.create([taskOf(n)])
  })
  figures.push(step('create a task', creating.cpuMs, bare))
  const batched = created.splice(0, TASKS / 2)
  const single = await inFlight(1, created.length, async () => {
    await store.claim(created.splice(0, 1).map(warmClaim))
  })
  figures.push(step('claim a task', single.cpuMs, bare))
  const four = await inFlight(1, batched.length / 4, async () => {
    await store.claim(batched.splice(0, 4).map(warmClaim))
  })
  figures.push(step('claim a task, four at once', four.cpuMs / 4, bare))
  return figures
}

interface Cost {
  readonly cpuMs: number
  readonly perSecond: number
}

function step(name: string, cpuMs: number, bare: Cost): Figure {
  const note = `one call after the other; the ratio is to a whole life by SQLite alone`
  return { name, value: cpuMs, unit: 'ms CPU', ratio: cpuMs / bare.cpuMs, note }
}

function taskOf(n: number): NewTask {
  return newTask(n, { labels: { team: 'a' }, idempotencyKey: String(n) })
}

function appendsOf(n: number): readonly [TaskAppend, TaskAppend] {
  const task = { taskId: taskId(n), attempt: 1 }
  const begin = eventsAfter(2, running, { type: 'text_delta', delta: 'Hello' })
  const finish = { status: 'completed', error: null } as const
  const end = eventsAfter(4, { type: 'text', content: 'Hello' }, { type: 'finish', ...finish }, completed)
  return [
    {
      ...{ ...task, after: 2, events: begin },
      changes: { status: 'RUNNING', runningAt: 1_790_000_000_000, firstTextAt: 1_790_000_000_001 },
    },
    { ...task, after: 4, events: end, changes: { finish }, settle: settlement },
  ]
}

/** Does the work for so many tasks, at most `count` at a time. What it gives is per task. */
async function inFlight(count: number, tasks: number, work: (n: number) => Promise<void>): Promise<Cost> {
  const end = next + tasks
  const start = performance.now()
  const cpu = process.cpuUsage()
  const lane = async () => {
    while (next < end) await work(next++)
  }
  await Promise.all(Array.from({ length: count }, lane))
  return costSince(start, cpu, tasks)
}

function costSince(start: number, cpu: NodeJS.CpuUsage, tasks: number): Cost {
  const { user, system } = process.cpuUsage(cpu)
  return {
    cpuMs: (user + system) / 1_000 / tasks,
    perSecond: (tasks * 1_000) / (performance.now() - start),
  }
}

/** The rows of a short task's life, written to a database of the same schema with prepared statements: a transaction for each call. */
function bareLife(file: string): Cost {
  const database = new Database(file)
  database.pragma('journal_mode=WAL')
  database.pragma('synchronous=NORMAL')
  database.pragma('foreign_keys=ON')
  const task = database.prepare(`
    INSERT INTO "Task" ("id", "owner", "presetId", "spec", "input", "labels", "priority", "idempotencyKey", "requestHash", "status",
      "attempt", "lastSeq", "gpuIds", "killed", "createdAt", "queuedAt", "place")
    VALUES (?, 'ann', 'test/inference', ?, ?, ?, 0, ?, 'hash', 'QUEUED', 0, 1, '[]', 0, ?, ?, ?)`)
  const chunk = database.prepare(`INSERT INTO "EventChunk" VALUES (?, ?, ?, 1, ?, ?)`)
  const claim = database.prepare(`
    UPDATE "Task" SET "status" = 'STARTING', "attempt" = 1, "lastSeq" = 2, "startedAt" = ?, "workerId" = 'w' WHERE "id" = ?
      AND "status" = 'QUEUED' AND "lastSeq" = 1 RETURNING *`)
  const attempt = database.prepare(
    `INSERT INTO "Attempt" ("taskId", "attempt", "workerId", "gpuIds", "warm", "startedAt") VALUES (?, 1, 'w', '[]', 1, ?)`,
  )
  const run = database.prepare(
    `UPDATE "Task" SET "status" = 'RUNNING', "lastSeq" = 4, "runningAt" = ?, "firstTextAt" = ? WHERE "id" = ? AND "lastSeq" = 2`,
  )
  const runAttempt = database.prepare(
    `UPDATE "Attempt" SET "runningAt" = ? WHERE "taskId" = ? AND "attempt" = 1`,
  )
  const settle = database.prepare(
    `UPDATE "Task" SET "status" = 'COMPLETED', "lastSeq" = 7, "finish" = ?, "finishedAt" = ?, "exitCode" = 0 WHERE "id" = ? AND "lastSeq" = 4`,
  )
  const endAttempt = database.prepare(
    `UPDATE "Attempt" SET "finishedAt" = ?, "status" = 'COMPLETED', "exitCode" = 0 WHERE "taskId" = ? AND "attempt" = 1`,
  )
  const output = database.prepare(`INSERT INTO "Output" VALUES (?, 1, ?, ?, ?)`)

  const insertEvents = (id: string, events: readonly TaskEvent[]) => {
    const data = JSON.stringify(events.map(({ at, attempt, body }) => [at, attempt, [body]]))
    chunk.run(id, events[0]?.seq, events.at(-1)?.seq, data.length, data)
  }
  const calls: ((n: number) => void)[] = [
    (n) => {
      const { id, spec, input, labels, createdAt } = taskOf(n)
      const json = [spec, input, labels].map((value) => JSON.stringify(value))
      task.run(id, ...json, String(n), createdAt, createdAt, createdAt)
      insertEvents(id, eventsAfter(0, running))
    },
    (n) => {
      claim.get(1, taskId(n))
      attempt.run(taskId(n), 1)
      insertEvents(taskId(n), eventsAfter(1, running))
    },
    (n) => {
      run.run(1, 2, taskId(n))
      runAttempt.run(1, taskId(n))
      insertEvents(taskId(n), appendsOf(n)[0].events)
    },
    (n) => {
      const { text, result, usage } = settlement.output
      settle.run('{}', 1, taskId(n))
      endAttempt.run(1, taskId(n))
      insertEvents(taskId(n), appendsOf(n)[1].events)
      output.run(taskId(n), text, JSON.stringify(result), JSON.stringify(usage))
    },
  ]
  const transactions = calls.map((call) => database.transaction(call))
  const start = performance.now()
  const cpu = process.cpuUsage()
  for (let n = 0; n < TASKS; n++) for (const transaction of transactions) transaction(n)
  const cost = costSince(start, cpu, TASKS)
  database.close()
  return cost
}
