import { beforeEach, describe, expect, test } from 'vitest'
import {
  OUTPUT_START,
  silentLogger,
  StaleWriteError,
  type Clock,
  type TaskId,
  type WorkerId,
  type WorkerProgress,
} from '../../src/index.ts'
import { EventWriter, type TaskWriter } from '../../src/workers/event-writer.ts'
import { Feeds } from '../../src/feed.ts'

const taskId = 'task' as TaskId
const workerId = 'worker' as WorkerId

/** Time that passes at once. */
const clock: Clock = {
  now: () => 0,
  monotonic: () => 0,
  after(_ms, callback) {
    const timer = setImmediate(callback)
    return {
      [Symbol.dispose]: () => {
        clearImmediate(timer)
      },
    }
  },
}

let commits: WorkerProgress[]
let refuse: (progress: WorkerProgress) => unknown
let detach: AbortController
let writer: EventWriter
let task: TaskWriter

beforeEach(() => {
  commits = []
  refuse = () => null
  detach = new AbortController()
  const store = {
    append: async (progress: WorkerProgress) => {
      await new Promise(setImmediate)
      const error = refuse(progress)
      if (error instanceof Error) throw error
      commits.push(progress)
    },
    task: () => Promise.resolve(null),
    events: () => Promise.resolve([]),
  }
  const context = {
    store,
    feeds: new Feeds(store),
    clock,
    logger: silentLogger,
    detach: detach.signal,
    taskChanged: () => undefined,
  }
  writer = new EventWriter(context, workerId, OUTPUT_START)
  task = writer.openTask({ taskId, attempt: 1, lastSeq: 2 })
})

const cursor = (stdout: string): { stdout: string; stderr: string } => ({ stdout, stderr: '' })
const say = (delta: string): void => {
  task.write({ type: 'text_delta', delta })
}
const seqs = (): number[][] =>
  commits.map(({ tasks }) => tasks.flatMap(({ events }) => events.map(({ seq }) => seq)))
const settlement = {
  status: 'COMPLETED',
  at: 9,
  error: null,
  failureClass: null,
  exitCode: 0,
  evidence: null,
  charge: null,
  output: { text: null, result: null, usage: null },
} as const

describe('the writer', () => {
  test('stores each stretch with the cursor behind it, and numbers events without a hole', async () => {
    writer.beginStretch(1)
    say('a')
    writer.endStretch(cursor('after a'), 10, null)
    await writer.idle()
    writer.beginStretch(2)
    say('b')
    say('c')
    writer.endStretch(cursor('after c'), 20, 3)
    await writer.idle()
    expect(seqs()).toEqual([[3], [4, 5]])
    expect(commits.map((progress) => [progress.cursor?.stdout, progress.eventSeq])).toEqual([
      ['after a', undefined],
      ['after c', 3],
    ])
  })

  test('gathers what comes while a commit is under way', async () => {
    for (const delta of ['a', 'b', 'c', 'd']) {
      writer.beginStretch(1)
      say(delta)
      writer.endStretch(cursor(delta), 10, null)
    }
    await writer.idle()
    expect(seqs()).toEqual([[3], [4, 5, 6]])
  })

  test('stores nothing of an open stretch but with the settlement', async () => {
    writer.beginStretch(1)
    say('a line')
    writer.endStretch(cursor('after a line'), 10, null)
    writer.beginStretch(2)
    say('a last line without a newline')
    await writer.idle()
    expect(seqs()).toEqual([[3]])
    let isStored = false
    task.end(settlement, null, () => {
      isStored = true
    })
    writer.endStretch(writer.cursor, 0, null)
    expect(isStored).toBe(false)
    await writer.idle()
    expect(isStored).toBe(true)
    expect(seqs()).toEqual([[3], [4, 5]])
    expect(commits.at(-1)).toMatchObject({
      cursor: { stdout: 'after a line' },
      tasks: [{ settle: settlement }],
    })
  })

  test('tries again while the database is in trouble, and loses nothing', async () => {
    let left = 3
    refuse = () => (left-- > 0 ? new Error('locked') : null)
    writer.beginStretch(1)
    say('a')
    writer.endStretch(cursor('a'), 10, null)
    await writer.idle()
    expect(seqs()).toEqual([[3]])
  })

  test('holds back its reader while more is pending than may be held', async () => {
    for (let n = 0; n < 10; n++) {
      writer.beginStretch(1)
      say('x')
      writer.endStretch(cursor(`${n}`), 1024 * 1024, null)
    }
    expect(commits).toHaveLength(0)
    await writer.ready()
    expect(commits.length).toBeGreaterThan(0)
  })

  test('is broken where somebody else holds the task', async () => {
    refuse = () => new StaleWriteError(taskId, 'not yours')
    writer.beginStretch(1)
    say('a')
    writer.endStretch(cursor('a'), 10, null)
    await writer.idle()
    expect(writer.broken.aborted).toBe(true)
    expect(writer.broken.reason).toBeInstanceOf(StaleWriteError)
  })

  test('gives up what it cannot store once the service lets go of its workers', async () => {
    refuse = () => new Error('disk full')
    writer.beginStretch(1)
    say('a')
    writer.endStretch(cursor('a'), 10, null)
    detach.abort()
    await writer.idle()
    expect(commits).toEqual([])
  })

  test('stores what belongs to several tasks and to the worker itself in one commit, each under its own numbers', async () => {
    const other = writer.openTask({ taskId: 'other' as TaskId, attempt: 2, lastSeq: 7 })
    writer.beginStretch(1)
    say('a')
    other.write({ type: 'text_delta', delta: 'b' })
    writer.writeWorker({ type: 'worker', status: 'ready', message: null, progress: null })
    let isStored = false
    writer.changeWorker({ status: 'READY', readyAt: 1 }, () => {
      isStored = true
    })
    say('c')
    writer.endStretch(cursor('after'), 10, null)
    await writer.idle()
    expect(commits).toHaveLength(1)
    expect(isStored).toBe(true)
    expect(commits[0]).toMatchObject({
      worker: { status: 'READY' },
      workerEvents: [{ at: 1, body: { status: 'ready' } }],
      tasks: [
        { taskId, after: 2, events: [{ seq: 3 }, { seq: 4 }] },
        { taskId: 'other', attempt: 2, after: 7, events: [{ seq: 8, attempt: 2 }] },
      ],
    })
  })

  test('returns a task to the queue with a QUEUED event, and takes nothing of it after that', async () => {
    writer.aside(5, () => {
      task.end({ ...settlement, status: 'FAILED', retryAt: 99 }, 'again', () => undefined)
      say('too late')
    })
    await writer.idle()
    expect(commits[0]?.tasks).toMatchObject([
      {
        events: [{ seq: 3, at: 5, body: { taskStatus: 'QUEUED', reason: 'again' } }],
        requeue: { status: 'FAILED', retryAt: 99 },
      },
    ])
    expect(commits[0]?.tasks[0]).not.toHaveProperty('settle')
  })
})
