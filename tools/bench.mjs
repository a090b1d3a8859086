// npm run bench [-- NAME …]: measures the parts and the whole service, prints a table with the ratio to the limit measured in the same run, and
// writes bench-results/bench.json. Names: parser, planner, store, retention, search, flood, oneOff, twentyWorkers, thousandSubscribers,
// warmTask, warmThroughput, adoption, llama; none: all. Ends with 1 where a search has cost more than its budget.
import { mkdir, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { tsImport } from 'tsx/esm/api'
import { buildApi } from './build-api.mjs'
import { prepare, ROOT } from './setup.mjs'

const names = process.argv.slice(2)
const isWanted = (name) => names.length === 0 || names.includes(name)
/** Of the whole service, by their names in apps/api/bench/end-to-end.ts. */
const SERVICE_BENCHES = [
  'flood',
  'oneOff',
  'twentyWorkers',
  'thousandSubscribers',
  'warmTask',
  'warmThroughput',
  'adoption',
  'llama',
]
const rows = []

function report(row) {
  rows.push(row)
  const value = row.value >= 1_000 ? Math.round(row.value).toLocaleString('en') : row.value.toFixed(2)
  const ratio = typeof row.ratio === 'number' ? `  ratio ${row.ratio.toFixed(2)}` : ''
  const goal = row.goal === undefined ? '' : `  [${row.goal.met ? 'met' : 'MISSED'}: ${row.goal.text}]`
  console.log(
    `${row.name.padEnd(74)} ${value.padStart(10)} ${row.unit.padEnd(9)}${ratio}${goal}\n    ${row.note}`,
  )
}

async function benchPart(name, file) {
  if (!isWanted(name)) return []
  const { bench } = await tsImport(file, import.meta.url)
  const figures = await bench()
  for (const row of figures) report({ ...row, name: `${name}: ${row.name}` })
  return figures
}

async function benchService() {
  const wanted = SERVICE_BENCHES.filter(isWanted)
  if (wanted.length === 0) return
  await buildApi()
  const { BASE_IMAGE, BUSYBOX_IMAGE, LLAMA_WORKER_IMAGE, SESSION_WORKER_IMAGE, openTestEngine } =
    await tsImport('./test-engine/src/index.ts', import.meta.url)
  const engine = await openTestEngine()
  if (engine === null) throw new Error('The benchmarks of the whole service need a Docker engine.')
  try {
    for (const image of [BUSYBOX_IMAGE, BASE_IMAGE, SESSION_WORKER_IMAGE]) await engine.ensureImage(image)
    if (wanted.includes('llama')) await engine.ensureImage(LLAMA_WORKER_IMAGE)
    const { benchEndToEnd } = await tsImport('../apps/api/bench/end-to-end.ts', import.meta.url)
    await benchEndToEnd(wanted, report)
  } finally {
    await engine[Symbol.asyncDispose]()
  }
}

await prepare()
await benchPart('parser', '../libs/event-parser/bench/parse.ts')
if (isWanted('planner')) {
  // As the service has it. Loaded from its source, every closure would be given its name when it is made: that alone is half of a short plan.
  const entry = join(ROOT, 'libs/tasks/bench/planner.ts')
  const bundle = await buildApi({ entry, outfile: join(ROOT, 'apps/api/dist/bench-planner.js') })
  const { benchPlanner } = await import(pathToFileURL(bundle).href)
  benchPlanner(report)
}
await benchPart('store', '../libs/task-store/bench/append.ts')
await benchPart('retention', '../libs/task-store/bench/retention.ts')
const searches = await benchPart('search', '../libs/task-store/bench/search.ts')
if (searches.some(({ ratio }) => ratio > 1)) process.exitCode = 1
await benchService()
const folder = join(ROOT, 'bench-results')
await mkdir(folder, { recursive: true })
const machine = { node: process.version, cpus: cpus().length, cpu: cpus()[0]?.model }
const file = join(folder, 'bench.json')
await writeFile(file, `${JSON.stringify({ at: new Date().toISOString(), machine, rows }, null, 2)}\n`)
console.log(`Written to ${file}`)
