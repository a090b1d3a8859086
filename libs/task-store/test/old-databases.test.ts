import { type TaskStatus, silentLogger, specHashOf, type WorkerStatus } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { connectionFactory } from '../src/connection.ts'
import { MIGRATIONS } from '../src/generated/migrations.ts'
import { openTaskStore } from '../src/index.ts'
import { migrate } from '../src/migrations.ts'
import {
  claimOf,
  failure,
  gpuId,
  requeued,
  spec,
  START,
  taskId,
  temporaryFolder,
  workerId,
} from './fixtures.ts'

/** A spec as it was stored at first. */
const oldSpec = JSON.stringify({
  ...spec,
  ...{ secrets: undefined, retry: undefined, session: undefined },
  gpus: { count: 'default', ids: null },
  timeouts: { runMs: 60_000, stopGraceMs: 5_000, finishGraceMs: 10_000 },
})

const TASKS: readonly TaskStatus[] = [
  ...(['QUEUED', 'STARTING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'] as const),
]
const WORKERS: readonly WorkerStatus[] = [
  'STARTING',
  'STARTING',
  'READY',
  'WORKING',
  'STOPPING',
  'EXITED',
  'EXITED',
]

let folder: ReturnType<typeof temporaryFolder>
let url: string

/** Task n and worker n, each in the n-th state, as the first version of the schema had them. */
beforeEach(async () => {
  folder = temporaryFolder()
  const file = `${folder.path}/old.db`
  url = `file:${file}`
  await migrate(connectionFactory(file), MIGRATIONS.slice(0, 2), silentLogger)
  const database = new Database(file)
  for (const [n, status] of TASKS.entries()) {
    const attempt = status === 'QUEUED' ? 0 : 1
    database
      .prepare(
        `INSERT INTO "Task" ("id", "owner", "presetId", "spec", "input", "labels", "priority", "idempotencyKey", "requestHash", "status",
          "attempt", "lastSeq", "createdAt", "runningAt", "gpuIds", "workerId")
        VALUES (?, 'ann', 'test/inference', ?, '{}', '{"a":"b"}', 0, ?, 'hash', ?, ?, ?, ?, ?, ?, ?)`,
      )
      .run(
        ...[taskId(n), oldSpec, `key ${n}`, status, attempt, attempt + 1, START + n, START + n * 10],
        ...[attempt === 0 ? '[]' : JSON.stringify([gpuId(n)]), attempt === 0 ? null : workerId(n)],
      )
    database.prepare(`INSERT INTO "TaskLabel" VALUES (?, 'a', 'b', ?)`).run(taskId(n), START + n)
    database
      .prepare(`INSERT INTO "EventChunk" VALUES (?, 1, 1, 1, 60, ?)`)
      .run(taskId(n), `[[${START + n},0,[{"type":"status","taskStatus":"QUEUED","reason":null}]]]`)
    if (attempt === 0) continue
    const ended = n > 2
    database
      .prepare(`INSERT INTO "Attempt" VALUES (?, 1, ?, ?, ?, ?, NULL, NULL, ?)`)
      .run(
        taskId(n),
        workerId(n),
        START + n,
        ended ? START + 99 : null,
        ended ? status : null,
        ended ? 0 : null,
      )
    database
      .prepare(
        `INSERT INTO "Worker" VALUES (?, ?, 'test/inference', 'ONE_OFF', ?, 'c', NULL, ?, ?, NULL, NULL, 0, '1/1', '', NULL, NULL)`,
      )
      .run(workerId(n), `gpu-abcdefgh-${n}`, WORKERS[n], JSON.stringify([gpuId(n)]), START + n)
  }
  database.close()
})
afterEach(() => {
  folder[Symbol.dispose]()
})

it('keeps the tasks, events, labels and keys of an older database, in every state', async () => {
  await using store = await openTaskStore({ url, logger: silentLogger })
  const { tasks } = await store.tasks({ filter: { label: { key: 'a', value: 'b' } }, first: 50, after: null })
  expect(tasks.map(({ status }) => status).reverse()).toEqual(TASKS)
  for (const task of tasks) {
    expect(task).toMatchObject({
      ...{ queuedAt: task.createdAt, retryAt: null, retryOf: null },
      asked: { timeoutMs: null, gpuIds: null },
      files: [],
      release: { stoppedAt: null, gpuFreeAt: null, killed: false },
    })
    expect(await store.events(task.id, 0, 1)).toHaveLength(1)
  }
  expect(await store.submitted('ann', 'key 3')).toMatchObject({ task: { id: taskId(3) } })
  expect((await store.activeTasks()).map(({ id }) => id)).toEqual([0, 1, 2].map(taskId))
})

it('reads the specs of an older database with what they meant', async () => {
  await using store = await openTaskStore({ url, logger: silentLogger })
  expect((await store.task(taskId(0)))?.spec).toEqual(spec)
})

it('gives the attempts of an older database what their tasks told of them', async () => {
  await using store = await openTaskStore({ url, logger: silentLogger })
  expect(await store.attempts(taskId(0))).toEqual([])
  expect(await store.attempts(taskId(3))).toEqual([
    {
      ...{ attempt: 1, workerId: workerId(3), gpuIds: [gpuId(3)], warm: false },
      ...{ startedAt: START + 3, runningAt: START + 30, finishedAt: START + 99 },
      ...{ status: 'COMPLETED', error: null, failureClass: null, exitCode: 0, evidence: null },
    },
  ])
})

it('knows the workers of an older database that are still there, with the spec of their task', async () => {
  await using store = await openTaskStore({ url, logger: silentLogger })
  const workers = await store.liveWorkers()
  expect(workers.map(({ id, status }) => [id, status])).toEqual(
    [1, 2, 3, 4].map((n) => [workerId(n), WORKERS[n]]),
  )
  for (const [index, worker] of workers.entries()) {
    expect(worker).toMatchObject({
      ...{ spec, specHash: specHashOf(spec), owner: null, peakMemoryMb: null, endReason: null },
      claim: { gpuIds: [gpuId(index + 1)], memoryMb: null },
    })
  }
  expect(workers.map(({ taskIds }) => taskIds)).toEqual([[taskId(1)], [taskId(2)], [], []])
  // Of one that has exited nothing is known that could be told.
  expect(await store.worker(workerId(5))).toBeNull()
  expect(await store.history(10)).toEqual([])
})

it('begins an audit log in an older database, with what happens from then on', async () => {
  await using store = await openTaskStore({ url, logger: silentLogger })
  const whole = { after: 0, first: null, kept: null }
  expect(await store.verifyAudit(whole)).toMatchObject({ entries: 0, head: { seq: 0 }, fault: null })
  await store.beginRemoval([taskId(3)])
  await store.requestCancel(taskId(0), { at: START, reason: null })
  const { entries } = await store.auditLog({ filter: {}, first: 10, before: null })
  expect(entries.map(({ seq, target, status }) => [seq, target.id, status])).toEqual([
    [2, taskId(0), 'CANCELLED'],
    [1, taskId(3), 'REMOVED'],
  ])
  expect(await store.verifyAudit(whole)).toMatchObject({ entries: 2, fault: null })
})

it('goes on with the tasks of an older database', async () => {
  await using store = await openTaskStore({ url, logger: silentLogger })
  await store.append({ workerId: workerId(2), tasks: [requeued(2, 2)] })
  expect(await store.attempts(taskId(2))).toMatchObject([{ status: failure.status, runningAt: START + 20 }])
  const claims = [claimOf(0), claimOf(2, { attempt: 2, after: 3 })].map((claim, index) => ({
    ...claim,
    worker: { id: workerId(3), claim: { gpuIds: [gpuId(index)], memoryMb: null } },
  }))
  expect(await store.claim(claims)).toMatchObject([{ attempt: 1 }, { attempt: 2 }])
})
