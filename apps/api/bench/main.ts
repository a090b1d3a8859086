import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cpus } from 'node:os'
import { BASE_IMAGE, BUSYBOX_IMAGE, openTestEngine } from '@gpu-service/test-engine'
import type { Row } from './row.ts'

const rows: Row[] = []

function report(row: Row): void {
  rows.push(row)
  const value = row.value >= 1_000 ? Math.round(row.value).toLocaleString('en') : row.value.toFixed(2)
  const ratio = row.ratio === null ? '' : `  ratio ${row.ratio.toFixed(2)}`
  const goal = row.goal === undefined ? '' : `  [${row.goal.met ? 'met' : 'MISSED'}: ${row.goal.text}]`
  process.stdout.write(
    `${row.name.padEnd(74)} ${value.padStart(10)} ${row.unit.padEnd(9)}${ratio}${goal}\n    ${row.note}\n`,
  )
}

// The tests' engine: the one that is reachable, or a private one.
await using engine = await openTestEngine()
if (engine === null) throw new Error('The benchmarks need a Docker engine.')
for (const image of [BUSYBOX_IMAGE, BASE_IMAGE] as const) await engine.ensureImage(image)
// Loaded after the engine is known: the scripts name its images.
const { benchEndToEnd } = await import('./end-to-end.ts')
await benchEndToEnd(report, process.argv[2])

const folder = join(import.meta.dirname, '../../../bench-results')
await mkdir(folder, { recursive: true })
const file = join(folder, 'bench.json')
const machine = { node: process.version, cpus: cpus().length, cpu: cpus()[0]?.model ?? '' }
await writeFile(file, `${JSON.stringify({ at: new Date().toISOString(), machine, rows }, null, 2)}\n`)
process.stdout.write(`Written to ${file}\n`)
