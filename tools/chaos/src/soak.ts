import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { checkBooks, checkLeft } from './aftermath.ts'
import { type Api, createApi } from './api.ts'
import { type Inspector, openInspector } from './inspector.ts'
import { Ledger } from './ledger.ts'
import { Load } from './load.ts'
import { Random } from './random.ts'
import { type Sample, takeSample } from './sample.ts'
import { openSite, type Site } from './site.ts'
import { type Slope, slopeOf } from './slope.ts'
import { openSubscriber } from './subscriber.ts'
import { Timeline } from './timeline.ts'
import type { Violation } from './violation.ts'

const LANES = 4
const SAMPLE_MS = 10_000
/** Of the run, before the samples count: caches fill, code is compiled, the heap finds its size. */
const WARM_UP_PART = 0.2
/** How long sessions are kept warm, and more: then nothing of the load is left. */
const QUIET_MS = 90_000

const RSS_MB_PER_HOUR = 2
/** In less the growth of the memory says nothing. */
const JUDGED_MINUTES = 60
const FDS = 5
const WAL_MB = 64

export interface SoakOptions {
  readonly minutes: number
  readonly seed: string
  readonly runner: 'docker' | 'process'
  readonly print: (line: string) => void
}

/** Runs a steady load for so long and measures what the service holds; `true` where it stays within its bounds and keeps every promise. */
export async function runSoak({ minutes, seed, runner, print }: SoakOptions): Promise<boolean> {
  print(`seed ${seed} (runner ${runner}, ${minutes} minutes, a sample every ${SAMPLE_MS / 1_000} s)`)
  const violations: Violation[] = []
  const onViolation = (violation: Violation, story: readonly string[] = []): void => {
    violations.push(violation)
    print(`VIOLATION ${violation.rule}, task ${violation.taskId ?? '-'}: ${violation.detail}`)
    for (const line of story) print(`    ${line}`)
  }
  await using site = await openSite({
    ...{ runner, networks: 1, onViolation },
    nodeArgs: ['--inspect=127.0.0.1:0'],
  })
  if (!(await site.service.up())) throw new Error(`the service does not start: ${site.service.output}`)
  using inspector = await openInspector(site.service.output)
  const api = createApi(() => site.url(0))
  const random = new Random(seed)
  const ledger = new Ledger()
  const giveUp = new AbortController()
  setMaxListeners(0, giveUp.signal)
  const told = new Map<string, number>()
  let samples: readonly Sample[]
  let quiet: readonly [Sample, Sample]
  try {
    const from = Date.now()
    const warmUpMs = minutes * 60_000 * WARM_UP_PART
    await work('warm-up', warmUpMs, [])
    const before = await quietSample(site, api, inspector, from)
    const taken: Sample[] = []
    await work('load', minutes * 60_000 - warmUpMs, taken, from)
    quiet = [before, await quietSample(site, api, inspector, from)]
    samples = taken
    // A process that is being inspected does not exit.
    inspector[Symbol.dispose]()
    await checkLeft({ site, api, isEngineEnded: false, onViolation })
  } finally {
    giveUp.abort()
  }

  /** Steady load for so long, to the end of its last task and the closing of its books. */
  async function work(name: string, ms: number, samples: Sample[], from = Date.now()): Promise<void> {
    const closing = AbortSignal.timeout(ms)
    setMaxListeners(0, closing)
    const subscribers = [openSubscriber(() => site.url(0)), openSubscriber(() => site.url(0))]
    const load = new Load({
      ...{ seed: `${seed} ${name}`, runner, api, subscribers, timeline: new Timeline(), ledger, onViolation },
      ...{ closing, giveUp: giveUp.signal },
    })
    const sampling = (async () => {
      while (!closing.aborted) {
        samples.push(await takeSample(site, inspector, from))
        if (samples.length % 6 === 1) print(lineOf(samples.at(-1)))
        await delay(SAMPLE_MS, undefined, { signal: closing }).catch(() => undefined)
      }
    })()
    await Promise.all([
      sampling,
      comeAndGo(site, load, closing, random.fork(`${name} visitors`)),
      ...Array.from({ length: LANES }, (_, lane) =>
        load.lane(`${name} ${lane}`, random.fork(`${name} lane ${lane}`)),
      ),
    ])
    await checkBooks({ site, load, api, ledger, seed: `${seed} ${name}`, onViolation })
    for (const { outcome } of load.told.values()) told.set(outcome, (told.get(outcome) ?? 0) + 1)
    for (const subscriber of subscribers) await subscriber[Symbol.asyncDispose]()
  }

  const [first, last] = quiet
  const isShort = minutes < JUDGED_MINUTES
  const hours = (samples.at(-1)?.hours ?? 0) - (samples[0]?.hours ?? 0)
  print('')
  print(
    `seed ${seed}, runner ${runner}: ${minutes} minutes, ${samples.length} samples over ${(hours * 60).toFixed(0)} minutes after the warm-up`,
  )
  if (isShort)
    print('SHORT RUN: what is told per hour is extrapolated, and the growth of the memory not judged')
  print('quiet: nothing to do, no worker, after a forced garbage collection; during the load none is forced')
  print(
    `tasks ${[...told].map(([outcome, count]) => `${outcome} ${count}`).join(', ')}; ${ledger.lines} lines of workers checked`,
  )
  print(row(['', 'quiet before', 'quiet after', 'least', 'most', 'per hour']))
  const keys = ['rssMb', 'heapMb', 'fds', 'handles', 'containers', 'walMb', 'databaseMb'] as const
  for (const key of keys) {
    const values = samples.map((sample) => sample[key])
    const { value, margin } = slopeIn(samples, key)
    const shown = [first[key], last[key], Math.min(...values), Math.max(...values)].map((each) =>
      each.toFixed(1),
    )
    print(row([key, ...shown, `${value.toFixed(2)} ± ${margin.toFixed(2)}`]))
  }

  const rss = slopeIn(samples, 'rssMb')
  const verdicts = [
    {
      // The limit is broken where that is certain; an interval that holds it decides nothing.
      isMet: isShort || rss.value - rss.margin <= RSS_MB_PER_HOUR,
      text: `RSS grows by at most ${RSS_MB_PER_HOUR} MB/h: ${rss.value.toFixed(2)} ± ${rss.margin.toFixed(2)}${rss.value + rss.margin > RSS_MB_PER_HOUR ? ' (not certain)' : ''}`,
    },
    {
      isMet: Math.abs(last.fds - first.fds) <= FDS,
      text: `open files change by at most ${FDS}: ${last.fds - first.fds}`,
    },
    { isMet: last.containers === 0, text: `containers left: ${last.containers}` },
    {
      isMet: samples.every(({ walMb }) => walMb <= WAL_MB),
      text: `the write-ahead log stays within ${WAL_MB} MB: ${Math.max(...samples.map(({ walMb }) => walMb)).toFixed(1)}`,
    },
    { isMet: violations.length === 0, text: `broken promises: ${violations.length}` },
  ]
  for (const { isMet, text } of verdicts) print(`${isMet ? 'kept  ' : 'BROKEN'} ${text}`)
  const isWhole = verdicts.every(({ isMet }) => isMet)
  if (!isWhole) {
    site.keep()
    print(`Data and the service's log are kept in ${site.folder}`)
  }
  return isWhole
}

/** Readers of their own, each of which looks at a task for a moment and goes. */
async function comeAndGo(site: Site, load: Load, closing: AbortSignal, random: Random): Promise<void> {
  for (;;) {
    await delay(random.wait(700), undefined, { signal: closing }).catch(() => undefined)
    if (closing.aborted) return
    const [task] = load.live.values()
    if (task === undefined) continue
    await using visitor = openSubscriber(() => site.url(0))
    const stay = AbortSignal.timeout(random.int(50, 2_000))
    await visitor.follow(task.id, { after: 0, signal: stay }).catch((error: unknown) => {
      if (!stay.aborted) throw error
    })
  }
}

/** When nothing is done and no worker is there any more, after a garbage collection that is forced. */
async function quietSample(site: Site, api: Api, inspector: Inspector, from: number): Promise<Sample> {
  const deadline = Date.now() + QUIET_MS
  while ((await api.liveWorkers()).length > 0 && Date.now() < deadline) await delay(1_000)
  // Connections that nobody uses any more are closed by their time.
  await delay(10_000)
  await inspector.collectGarbage()
  return await takeSample(site, inspector, from)
}

function slopeIn(samples: readonly Sample[], key: Exclude<keyof Sample, 'hours'>): Slope {
  return slopeOf(samples.map((sample) => [sample.hours, sample[key]]))
}

function lineOf(sample: Sample | undefined): string {
  if (sample === undefined) return ''
  const { hours, rssMb, heapMb, fds, handles, containers, walMb, databaseMb } = sample
  return (
    `${(hours * 60).toFixed(1)} min: RSS ${rssMb.toFixed(0)} MB, heap ${heapMb.toFixed(0)} MB, ${fds} files, ${handles} handles, ` +
    `${containers} containers, log ${walMb.toFixed(1)} MB, database ${databaseMb.toFixed(1)} MB`
  )
}

function row([name = '', ...cells]: readonly string[]): string {
  return name.padEnd(12) + cells.map((cell) => cell.padStart(18)).join('')
}
