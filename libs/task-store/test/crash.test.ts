import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as later } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { silentLogger, type TaskStore } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { expect, it } from 'vitest'
import { openTaskStore } from '../src/index.ts'
import { deltas, taskId, temporaryFolder, workerId } from './fixtures.ts'

const CRASHES = 20
/** Acknowledged before a crash, at most. */
const MOST_WRITES = 400
/** This task and the next are tried again and again; those before it only grow. */
const RETRIED = 4
const script = fileURLToPath(new URL('crash-writer.ts', import.meta.url))

/** Numbers in [0, 1), the same for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** The two that are claimed together and requeued together are always at the same point, and so are their rows and their events. */
async function expectWholeAttempts(store: TaskStore, where: string): Promise<void> {
  const [first, second] = await Promise.all(
    [RETRIED, RETRIED + 1].map(async (n) => {
      const task = await store.task(taskId(n))
      const attempts = await store.attempts(taskId(n))
      const events = await store.events(taskId(n), 0, 10_000_000)
      return {
        status: task?.status,
        attempts: attempts.map(({ attempt, status, workerId }) => ({ attempt, status, workerId })),
        events: events.map(({ attempt, body }) => ({ attempt, body })),
      }
    }),
  )
  expect(second, where).toEqual(first)
  if (first?.status === undefined) return
  const { status, attempts, events } = first
  expect(events.at(-1)?.body, where).toMatchObject({ taskStatus: status })
  expect(events.length, where).toBe(attempts.length * 2 + (status === 'QUEUED' ? 1 : 0))
  const unfinished = attempts.filter((attempt) => attempt.status === null)
  expect(unfinished, where).toEqual(status === 'QUEUED' ? [] : attempts.slice(-1))
  for (const { workerId, status } of attempts) {
    expect((await store.worker(workerId))?.tasksServed, where).toBe(status === null ? 0 : 2)
  }
}

/** What the log tells of a task is what the task is. */
async function expectTrueAudit(store: TaskStore, where: string): Promise<void> {
  expect((await store.verifyAudit({ after: 0, first: null, kept: null })).fault, where).toBeNull()
  for (const n of [1, 2, 3, RETRIED, RETRIED + 1]) {
    const filter = { targetId: taskId(n) }
    const { entries } = await store.auditLog({ filter, first: 1, before: null })
    expect(entries[0]?.status, `${where}, task ${n}`).toBe((await store.task(taskId(n)))?.status)
    const starts = await store.auditLog({
      ...{ filter: { ...filter, action: 'task.start' }, first: 1_000_000, before: null },
    })
    expect(starts.entries.length, `${where}, task ${n}`).toBe((await store.attempts(taskId(n))).length)
  }
}

/** What a list finds of a task is what the task is. */
async function expectTrueLists(store: TaskStore, where: string): Promise<void> {
  for (const { id, status } of (await store.tasks({ filter: {}, first: 100, after: null })).tasks) {
    const found = await store.tasks({ filter: { status: [status], text: id }, first: 2, after: null })
    expect(
      found.tasks.map((task) => task.id),
      where,
    ).toEqual([id])
  }
}

it(`loses nothing that was acknowledged when the process is killed, ${CRASHES} times over`, async () => {
  const seed = Date.now() >>> 0
  const random = randomOf(seed)
  using folder = temporaryFolder()
  const url = `file:${folder.path}/tasks.db`
  const acknowledged = new Map<number, number>()

  for (let crash = 0; crash < CRASHES; crash++) {
    const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), script, url], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const exit = once(child, 'exit')
    const lines = createInterface({ input: child.stdout })
    const closed = once(lines, 'close')
    // By what is written, not by the time: a slow machine writes as much between two crashes.
    let left = Math.ceil(random() * MOST_WRITES)
    const enough = new Promise<void>((resolve) => {
      lines.on('line', (line) => {
        const [n = 0, seq = 0] = line.split(' ').map(Number)
        acknowledged.set(n, seq)
        left -= 1
        if (left === 0) resolve()
      })
    })
    await Promise.race([enough, exit])
    await later(random() * 5)
    child.kill('SIGKILL')
    expect((await exit)[1], `seed ${seed}, crash ${crash}: it ended by itself`).toBe('SIGKILL')
    await closed

    const store = await openTaskStore({ url, logger: silentLogger })
    for (const [n, seq] of acknowledged) {
      const where = `seed ${seed}, crash ${crash}, task ${n}`
      const task = await store.task(taskId(n))
      const events = await store.events(taskId(n), 0, 10_000_000)
      expect(task?.lastSeq, where).toBeGreaterThanOrEqual(seq)
      expect(events.length, where).toBe(task?.lastSeq)
      if (n >= RETRIED) continue
      expect(events.slice(2), where).toEqual(deltas(2, events.length - 2))
      if (events.length > 2) {
        expect((await store.worker(workerId(n)))?.cursor.stdout, where).toBe(String(events.length))
      }
    }
    await expectWholeAttempts(store, `seed ${seed}, crash ${crash}`)
    await expectTrueAudit(store, `seed ${seed}, crash ${crash}`)
    await expectTrueLists(store, `seed ${seed}, crash ${crash}`)
    await store[Symbol.asyncDispose]()
  }

  expect([...acknowledged.values()].every((seq) => seq > 100)).toBe(true)
  const database = new Database(`${folder.path}/tasks.db`, { readonly: true })
  expect(database.pragma('integrity_check', { simple: true })).toBe('ok')
  expect(database.pragma('foreign_key_check')).toEqual([])
  database.close()
}, 180_000)
