import { setMaxListeners } from 'node:events'
import { checkBooks, checkLeft } from './aftermath.ts'
import { createApi } from './api.ts'
import { doDeeds } from './deeds.ts'
import { Ledger } from './ledger.ts'
import { Load } from './load.ts'
import { Random } from './random.ts'
import { openSite } from './site.ts'
import { openSubscriber } from './subscriber.ts'
import { Timeline } from './timeline.ts'
import type { Violation } from './violation.ts'
import { STREAMS, type StreamName } from './watched-task.ts'

const NETWORKS = 3
const LANES = 8
/** How many violations are told with the whole story of their task. */
const MAX_STORIES = 3

export interface ChaosOptions {
  readonly minutes: number
  readonly seed: string
  readonly runner: 'docker' | 'process'
  readonly print: (line: string) => void
}

/** Runs load and faults for so long and checks everything; `true` where every promise was kept. */
export async function runChaos({ minutes, seed, runner, print }: ChaosOptions): Promise<boolean> {
  print(`seed ${seed} (runner ${runner}, ${minutes} minutes)`)
  const began = Date.now()
  const violations: Violation[] = []
  const closing = new AbortController()
  const giveUp = new AbortController()
  // Every lane and every hand waits on them.
  setMaxListeners(0, closing.signal, giveUp.signal)
  let stories = 0
  const onViolation = (violation: Violation, story: readonly string[] = []): void => {
    violations.push(violation)
    print(`VIOLATION ${violation.rule}, task ${violation.taskId ?? '-'}: ${violation.detail}`)
    if (story.length > 0 && stories++ < MAX_STORIES) for (const line of story) print(`    ${line}`)
    // The sooner it ends, the less has happened since.
    closing.abort()
  }

  await using site = await openSite({ runner, networks: NETWORKS, onViolation })
  const trouble = new Map<string, number>()
  let asked = 0
  const api = createApi(
    () => site.url(asked++),
    (code) => trouble.set(code, (trouble.get(code) ?? 0) + 1),
  )
  const subscribers = Array.from({ length: 2 * NETWORKS }, (_, n) => openSubscriber(() => site.url(n)))
  const timeline = new Timeline()
  const ledger = new Ledger()
  const load = new Load({
    ...{ seed, runner, api, subscribers, timeline, ledger, onViolation },
    closing: closing.signal,
    giveUp: giveUp.signal,
  })
  let orphans = 0
  const hits = new Map<StreamName, number>()
  const random = new Random(seed)
  const onKill = (): void => {
    const live = new Set([...load.live.values()].flatMap((task) => task.live))
    for (const stream of live) hits.set(stream, (hits.get(stream) ?? 0) + 1)
  }
  const progress = setInterval(() => {
    print(
      `${Math.round((Date.now() - began) / 1_000)} s: ${load.told.size} tasks, ${timeline.deeds.length} deeds`,
    )
  }, 15_000)
  try {
    if (!(await site.service.up())) throw new Error(`the service does not start: ${site.service.output}`)
    const lanes = Array.from({ length: LANES }, (_, n) => load.lane(String(n), random.fork(`lane ${n}`)))
    const timer = setTimeout(() => {
      closing.abort()
    }, minutes * 60_000)
    await doDeeds({
      ...{ site, api, timeline, onKill, onViolation },
      random: random.fork('deeds'),
      closing: closing.signal,
    })
    clearTimeout(timer)
    await Promise.all(lanes)
    await checkBooks({ site, load, api, ledger, seed, onViolation })
    const isEngineEnded = timeline.count('engine killed') + timeline.count('engine stopped') > 0
    orphans = await checkLeft({ site, api, isEngineEnded, onViolation })
  } finally {
    clearInterval(progress)
    giveUp.abort()
    for (const subscriber of subscribers) await subscriber[Symbol.asyncDispose]()
  }

  const outcomes = new Map<string, number>()
  for (const { outcome } of load.told.values()) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
  const broken = (rule: string): number => violations.filter((violation) => violation.rule === rule).length
  const events = [...load.told.values()].reduce((sum, { lastSeq }) => sum + lastSeq, 0)
  const kinds = new Map<string, number>()
  for (const { kind } of timeline.deeds) kinds.set(kind, (kinds.get(kind) ?? 0) + 1)
  print('')
  print(`seed                 ${seed}, runner ${runner}`)
  print(`minutes              ${((Date.now() - began) / 60_000).toFixed(1)}`)
  print(`deeds                ${list(kinds)}`)
  print(`kills that hit       ${STREAMS.map((stream) => `${stream} ${hits.get(stream) ?? 0}`).join(', ')}`)
  print(`service processes    ${site.service.starts}`)
  print(`subscriptions resumed ${subscribers.reduce((sum, { resumed }) => sum + resumed, 0)}`)
  print(`tasks                ${load.told.size}: ${list(outcomes)}; cancels answered ${load.cancels}`)
  print(`checked              ${events} events, ${ledger.lines} lines of workers`)
  print(`answers of a service in trouble ${list(trouble) || 'none'}`)
  print(
    `lost ${broken('lost')}, repeated ${broken('repeated')}, stuck ${broken('stuck')}, containers left ${broken('left')}, processes that the engine has forgotten ${orphans}, all violations ${violations.length}`,
  )
  if (violations.length === 0) return true
  site.keep()
  print(`\nThe time line of seed ${seed}; data and the service's log are kept in ${site.folder}`)
  for (const line of timeline.lines()) print(line)
  return false
}

function list(counts: ReadonlyMap<string, number>): string {
  return [...counts].map(([name, count]) => `${name} ${count}`).join(', ')
}
