import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { SERVICE, type Task, type TaskStore } from '@gpu-service/tasks'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { ExportOptions } from '../../src/http/exports.ts'
import { freshStore } from '../dispatch/fresh-store.ts'
import { startWorld } from './harness.ts'
import { liveThrough, MADE_AT, newTask } from './history.ts'

const ARTIFACT = { name: 'a.txt', bytes: 5, sha256: '0'.repeat(64) }
const FORMULA = '=HYPERLINK("http://evil.example","a, b")\r\nnext'

let store: TaskStore
let world: Awaited<ReturnType<typeof startWorld>>
let mayRead: ExportOptions['mayRead']

beforeEach(async () => {
  store = await freshStore()
  mayRead = () => true
  world = await open(store)
})
afterEach(async () => {
  await world[Symbol.asyncDispose]()
  await store[Symbol.asyncDispose]()
})

function open(given: TaskStore): ReturnType<typeof startWorld> {
  const signingKey = { publicKey: '', fingerprint: '', publicKeyBytes: Buffer.of(), sign: () => Buffer.of() }
  const gpus = { list: () => [] }
  return startWorld({
    exports: {
      store: given,
      gpus,
      version: '1',
      signingKey,
      mayRead: (request, what) => mayRead(request, what),
    },
  })
}

function urlOf(path: string): string {
  return new URL(path, world.server.url).href
}

async function rows(path: string): Promise<readonly Record<string, unknown>[]> {
  const response = await fetch(urlOf(path))
  expect(response.status).toBe(200)
  const text = await response.text()
  expect(text === '' || text.endsWith('\n')).toBe(true)
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, unknown>)
}

async function refused(path: string): Promise<string> {
  const response = await fetch(urlOf(path))
  const { errors } = (await response.json()) as { errors: { extensions: { code: string } }[] }
  return `${response.status} ${errors[0]?.extensions.code ?? ''}`
}

/** Reads CSV as RFC 4180 has it: record by record, field by field. */
function parseCsv(text: string): readonly (readonly string[])[] {
  const records: string[][] = []
  let record: string[] = []
  for (let at = 0; at < text.length;) {
    const [whole = '', quoted, plain = '', end] =
      /^(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/.exec(text.slice(at)) ?? []
    if (whole === '') throw new Error(`no field at ${at}: ${text.slice(at, at + 20)}`)
    record.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'))
    at += whole.length
    if (end === ',') continue
    records.push(record)
    record = []
  }
  return records
}

test('exports all tasks that match, newest first, each once, however many were submitted in one moment', async () => {
  const tasks = Array.from({ length: 130 }, (_, n) =>
    newTask({
      createdAt: MADE_AT + Math.floor(n / 50),
      labels: n % 2 === 0 ? { team: 'red' } : {},
      input: { n },
    }),
  )
  for (const task of tasks) await store.create([task])
  const ids = tasks.map(({ id }) => id).reverse()
  expect((await rows('/export/tasks')).map(({ id }) => id)).toEqual(ids)
  expect(await rows('/export/tasks?label.key=team&label.value=red')).toHaveLength(65)
  expect(await rows(`/export/tasks?createdAfter=${new Date(MADE_AT).toISOString()}`)).toHaveLength(80)
  expect(await rows('/export/tasks?status=FAILED,TIMED_OUT')).toEqual([])
  expect(await rows('/export/tasks?status=FAILED,QUEUED&presetId=no/such')).toEqual([])
})

test('exports what became of a task, in the same words in both formats', async () => {
  const task = newTask({ owner: FORMULA, labels: { 'a,b': '"c"' }, input: '=1+1' })
  await liveThrough(store, task, 'Hello', ARTIFACT)
  const [row = {}] = await rows('/export/tasks?status=COMPLETED')
  expect(row).toMatchObject({
    ...{
      id: task.id,
      owner: FORMULA,
      labels: { 'a,b': '"c"' },
      input: '=1+1',
      status: 'COMPLETED',
      attempt: 2,
    },
    ...{
      text: 'Hello',
      result: { ok: true },
      usage: { tokens: 3 },
      finishedAt: new Date(MADE_AT + 9).toISOString(),
    },
  })
  const response = await fetch(urlOf('/export/tasks?format=csv'))
  expect(response.headers.get('content-type')).toBe('text/csv; charset=utf-8; header=present')
  expect(response.headers.get('content-disposition')).toBe('attachment; filename="tasks.csv"')
  expect(response.headers.get('x-content-type-options')).toBe('nosniff')
  const [names = [], cells = [], ...more] = parseCsv(await response.text())
  expect(more).toEqual([])
  expect(names).toEqual(Object.keys(row))
  const cell = (name: string): string | undefined => cells[names.indexOf(name)]
  // A spreadsheet shows it as the text that it is.
  expect(cell('owner')).toBe(`'${FORMULA}`)
  expect(cell('labels')).toBe('{"a,b":"\\"c\\""}')
  expect(cell('input')).toBe('"=1+1"')
  expect(cell('errorCode')).toBe('')
  expect(cell('attempt')).toBe('2')
})

test.each(['=1', '+1', '-1', '@a', '\ta', '\ra'])('makes the text %j harmless in CSV alone', async (text) => {
  await store.create([newTask({ affinity: text, priority: -5 })])
  const [names = [], cells = []] = parseCsv(await (await fetch(urlOf('/export/tasks?format=csv'))).text())
  expect(cells[names.indexOf('affinity')]).toBe(`'${text}`)
  expect(cells[names.indexOf('priority')]).toBe('-5')
  expect((await rows('/export/tasks'))[0]?.['affinity']).toBe(text)
})

test("exports a task's events and the audit log", async () => {
  const task = newTask()
  await liveThrough(store, task, 'Hello', ARTIFACT)
  const events = await rows(`/export/events?task=${task.id}`)
  expect(events.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
  expect(events[5]).toMatchObject({ type: 'text', attempt: 2, body: { type: 'text', content: 'Hello' } })
  const entries = await rows('/export/audit?action=task.start')
  expect(entries.map(({ seq, targetId, actorKind }) => [seq, targetId, actorKind])).toEqual([
    [4, task.id, SERVICE.kind],
    [2, task.id, SERVICE.kind],
  ])
  const csv = parseCsv(await (await fetch(urlOf('/export/audit?format=csv'))).text())
  expect(csv).toHaveLength(7)
  expect(csv[0]?.slice(-2)).toEqual(['previousHash', 'hash'])
})

test('refuses what it does not understand', async () => {
  expect(await refused('/export/tasks?staus=FAILED')).toBe('400 BAD_REQUEST')
  expect(await refused('/export/tasks?status=DONE')).toBe('400 BAD_REQUEST')
  expect(await refused('/export/tasks?format=xml')).toBe('400 BAD_REQUEST')
  expect(await refused('/export/tasks?text=a&text=b')).toBe('400 BAD_REQUEST')
  expect(await refused('/export/tasks?createdAfter=yesterday')).toBe('400 BAD_REQUEST')
  expect(await refused('/export/tasks?label.value=x')).toBe('400 BAD_REQUEST')
  const words = Array.from({ length: 33 }, (_, index) => `word${index}`)
  expect(await refused(`/export/tasks?text=${words.join('%20')}`)).toBe('400 BAD_REQUEST')
  expect(await refused('/export/events')).toBe('400 BAD_REQUEST')
  expect(await refused('/export/events?task=no')).toBe('404 NOT_FOUND')
  expect(await refused('/export/audit?at=1')).toBe('400 BAD_REQUEST')
  expect(await refused('/export/tasks/no/bundle')).toBe('404 NOT_FOUND')
  const task = newTask()
  await store.create([task])
  expect(await refused(`/export/tasks/${task.id}/bundle`)).toBe('409 NOT_ENDED')
})

test('gives nobody what they may not read', async () => {
  const [mine, other] = [newTask({ owner: 'ann' }), newTask({ owner: 'bob' })]
  await store.create([mine, other])
  mayRead = (_request, what: 'audit' | Task) => what !== 'audit' && what.owner === 'ann'
  expect((await rows('/export/tasks')).map(({ id }) => id)).toEqual([mine.id])
  expect(await rows(`/export/events?task=${mine.id}`)).toHaveLength(1)
  expect(await refused(`/export/events?task=${other.id}`)).toBe('404 NOT_FOUND')
  expect(await refused(`/export/tasks/${other.id}/bundle`)).toBe('404 NOT_FOUND')
  expect(await refused('/export/audit')).toBe('403 FORBIDDEN')
})

test('reads no further than the client does, and ends when it hangs up', async () => {
  const input = 'x'.repeat(200_000)
  for (let n = 0; n < 10; n++)
    await store.create(
      Array.from({ length: 20 }, (_, at) => newTask({ input, createdAt: MADE_AT + n * 20 + at })),
    )
  let pages = 0
  const counting = new Proxy(store, {
    get(target, name) {
      if (name === 'tasks') pages++
      return Reflect.get(target, name, target) as unknown
    },
  })
  await world[Symbol.asyncDispose]()
  world = await open(counting)
  const request = get(urlOf('/export/tasks'))
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  // Nothing is taken. What is on its way fills the buffers of both sides, and then no more is read.
  const settled = async (): Promise<number> => {
    for (let before = -1; before !== pages;) {
      before = pages
      await sleep(200)
    }
    return pages
  }
  await vi.waitFor(() => {
    expect(pages).toBeGreaterThan(0)
  })
  const read = await settled()
  expect(read).toBeLessThan(8)
  response.destroy()
  expect(await settled()).toBeLessThanOrEqual(read + 1)
  expect(await rows(`/export/tasks?createdBefore=${new Date(MADE_AT + 3).toISOString()}`)).toHaveLength(3)
})

test('skips a task that is removed meanwhile, and cuts off a transfer that cannot be completed', async () => {
  const tasks = Array.from({ length: 60 }, (_, n) =>
    newTask({ createdAt: MADE_AT + n, input: 'x'.repeat(10_000) }),
  )
  await store.create(tasks)
  let page = 0
  const trouble = { at: 2, fails: false }
  const removing = new Proxy(store, {
    get(target, name) {
      if (name !== 'tasks') return Reflect.get(target, name, target) as unknown
      return async (query: Parameters<TaskStore['tasks']>[0]) => {
        if (++page !== trouble.at) return target.tasks(query)
        if (trouble.fails) throw new Error('The disk broke.')
        // The last one of the page before, and one that is still to come.
        for (const index of [40, 5])
          await target.requestCancel(tasks[index]?.id ?? fail(), { at: 1, reason: null })
        const removed = await target.beginRemoval([tasks[40]?.id ?? fail(), tasks[5]?.id ?? fail()])
        await target.continueRemoval(removed.map(({ id }) => id))
        return target.tasks(query)
      }
    },
  })
  await world[Symbol.asyncDispose]()
  world = await open(removing)
  const exported = (await rows('/export/tasks')).map(({ id }) => id)
  expect(exported).toEqual(
    tasks
      .map(({ id }) => id)
      .filter((_, index) => index !== 5)
      .reverse(),
  )
  Object.assign(trouble, { at: 3, fails: true })
  page = 0
  const response = await fetch(urlOf('/export/tasks'))
  expect(response.status).toBe(200)
  await expect(response.text()).rejects.toThrow('terminated')
})

function fail(): never {
  throw new Error('It is not there.')
}
