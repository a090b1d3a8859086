// What a page of a large history costs, for all that can be asked for together. Run it with: npx tsx libs/task-store/bench/search.ts [how many tasks]
// It ends with 1 where a page, or a count, has cost more than its budget.

import { argv } from 'node:process'
import { fileURLToPath } from 'node:url'
import { silentLogger, type PresetId, type TaskFilter, type TaskId, type TaskStore } from '@gpu-service/tasks'
import { openTaskStore } from '../src/index.ts'
import { START, temporaryFolder } from '../test/fixtures.ts'
import type { Figure } from './append.ts'
import { idOfNth, STEP_MS, writeLargeHistory } from './large-history.ts'

const TASKS = 1_000_000
const BUDGET_MS = 100
/** Of so many together as there are, so many are tried. */
const COMBINATIONS = 400
const FIRST = 100
/** As the API counts. */
const MAX_COUNT = 10_000

/** For each field what is common, what is rare and what is not there. */
function fieldsOf(count: number): Readonly<Record<string, readonly TaskFilter[]>> {
  const presets = (...ids: readonly string[]) => ids as readonly PresetId[]
  const at = (part: number): number => START + Math.floor(count * part) * STEP_MS
  return {
    status: [
      ...([
        ['COMPLETED'],
        ['TIMED_OUT'],
        ['RUNNING'],
        ['QUEUED', 'FAILED'],
        ['COMPLETED', 'FAILED', 'CANCELLED'],
      ] as const),
    ].map((status) => ({ status: [...status] })),
    owner: ['big', 'big/ann', 'acme', 'small7', 'nobody'].map((owner) => ({ owner })),
    preset: ['llama/chat', 'rare/preset', 'no/such'].map((presetId) => ({ presetId })),
    'presets of a key': [
      { presets: presets('llama/chat', 'sdxl/image') },
      {
        presets: presets(
          ...Array.from({ length: 50 }, (_, n) => `p${n}/x`),
          'whisper/inference',
          'rare/preset',
        ),
      },
    ],
    label: [{ label: { key: 'team', value: 'red' } }, { label: { key: 'rare', value: null } }],
    text: [
      ...['nowhere', 'needle', 'half', 'half other', 'common half third1 w7', 'w7 w8 w9x', 'memory', '12345'],
      ...[
        idOfNth(Math.floor(count / 2)).slice(0, 8),
        Array.from({ length: 32 }, (_, n) => `w${n}`).join(' '),
      ],
    ].map((text) => ({ text })),
    time: [
      { createdAfter: at(0.9) },
      { createdAfter: at(0.4), createdBefore: at(0.5) },
      { createdBefore: at(0.001) },
    ],
  }
}

interface Asked {
  readonly by: string
  readonly filter: TaskFilter
}

function allAsked(count: number): readonly Asked[] {
  const fields = Object.entries(fieldsOf(count)).map(([name, filters]) => ({ name, filters }))
  const single = fields.flatMap(({ name, filters }) => filters.map((filter) => ({ by: name, filter })))
  const pairs = single.flatMap((a) =>
    single
      .filter((b) => a.by < b.by)
      .map((b) => ({ by: 'two of these', filter: { ...a.filter, ...b.filter } })),
  )
  // The same ones each time.
  let state = 1
  const random = (below: number): number => {
    state = (state * 48_271) % 2_147_483_647
    return state % below
  }
  const more = Array.from({ length: COMBINATIONS }, (): Asked => {
    const chosen = fields.filter(() => random(10) < 6)
    const filters = chosen.map(({ filters: some }) => some[random(some.length)] ?? {})
    return { by: 'any of them', filter: Object.assign({}, ...filters) as TaskFilter }
  })
  return [{ by: 'nothing', filter: {} }, ...single, ...pairs, ...more]
}

/** Of the processor, and from beginning to end: the latter is more on a machine that is busy with other things. */
interface Cost {
  readonly cpuMs: number
  readonly tookMs: number
  readonly told: string
}

async function costOf(told: string, work: () => Promise<unknown>): Promise<Cost> {
  const [start, cpu] = [performance.now(), process.cpuUsage()]
  await work()
  const { user, system } = process.cpuUsage(cpu)
  return { cpuMs: (user + system) / 1_000, tookMs: performance.now() - start, told }
}

/** Takes about ten minutes with a million tasks: half of it to make them. */
export async function bench(count = TASKS): Promise<readonly Figure[]> {
  using folder = temporaryFolder()
  const file = `${folder.path}/bench.db`
  await writeLargeHistory(file, count)
  const filling = await costOf('', async () => {
    await (await openTaskStore({ url: `file:${file}`, logger: silentLogger }))[Symbol.asyncDispose]()
  })
  await using store = await openTaskStore({ url: `file:${file}`, logger: silentLogger })
  // The first query of a process is compiled.
  await store.tasks({ filter: {}, first: FIRST, after: null })
  const costs = new Map<string, Cost[]>()
  for (const asked of allAsked(count)) {
    for (const [what, cost] of await costsOf(store, asked, count)) {
      const name = `${what}, by ${asked.by}`
      costs.set(name, [...(costs.get(name) ?? []), cost])
    }
  }
  return [
    {
      name: `make ${count.toLocaleString('en')} tasks of an older database ready for search`,
      value: filling.tookMs / 1_000,
      unit: 's',
      ratio: 0,
      note: `${(filling.cpuMs / 1_000).toFixed(0)} s CPU, once`,
    },
    ...[...costs].map(([name, some]) => figureOf(name, some)),
  ]
}

async function costsOf(
  store: TaskStore,
  { filter }: Asked,
  count: number,
): Promise<readonly [string, Cost][]> {
  const told = JSON.stringify(filter)
  const page = (after: TaskId | null) => () => store.tasks({ filter, first: FIRST, after })
  return [
    ['first page', await costOf(told, page(null))],
    ['page in the middle', await costOf(told, page(idOfNth(Math.floor(count / 2))))],
    ['last page', await costOf(told, page(idOfNth(50)))],
    ['count', await costOf(told, () => store.countTasks(filter, MAX_COUNT))],
  ]
}

function figureOf(name: string, costs: readonly Cost[]): Figure {
  const sorted = [...costs].sort((a, b) => a.cpuMs - b.cpuMs)
  const [half, worst] = [sorted[Math.floor(sorted.length / 2)], sorted.at(-1)]
  const took = Math.max(...costs.map(({ tookMs }) => tookMs))
  return {
    name,
    value: worst?.cpuMs ?? Number.NaN,
    unit: 'ms CPU',
    ratio: (worst?.cpuMs ?? Number.NaN) / BUDGET_MS,
    note: `budget ${BUDGET_MS} ms, the worst of ${costs.length}, p50 ${half?.cpuMs.toFixed(1)} ms; from beginning to end at most ${took.toFixed(0)} ms; ${worst?.told}`,
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  const figures = await bench(Number(argv[2] ?? TASKS))
  for (const { name, value, unit, note } of figures)
    console.log(`${name.padEnd(60)} ${value.toFixed(1).padStart(7)} ${unit}  (${note})`)
  if (figures.some(({ ratio }) => ratio > 1)) process.exitCode = 1
}
