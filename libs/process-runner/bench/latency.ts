import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OUTPUT_START, silentLogger, type WorkerName } from '@gpu-service/tasks'
import { scriptOrder } from '@gpu-service/tasks/testing'
import { createProcessRunner, createWorkerPackages } from '../src/index.ts'

// How long start and stop take, how long a line needs from the worker to the reader, and how fast a flood is read.
// Run with: node --import tsx libs/process-runner/bench/latency.ts

const LINES = 500

const dataDir = await mkdtemp(join(tmpdir(), 'process-runner-bench-'))
const packages = createWorkerPackages({ workersDir: join(dataDir, 'none'), logger: silentLogger })
const runner = createProcessRunner({
  installation: 'bench000',
  dataDir,
  modelsDir: '/srv/models',
  packages,
  logger: silentLogger,
})
const order = (script: string, command?: readonly string[]) =>
  scriptOrder({ installation: 'bench000', image: 'bench', script, ...(command && { command }) })

async function bytesOf(name: WorkerName, onBytes: (bytes: Uint8Array) => void): Promise<void> {
  for await (const item of runner.output(name, {
    after: OUTPUT_START,
    signal: new AbortController().signal,
  })) {
    if (item.kind === 'data') onBytes(item.bytes)
  }
}

function percentiles(values: number[]): string {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number): string => (sorted[Math.floor(share * (sorted.length - 1))] ?? NaN).toFixed(2)
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, max ${at(1)} ms`
}

const [starts, stops]: [number[], number[]] = [[], []]
for (let round = 0; round < 30; round += 1) {
  const placed = order('sleep 60')
  const begun = performance.now()
  await runner.start(placed)
  const running = performance.now()
  await runner.stop(placed.name, { graceMs: 5_000 })
  stops.push(performance.now() - running)
  starts.push(running - begun)
  await runner.remove(placed.name)
}
console.log(`start: ${percentiles(starts)}`)
console.log(`stop:  ${percentiles(stops)}`)

// The worker stamps each line with the wall clock; both processes read the same clock.
const stamping = `let n = 0; const t = setInterval(() => {
  process.stdout.write((performance.timeOrigin + performance.now()) + '\\n'); if (++n === ${LINES}) clearInterval(t) }, 5)`
const stamped = order('', [process.execPath, '-e', stamping])
await runner.start(stamped)
const latencies: number[] = []
await bytesOf(stamped.name, (bytes) => {
  const now = performance.timeOrigin + performance.now()
  for (const line of Buffer.from(bytes).toString().trimEnd().split('\n')) latencies.push(now - Number(line))
})
console.log(`line to reader: ${percentiles(latencies)} (${latencies.length} lines)`)
await runner.remove(stamped.name)

const flood = order('yes "a line of fifty-five bytes, as many workers print them" | head -n 5000000')
await runner.start(flood)
let total = 0
const begun = performance.now()
await bytesOf(flood.name, (bytes) => (total += bytes.length))
const seconds = (performance.now() - begun) / 1000
console.log(`flood: ${(total / 1e6 / seconds).toFixed(0)} MB/s, ${(5_000_000 / seconds).toFixed(0)} lines/s`)
await runner.remove(flood.name)
await rm(dataDir, { recursive: true })
