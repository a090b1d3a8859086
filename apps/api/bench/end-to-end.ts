import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'
import { CONNECTED, FINISHED, script } from '../test/e2e/scripts.ts'
import { TestService } from '../test/e2e/service.ts'
import { type Bench, median, percentile, type Row } from './row.ts'
import { adoption } from './adoption.ts'
import { llama } from './llama.ts'
import { warmTask, warmThroughput } from './warm.ts'

const run = promisify(execFile)
const FLOOD_LINES = 1_000_000
const FLOOD_LINE = '{"event":"text_delta","delta":"token 1234 "}'
const FLOOD = `${CONNECTED}; yes '${FLOOD_LINE}' | head -n ${FLOOD_LINES}; ${FINISHED}`
const SHORT = `${CONNECTED}; ${FINISHED}`

/** Prints one delta with the time in nanoseconds at a steady rate. */
const TICKER = `
import json, sys, time
rate, seconds = float(sys.argv[1]), float(sys.argv[2])
print(json.dumps({"event": "connection", "status": "connected"}), flush=True)
start = time.monotonic()
for n in range(int(rate * seconds)):
    time.sleep(max(0, start + n / rate - time.monotonic()))
    print(json.dumps({"event": "text_delta", "delta": str(time.time_ns())}), flush=True)
print(json.dumps({"event": "finish", "status": "completed"}), flush=True)
`
const ticker = (rate: number, seconds: number): Record<string, unknown> => ({
  docker_image: 'python:3.11-slim',
  command: ['python', '-c', TICKER, String(rate), String(seconds)],
  gpus: { count: 0 },
})

const DELTAS =
  'subscription ($id: ID!) { taskEvents(taskId: $id) { events { seq ... on TextDeltaEvent { delta } } } }'

interface Delivery {
  readonly taskEvents: { readonly events: readonly { readonly seq: number; readonly delta?: string }[] }
}

const BENCHES = {
  flood: { presets: { flood: script(FLOOD) }, run: flood },
  oneOff: { presets: { short: script(SHORT) }, run: oneOff },
  twentyWorkers: { presets: { fast: ticker(50, 20) }, run: twentyWorkers },
  thousandSubscribers: { presets: { steady: ticker(20, 20) }, run: thousandSubscribers },
  warmTask,
  warmThroughput,
  adoption,
  llama,
} satisfies Record<string, Bench>

/** The whole service against a real engine, with clients in this process. */
export async function benchEndToEnd(
  names: readonly (keyof typeof BENCHES)[],
  report: (row: Row) => void,
): Promise<void> {
  for (const name of names) {
    const { presets, run: measure } = BENCHES[name]
    // A fresh service each: what one leaves in memory must not show in the figures of the next.
    await using service = await TestService.start({
      runner: 'docker',
      presets,
      env: { MAX_WORKERS: '120' },
    })
    await measure(service, report)
  }
}

async function flood(service: TestService, report: (row: Row) => void): Promise<void> {
  const dockerLogs = await dockerLogsRate()
  const rssBefore = await residentMb(service.pid)
  let rssMost = rssBefore
  const watching = setInterval(() => {
    void residentMb(service.pid).then((rss) => (rssMost = Math.max(rssMost, rss)))
  }, 200)
  const id = await service.submit('flood')
  let seen = 0
  let first = 0
  for await (const { taskEvents } of service.subscribe<Delivery>(DELTAS, { id })) {
    for (const { delta } of taskEvents.events) {
      if (delta === undefined) continue
      if (seen === 0) first = performance.now()
      seen++
    }
  }
  const rate = (seen / (performance.now() - first)) * 1_000
  clearInterval(watching)
  const task = await service.task(id)
  if (seen !== FLOOD_LINES || task.status !== 'COMPLETED')
    throw new Error(`flood: ${seen} lines, ${task.status}`)
  report({
    name: 'flood: 1,000,000 lines stored and delivered to one subscriber',
    value: rate,
    unit: 'events/s',
    ratio: rate / dockerLogs,
    note: `of docker logs -f in this run, ${Math.round(dockerLogs)} lines/s`,
    goal: { text: '>= 60,000 events/s', met: rate >= 60_000 },
  })
  const growth = rssMost - rssBefore
  report({
    name: 'flood: growth of the service',
    value: growth,
    unit: 'MB',
    ratio: null,
    note: `resident, from ${Math.round(rssBefore)} MB`,
    goal: { text: '<= 200 MB', met: growth <= 200 },
  })
}

async function dockerLogsRate(): Promise<number> {
  const { stdout } = await run('docker', [
    'run',
    '-d',
    '--network',
    'none',
    'busybox:test',
    'sh',
    '-c',
    FLOOD,
  ])
  const id = stdout.trim()
  try {
    const logs = spawn('docker', ['logs', '-f', id], { stdio: ['ignore', 'pipe', 'ignore'] })
    let bytes = 0
    let first = 0
    logs.stdout.on('data', (chunk: Buffer) => {
      if (bytes === 0) first = performance.now()
      bytes += chunk.length
    })
    await once(logs, 'close')
    const lines = bytes / (FLOOD_LINE.length + 1)
    return (lines / (performance.now() - first)) * 1_000
  } finally {
    await run('docker', ['rm', '-f', id])
  }
}

async function oneOff(service: TestService, report: (row: Row) => void): Promise<void> {
  const ours: number[] = []
  const bare: number[] = []
  for (let n = 0; n < 15; n++) {
    let begin = performance.now()
    await run('docker', ['run', '--rm', '--network', 'none', 'busybox:test', 'sh', '-c', SHORT])
    bare.push(performance.now() - begin)
    begin = performance.now()
    await service.events(await service.submit('short'))
    ours.push(performance.now() - begin)
  }
  const ratio = median(ours) / median(bare)
  report({
    name: 'one-off task, submit to final state',
    value: median(ours),
    unit: 'ms',
    ratio,
    note: `of docker run --rm of the same image and command, ${Math.round(median(bare))} ms; medians of 15 each, taken in turn`,
    goal: { text: '<= 1.25 times', met: ratio <= 1.25 },
  })
}

async function twentyWorkers(service: TestService, report: (row: Row) => void): Promise<void> {
  const ids = await Promise.all(Array.from({ length: 20 }, () => service.submit('fast')))
  const all: Sample[] = []
  let firstEnd = Number.POSITIVE_INFINITY
  const collecting = ids.map(async (id) => {
    await collect(service.subscribe<Delivery>(DELTAS, { id }), all)
    firstEnd = Math.min(firstEnd, now())
  })
  await Promise.all(ids.map((id) => service.reached(id, 'RUNNING')))
  // Starting and ending twenty containers keeps the machine busy; what is measured is the steady state between.
  const settled = now() + 2_000
  await Promise.all(collecting)
  const latencies = all
    .filter(({ at }) => at > settled && at < firstEnd - 1_000)
    .map(({ latencyMs }) => latencyMs)
  const [p50, p99] = [percentile(latencies, 0.5), percentile(latencies, 0.99)]
  report({
    name: '20 workers at 50 events/s each, line to subscriber, p50',
    value: p50,
    unit: 'ms',
    ratio: null,
    note: `${latencies.length} events`,
    goal: { text: '<= 5 ms', met: p50 <= 5 },
  })
  report({
    name: '20 workers at 50 events/s each, line to subscriber, p99',
    value: p99,
    unit: 'ms',
    ratio: null,
    note: `most ${Math.round(percentile(latencies, 1))} ms`,
    goal: { text: '<= 50 ms', met: p99 <= 50 },
  })
}

interface Sample {
  /** When it arrived, in milliseconds since 1970. */
  readonly at: number
  readonly latencyMs: number
}

function now(): number {
  return performance.timeOrigin + performance.now()
}

async function collect(deliveries: AsyncIterable<Delivery>, samples: Sample[]): Promise<void> {
  for await (const { taskEvents } of deliveries) {
    const at = now()
    for (const { delta } of taskEvents.events) {
      if (delta !== undefined) samples.push({ at, latencyMs: at - Number(delta) / 1e6 })
    }
  }
}

async function thousandSubscribers(service: TestService, report: (row: Row) => void): Promise<void> {
  const id = await service.submit('steady')
  await service.reached(id, 'RUNNING')
  const rssBefore = await residentMb(service.pid)
  const all: Sample[] = []
  let rssAll = 0
  const subscribers = Array.from({ length: 1_000 }, async () => {
    const client = createClient({
      url: service.url.replace('http:', 'ws:'),
      webSocketImpl: WebSocket,
      retryAttempts: 0,
    })
    try {
      for await (const { data } of client.iterate<Delivery>({ query: DELTAS, variables: { id } })) {
        const at = now()
        for (const { delta } of data?.taskEvents.events ?? []) {
          if (delta !== undefined) all.push({ at, latencyMs: at - Number(delta) / 1e6 })
        }
      }
    } finally {
      await client.dispose()
    }
  })
  // Connecting 1,000 sockets and reading what was there before is not what is measured.
  const settled = now() + 8_000
  const watch = setTimeout(() => void residentMb(service.pid).then((rss) => (rssAll = rss)), 14_000)
  await Promise.all(subscribers)
  clearTimeout(watch)
  const latencies = all.filter(({ at }) => at > settled).map(({ latencyMs }) => latencyMs)
  const p99 = percentile(latencies, 0.99)
  report({
    name: '1,000 subscribers on one task at 20 events/s, line to subscriber, p99',
    value: p99,
    unit: 'ms',
    ratio: null,
    note: `p50 ${Math.round(percentile(latencies, 0.5))} ms, ${latencies.length} deliveries`,
    goal: { text: '<= 150 ms', met: p99 <= 150 },
  })
  const each = ((rssAll - rssBefore) * 1_024) / 1_000
  report({
    name: '1,000 subscribers: memory of the service for each',
    value: each,
    unit: 'KB',
    ratio: null,
    note: 'resident growth with all of them connected, divided by 1,000',
    goal: { text: '<= 100 KB', met: each <= 100 },
  })
}

async function residentMb(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN) / 1_024
}
