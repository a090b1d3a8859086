// How fast the parser is, beside bare JSON.parse of the same lines, already split and decoded, in the same process.
//
//   npx tsx libs/event-parser/bench/parse.ts [--json FILE]
//
// Both are measured in turns and the best turn of each counts: a neighbour that takes the processor for a while slows single turns down,
// not the best ones. Read the ratio; lines per second are this machine's.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { createEventParser } from '../src/index.ts'
import { linesOf, SHAPES, type Shape } from './fixture.ts'

const TURNS = 7
const CHUNK_BYTES = 64 * 1024

export interface BenchRow {
  readonly name: string
  readonly value: number
  readonly unit: string
  /** To bare JSON.parse; 1 is as fast. */
  readonly ratio: number
  readonly note: string
}

/** Measures every shape of the fixture. `scale` takes that part of its lines. */
export async function bench(scale = 1): Promise<BenchRow[]> {
  const rows: BenchRow[] = []
  for (const shape of SHAPES) {
    rows.push(measure(shape, Math.ceil(shape.lines * scale)))
    // So that a runner of several benches stays responsive.
    await new Promise((resolve) => setImmediate(resolve))
  }
  return rows
}

function measure(shape: Shape, count: number): BenchRow {
  const lines = linesOf(shape, count)
  const objects = lines.filter((line) => line.startsWith('{'))
  const bytes = Buffer.from(`${lines.join('\n')}\n`)
  let ours = Infinity
  let bare = Infinity
  for (let turn = 0; turn < TURNS; turn += 1) {
    bare = Math.min(
      bare,
      secondsFor(objects.length, () => parseBare(objects)),
    )
    ours = Math.min(
      ours,
      secondsFor(count, () => parseStream(bytes)),
    )
  }
  return {
    name: `event-parser: ${shape.name}`,
    value: Math.round(count / ours),
    unit: 'lines/s',
    ratio: Number((bare / ours).toFixed(3)),
    note: `${count} lines, ${(bytes.length / ours / 1e6).toFixed(0)} MB/s; JSON.parse alone ${Math.round(objects.length / bare)} lines/s`,
  }
}

/** How long the work takes that reads so many lines; one that reads fewer is no measurement. */
function secondsFor(lines: number, work: () => number): number {
  const start = process.hrtime.bigint()
  const read = work()
  const seconds = Number(process.hrtime.bigint() - start) / 1e9
  if (read !== lines) throw new Error(`${read} of ${lines} lines read`)
  return seconds
}

function parseBare(objects: readonly string[]): number {
  let read = 0
  for (const object of objects) if (JSON.parse(object) !== null) read += 1
  return read
}

function parseStream(bytes: Buffer): number {
  let read = 0
  const parser = createEventParser({
    event: () => {
      read += 1
    },
    log: () => {
      read += 1
    },
    fault: ({ kind, line }) => {
      throw new Error(`${kind}: ${line}`)
    },
  })
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) parser.feed(bytes.subarray(at, at + CHUNK_BYTES))
  parser.end()
  return read
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { json: { type: 'string' } } })
  const rows = await bench()
  console.table(Object.fromEntries(rows.map(({ name, ...row }) => [name, row])))
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify({ rows }, null, 2)}\n`)
}
