import { silentLogger, type TaskFilter, type TaskId, type TaskStore } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { filterSql } from '../src/filter.ts'
import { openTaskStore } from '../src/index.ts'
import {
  claimOf,
  completed,
  eventsAfter,
  newTask,
  presetId,
  requeued,
  settlement,
  START,
  taskId,
  temporaryFolder,
  workerId,
} from './fixtures.ts'
import { expected, splitIntoWords, type Known } from './search-oracle.ts'

/** What becomes of a task. */
const FATES = [
  ...([
    'queued',
    'starting',
    'completed',
    'failed',
    'cancelled',
    'requeued',
    'requeued and cancelled',
    'removed',
  ] as const),
]
type Fate = (typeof FATES)[number]

const OWNERS = ['acme', 'acme/ann', 'acme/bob', 'zeta', 'ac', 'a"*/NEAR']
const PRESETS = ['llama/chat', 'whisper/inference', 'llama/"x" OR']
const TEXTS = [
  ...[
    'red fox',
    'Red, GREEN',
    'dog NOT fox',
    'straße',
    'STRASSE 7',
    '東京 red',
    '京都',
    'e\u0301te\u0301',
    'Été',
    '\0 \ud800',
  ],
  ...['s=open', 'ﬁne', '٣ ३', 'สวัสดี', 'a'.repeat(100), ''],
]
const LABELS = [{}, { team: 'red' }, { team: 'Red' }, { team: 'red', 'k "y=': 'a b' }, { fox: '' }] as const

const aTask = fc.record({
  owner: fc.constantFrom(...OWNERS),
  preset: fc.constantFrom(...PRESETS),
  labels: fc.constantFrom(...LABELS),
  input: fc.array(fc.constantFrom(...TEXTS), { maxLength: 2 }),
  at: fc.integer({ min: 0, max: 9 }),
  fate: fc.constantFrom(...FATES),
  output: fc.constantFrom(...TEXTS),
  error: fc.constantFrom(...TEXTS),
})
type Given = typeof aTask extends fc.Arbitrary<infer T> ? T : never

const SINGLE: readonly TaskFilter[] = [
  {},
  ...(['QUEUED', 'STARTING', 'COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'] as const).map((one) => ({
    status: [one],
  })),
  { status: ['QUEUED', 'COMPLETED'] },
  { status: ['STARTING', 'FAILED', 'CANCELLED'] },
  { status: ['RUNNING', 'STARTING'] },
  ...[...PRESETS, 'no/such'].map((id) => ({ presetId: id })),
  { presets: [presetId('llama/chat'), presetId('llama/"x" OR')] },
  { presets: [] },
  ...[...OWNERS, 'nobody'].map((owner) => ({ owner })),
  { label: { key: 'team', value: null } },
  { label: { key: 'team', value: 'red' } },
  { label: { key: 'k "y=', value: 'a b' } },
  { label: { key: 'fox', value: '' } },
  { createdAfter: START + 4 },
  { createdBefore: START + 4 },
  { createdAfter: START + 2.5, createdBefore: START + 6.5 },
  { createdBefore: 1e15 },
  { createdAfter: -1e15 },
  { id: taskId(3) },
  ...[
    'fox',
    'RED',
    'red fox',
    'strasse',
    '京',
    '東京',
    'été',
    'llama',
    'completed',
    'a'.repeat(80),
    '...',
  ].map((text) => ({ text })),
  { text: taskId(5) },
  { text: taskId(5).slice(0, -1).toUpperCase() },
  { text: `${taskId(5).slice(0, 13)} fox` },
]
const PAIRS = SINGLE.flatMap((a, i) => SINGLE.slice(i + 1).map((b) => ({ ...a, ...b })))

describe('a search', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let file: string
  let store: TaskStore

  const open = () => openTaskStore({ url: `file:${file}`, logger: silentLogger })
  beforeEach(async () => {
    folder = temporaryFolder()
    file = `${folder.path}/tasks.db`
    store = await open()
  })
  afterEach(async () => {
    await store[Symbol.asyncDispose]()
    folder[Symbol.dispose]()
  })

  async function page(filter: TaskFilter, first = 100): Promise<readonly TaskId[]> {
    return (await store.tasks({ filter, first, after: null })).tasks.map(({ id }) => id)
  }

  async function pages(filter: TaskFilter, first: number): Promise<readonly TaskId[]> {
    const ids: TaskId[] = []
    for (;;) {
      const { tasks, hasNextPage } = await store.tasks({ filter, first, after: ids.at(-1) ?? null })
      ids.push(...tasks.map(({ id }) => id))
      if (!hasNextPage) return ids
    }
  }

  async function end(n: number, after: number, attempt: number, text: string, error: string | null) {
    const status = error === null ? 'COMPLETED' : 'FAILED'
    const [event] = eventsAfter(after, { ...completed, taskStatus: status } as typeof completed)
    await store.append({
      workerId: workerId(n),
      tasks: [
        {
          ...{
            taskId: taskId(n),
            attempt,
            after,
            events: event === undefined ? [] : [{ ...event, attempt }],
          },
          settle: {
            ...{ ...settlement, status, error: error === null ? null : { code: 'E', message: error } },
            output: { text, result: null, usage: null },
          },
        },
      ],
    })
  }

  /** Lets it happen, and gives what is known of it then; `null`: nothing. */
  async function live(
    n: number,
    fate: Fate,
    output: string,
    error: string,
  ): Promise<Pick<Known, 'status' | 'output' | 'error'> | null> {
    const id = taskId(n)
    const none = { output: '', error: '' }
    if (fate === 'queued') return { status: 'QUEUED', ...none }
    if (fate === 'cancelled') {
      await store.requestCancel(id, { at: START, reason: 'fox' })
      return { status: 'CANCELLED', ...none }
    }
    await store.claim([claimOf(n)])
    if (fate === 'starting') return { status: 'STARTING', ...none }
    if (fate.startsWith('requeued')) {
      await store.append({ workerId: workerId(n), tasks: [requeued(n, 2)] })
      if (fate === 'requeued') return { status: 'QUEUED', ...none }
      await store.requestCancel(id, { at: START, reason: null })
      return { status: 'CANCELLED', output: 'half', error: '' }
    }
    await end(n, 2, 1, output, fate === 'failed' ? error : null)
    if (fate === 'failed') return { status: 'FAILED', output, error }
    if (fate === 'completed') return { status: 'COMPLETED', output, error: '' }
    await store.beginRemoval([id])
    return null
  }

  async function history(given: readonly Given[]): Promise<readonly Known[]> {
    const tasks = given.map(({ owner, preset, labels, input, at }, n) =>
      newTask(n, {
        owner,
        presetId: presetId(preset),
        labels,
        input: { fox: input, yes: true },
        createdAt: START + at,
      }),
    )
    // Together and one by one.
    await store.create(tasks.slice(0, 20))
    for (const task of tasks.slice(20)) await store.create([task])
    const known: Known[] = []
    for (const [n, { owner, preset, labels, input, at, fate, output, error }] of given.entries()) {
      const lived = await live(n, fate, output, error)
      if (lived === null) continue
      known.push({
        ...{ n, id: taskId(n), owner, presetId: preset, labels, input, createdAt: START + at },
        ...lived,
      })
    }
    return known
  }

  it.each([1, 2])(
    'gives exactly what matches, for every filter and each two of them (history %i)',
    async (seed) => {
      const [given = []] = fc.sample(fc.array(aTask, { minLength: 70, maxLength: 70 }), { seed, numRuns: 1 })
      const known = await history(given)
      const all = given.map((_, n) => taskId(n))
      for (const filter of [...SINGLE, ...PAIRS]) {
        const wanted = expected(known, filter).map(taskId)
        const told = JSON.stringify(filter)
        expect(await page(filter), told).toEqual(wanted)
        expect(await pages(filter, 9), told).toEqual(wanted)
        expect(await store.countTasks(filter, 100), told).toBe(wanted.length)
        const matching = await store.matching(all, filter)
        expect(matching.map(({ id }) => id).sort(), told).toEqual([...wanted].sort())
      }
    },
    120_000,
  )

  it('takes any text for the words in it, or refuses it for their number', async () => {
    const inputs = ['red fox', 'NEAR OR AND NOT', 'words rank rowid', '1 2 3', '東京']
    await store.create(inputs.map((input, n) => newTask(n, { input })))
    const known = inputs.map((input, n) => ({
      ...{ n, id: taskId(n), owner: 'ann', presetId: 'test/inference', labels: {}, input: [input] },
      ...{ createdAt: START + n, status: 'QUEUED' as const, output: '', error: '' },
    }))
    const hostile = [
      ...[
        '"',
        '""',
        "'",
        '*',
        '(',
        ')',
        '^',
        ':',
        '-',
        '+',
        '\\',
        '%',
        '{a b}',
        'NEAR(red fox, 2)',
        'red AND',
        'OR fox',
        'NOT',
      ],
      ...[
        'words:red',
        '{words}: red',
        '- words: red',
        '"red fox',
        'red*',
        '^red',
        's=open',
        '"s=open" OR red',
        '\0',
        'red\0fox',
      ],
      ...[
        '\ud800',
        '😀',
        'red😀fox',
        '--',
        '/* */',
        "'; DROP TABLE Task; --",
        'x'.repeat(10_000),
        '"'.repeat(10_000),
        '((((('.repeat(2_000),
      ],
    ]
    const any = fc.oneof(
      fc.constantFrom(...hostile),
      fc.string({ unit: 'binary', maxLength: 40 }),
      fc
        .array(fc.constantFrom(...hostile.slice(0, 20), 'red', 'fox', ' '), { maxLength: 12 })
        .map((parts) => parts.join('')),
    )
    const texts = fc.sample(any, { seed: 1, numRuns: 600 })
    for (const text of [...hostile, ...texts]) {
      const wanted = expected(known, { text }).map(taskId)
      expect(await page({ text }), JSON.stringify(text)).toEqual(wanted)
    }
    for (const text of [
      Array.from({ length: 33 }, (_, n) => `w${n}`).join(' '),
      Array.from({ length: 33 }, (_, n) => n).join('.'),
    ])
      await expect(page({ text })).rejects.toMatchObject({ code: 'INVALID_FILTER' })
    expect(splitIntoWords('x'.repeat(10_000))).toEqual(['x'.repeat(64)])
  })

  it('finds what stands in the first 100,000 characters of a text, and not what comes after', async () => {
    const filler = 'x '.repeat(49_990)
    await store.create([
      newTask(1, { input: ['begin', `${filler} inside`] }),
      newTask(2, { input: [filler, `${filler} outside`] }),
    ])
    expect(await page({ text: 'inside' })).toEqual([taskId(1)])
    expect(await page({ text: 'outside' })).toEqual([])
    await store.claim([claimOf(1)])
    await end(1, 2, 1, `${filler} inner ${filler} outer`, null)
    expect(await page({ text: 'inner' })).toEqual([taskId(1)])
    expect(await page({ text: 'outer' })).toEqual([])
  })

  it('reads no more of the tasks than it gives, and sorts none', () => {
    const database = new Database(file)
    const plan = (filter: TaskFilter): readonly string[] => {
      const sql = filterSql(filter)?.newest(10, taskId(1))
      if (sql === undefined) return []
      const rows = database.prepare<unknown[], { detail: string }>(`EXPLAIN QUERY PLAN ${sql.sql}`)
      return rows.all(...sql.values).map(({ detail }) => detail)
    }
    const filters: readonly TaskFilter[] = [
      { text: 'fox' },
      { owner: 'acme', label: { key: 'a', value: null }, createdAfter: START, createdBefore: START + 1 },
      { status: ['COMPLETED', 'FAILED'] },
      { status: ['QUEUED', 'FAILED'], presetId: 'a/b' },
      {},
      { createdAfter: START },
    ]
    for (const filter of filters) {
      const steps = plan(filter).join('; ')
      expect(steps, JSON.stringify(filter)).not.toMatch(/SCAN t|AUTOMATIC/)
      expect(steps.replace(/^.*CO-ROUTINE/, ''), JSON.stringify(filter)).toMatch(/Task_place_key/)
      if (filter.status === undefined) expect(steps, JSON.stringify(filter)).not.toMatch(/TEMP B-TREE/)
    }
    database.close()
  })

  it('goes on making the rows that an older database lacks where it was interrupted', async () => {
    await store.create(Array.from({ length: 250 }, (_, n) => newTask(n)))
    await store[Symbol.asyncDispose]()
    const database = new Database(file)
    database.exec(
      'DELETE FROM "TaskSearch" WHERE "rowid" > (SELECT "place" FROM "Task" ORDER BY "place" LIMIT 1 OFFSET 20)',
    )
    database.close()
    store = await open()
    expect(await pages({ text: 'task' }, 100)).toHaveLength(250)
    expect(await page({ text: '249', status: ['QUEUED'] })).toEqual([taskId(249)])
  })

  it('is of the contents as they are after a change of them', async () => {
    await store.create([newTask(1, { input: 'before' }), newTask(2, { input: 'before' })])
    await store.requestCancel(taskId(1), { at: START, reason: null })
    expect(await page({ text: 'before', status: ['QUEUED'] })).toEqual([taskId(2)])
    expect(await page({ text: 'before', status: ['CANCELLED'] })).toEqual([taskId(1)])
    await store.beginRemoval([taskId(1)])
    expect(await page({ text: 'before' })).toEqual([taskId(2)])
    expect(await page({ status: ['CANCELLED'] })).toEqual([])
    expect(await store.countTasks({}, 10)).toBe(1)
    while ((await store.continueRemoval([taskId(1)])) === 0);
    const database = new Database(file)
    expect(database.prepare('SELECT COUNT(*) FROM "TaskSearch_docsize"').pluck().get()).toBe(1)
    expect(database.pragma('integrity_check', { simple: true })).toBe('ok')
    database.close()
  })
})
