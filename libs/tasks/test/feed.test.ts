import fc from 'fast-check'
import { setImmediate as turn } from 'node:timers/promises'
import { beforeEach, describe, expect, test } from 'vitest'
import type { Task, TaskEvent, TaskEventBody, TaskId, TaskStatus } from '../src/index.ts'
import { Changes, Feeds } from '../src/feed.ts'
import { MAX_BATCH_EVENTS } from '../src/tail.ts'

const id = 'task' as TaskId

/** What a feed reads of a store: a task's row and its events, and how often it asked for these. */
class Log {
  readonly events_: TaskEvent[] = []
  status: TaskStatus = 'RUNNING'
  reads = 0
  isRemoved = false

  append(...bodies: TaskEventBody[]): TaskEvent[] {
    const events = bodies.map((body, index) => ({
      seq: this.events_.length + 1 + index,
      at: 0,
      attempt: 1,
      body,
    }))
    this.events_.push(...events)
    const last = bodies.at(-1)
    if (last?.type === 'status') this.status = last.taskStatus
    return events
  }

  /** Takes the task away, and the end of its events. */
  remove(from: number): void {
    this.isRemoved = true
    this.events_.splice(from)
  }

  task(asked: TaskId): Promise<Task | null> {
    if (this.isRemoved) return Promise.resolve(null)
    const row = { id, status: this.status, lastSeq: this.events_.length }
    return Promise.resolve(asked === id ? (row as Task) : null)
  }

  events(_id: TaskId, after: number, limit: number): Promise<readonly TaskEvent[]> {
    this.reads++
    return Promise.resolve(this.events_.slice(after, after + limit))
  }
}

const delta = (text: string): TaskEventBody => ({ type: 'text_delta', delta: text })
const ended: TaskEventBody = { type: 'status', taskStatus: 'COMPLETED', reason: null }

let log: Log
let feeds: Feeds
beforeEach(() => {
  log = new Log()
  feeds = new Feeds(log)
})

const commit = (...bodies: TaskEventBody[]): void => {
  feeds.committed(id, log.append(...bodies), bodies.length * 40)
}

async function readAll(after: number): Promise<number[]> {
  const seqs: number[] = []
  for await (const { events } of await feeds.open(id, { after }))
    seqs.push(...events.map((event) => event.seq))
  return seqs
}

const upTo = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i)

describe('a feed', () => {
  test('gives what is stored, then what comes, and ends with the final status', async () => {
    log.append(delta('a'), delta('b'))
    const reading = readAll(0)
    commit(delta('c'))
    commit(delta('d'), ended)
    expect(await reading).toEqual([1, 2, 3, 4, 5])
  })

  test('gives a reader that comes back exactly the rest', async () => {
    log.append(...upTo(1, 1_500).map(() => delta('x')), ended)
    for (const after of [0, 1, MAX_BATCH_EVENTS, 1_499, 1_500])
      expect(await readAll(after)).toEqual(upTo(after + 1, 1_501))
  })

  test('completes at once, and empty, after the last event of an ended task', async () => {
    log.append(delta('a'), ended)
    expect(await readAll(2)).toEqual([])
  })

  test.each([-1, 3])('refuses the cursor %d of a task with two events', async (after) => {
    log.append(delta('a'), delta('b'))
    await expect(feeds.open(id, { after })).rejects.toMatchObject({ code: 'BAD_CURSOR' })
  })

  test('refuses a task that is not there', async () => {
    await expect(feeds.open('other' as TaskId, { after: 0 })).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  test('lets a reader go that leaves while it waits', async () => {
    log.append(delta('a'))
    const feed = await feeds.open(id, { after: 1 })
    const waiting = feed.next()
    await expect.poll(() => feeds.watched).toBe(1)
    await feed.return?.()
    expect(await waiting).toEqual({ done: true, value: undefined })
    expect(feeds.watched).toBe(0)
  })

  test('lets a reader go whose signal is aborted while it waits', async () => {
    log.append(delta('a'))
    const stop = new AbortController()
    const feed = await feeds.open(id, { after: 1, signal: stop.signal })
    const waiting = feed.next()
    await expect.poll(() => feeds.watched).toBe(1)
    stop.abort()
    expect(await waiting).toEqual({ done: true, value: undefined })
    expect(feeds.watched).toBe(0)
  })

  test('serves readers that are up to date without the store', async () => {
    commit(delta('a'))
    const readers = await Promise.all(upTo(1, 50).map(() => feeds.open(id, { after: 1 })))
    const first = readers.map((feed) => feed.next())
    await expect.poll(() => feeds.watched).toBe(1)
    const before = log.reads
    commit(delta('b'))
    const batches = (await Promise.all(first)).map(({ value }) => value as unknown)
    expect(new Set(batches).size).toBe(1)
    expect(log.reads).toBe(before)
    for (const feed of readers) await feed.return?.()
  })

  test('gives a reader that is far behind everything, in larger batches, while others go on', async () => {
    const slow = await feeds.open(id, { after: 0 })
    const quick = readAll(0)
    for (const n of upTo(1, 12_000)) commit(delta(`${n}`))
    commit(ended)
    expect(await quick).toEqual(upTo(1, 12_001))
    const sizes: number[] = []
    for await (const { events } of slow) sizes.push(events.length)
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(12_001)
    expect(sizes.length).toBeLessThan(50)
  })

  test('finds events that were written past it', async () => {
    commit(delta('a'))
    const reading = readAll(0)
    log.append(ended)
    feeds.changed(id)
    expect(await reading).toEqual([1, 2])
  })

  test('tells a reader that is behind that the task was removed, after what it still found', async () => {
    for (const n of upTo(1, 1_200)) commit(delta(`${n}`))
    commit(ended)
    feeds.forget(id)
    const feed = await feeds.open(id, { after: 0 })
    await feed.next()
    log.remove(700)
    feeds.changed(id)
    const seen: number[] = []
    const reading = (async () => {
      for await (const { events } of feed) seen.push(...events.map(({ seq }) => seq))
    })()
    await expect(reading).rejects.toMatchObject({ code: 'HISTORY_REMOVED' })
    expect(seen).toEqual(upTo(501, 700))
    expect(feeds.watched).toBe(0)
  })

  test('tells a reader that waits for news that the task was removed', async () => {
    commit(delta('a'))
    const readers = await Promise.all([1, 1].map((after) => feeds.open(id, { after })))
    const waiting = readers.map((feed) => feed.next())
    await expect.poll(() => feeds.watched).toBe(1)
    log.append(ended)
    log.remove(1)
    feeds.changed(id)
    for (const next of waiting) await expect(next).rejects.toMatchObject({ code: 'HISTORY_REMOVED' })
    await expect(feeds.open(id, { after: 0 })).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  test('reads on from the store when the recent events are forgotten', async () => {
    commit(delta('a'), delta('b'), ended)
    feeds.forget(id)
    expect(await readAll(1)).toEqual([2, 3])
  })
})

/** A store that takes its time: what it answers is as old as the question. */
class SlowLog extends Log {
  override async events(id: TaskId, after: number, limit: number): Promise<readonly TaskEvent[]> {
    const events = await super.events(id, after, limit)
    await turn()
    return events
  }
}

const stretches = fc.array(
  fc.record({
    length: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 900 })),
    /** How readers get to know of it. */
    how: fc.constantFrom<('committed' | 'changed' | 'forgotten')[]>(
      'committed',
      'committed',
      'changed',
      'forgotten',
    ),
    /** Where readers join after it, as parts of what there is by then. */
    joins: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 4 }),
    waits: fc.boolean(),
  }),
  { minLength: 1, maxLength: 12 },
)

test('a feed has no seam between what is stored and what comes, wherever a reader joins', async () => {
  const tries = fc.asyncProperty(stretches, async (parts) => {
    const slow = new SlowLog()
    const live = new Feeds(slow)
    const reading: Promise<readonly [after: number, seqs: readonly number[]]>[] = []
    const join = async (after: number): Promise<readonly [number, readonly number[]]> => {
      const seqs: number[] = []
      for await (const { events } of await live.open(id, { after }))
        seqs.push(...events.map(({ seq }) => seq))
      return [after, seqs]
    }
    const add = (events: TaskEvent[], how: 'committed' | 'changed' | 'forgotten'): void => {
      if (how === 'changed') live.changed(id)
      else live.committed(id, events, events.length * 600)
      if (how === 'forgotten') live.forget(id)
    }
    for (const { length, how, joins, waits } of parts) {
      add(slow.append(...upTo(1, length).map(() => delta('x'))), how)
      for (const part of joins) reading.push(join(Math.floor(part * slow.events_.length)))
      if (waits) await turn()
    }
    add(slow.append(ended), 'committed')
    for (const [after, seqs] of await Promise.all(reading)) {
      expect(seqs).toEqual(upTo(after + 1, slow.events_.length))
    }
    expect(live.watched).toBe(0)
  })
  await fc.assert(tries, { numRuns: 150 })
})

test('a feed that is opened and left 10,000 times, at whatever point, is watched by nobody', async () => {
  commit(delta('a'), delta('b'))
  for (let n = 0; n < 10_000; n++) {
    const feed = await feeds.open(id, { after: n % 3 })
    // Before it is read, while it reads or waits, and between two reads.
    const taking = n % 4 === 0 ? null : feed.next()
    if (n % 4 === 1 && n % 3 !== 2) await taking
    await feed.return?.()
    await taking
  }
  expect(feeds.watched).toBe(0)
})

describe('changes', () => {
  test('tell a slow watcher each key once', async () => {
    const changes = new Changes<string>()
    const watching = changes.watch()
    for (const key of ['a', 'b', 'a', 'a']) changes.changed(key)
    expect(await watching.next()).toEqual({ done: false, value: ['a', 'b'] })
    const waiting = watching.next()
    await watching.return?.()
    expect(await waiting).toEqual({ done: true, value: undefined })
    changes.changed('c')
    expect(await watching.next()).toEqual({ done: true, value: undefined })
  })
})
