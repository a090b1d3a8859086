import { setMaxListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { createApi } from './api.ts'
import { type DeedsOptions, doDeeds, startService } from './deeds.ts'
import { Ledger } from './ledger.ts'
import { digestOf, Load } from './load.ts'
import { marksIn } from './marks.ts'
import { Random } from './random.ts'
import { openSite, type Site } from './site.ts'
import { openSubscriber } from './subscriber.ts'
import { Timeline } from './timeline.ts'
import type { Violation } from './violation.ts'
import { STREAMS, type StreamName } from './watched-task.ts'

const NETWORKS = 3
const LANES = 8
/** How long after the last task something of it may still be on the engine. */
const LEFT_MS = 60_000
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
    ...{ seed, api, subscribers, timeline, ledger, onViolation },
    closing: closing.signal,
    giveUp: giveUp.signal,
  })
  const hits = new Map<StreamName, number>()
  const random = new Random(seed)
  const deeds: DeedsOptions = {
    ...{ site, timeline, onViolation, random: random.fork('deeds'), closing: closing.signal },
    onKill: () => {
      const live = new Set([...load.live.values()].flatMap((task) => task.live))
      for (const stream of live) hits.set(stream, (hits.get(stream) ?? 0) + 1)
    },
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
    await doDeeds(deeds)
    clearTimeout(timer)
    await Promise.all(lanes)
    await checkAgain()
    await checkLeft(site, deeds, api, onViolation)
  } finally {
    clearInterval(progress)
    giveUp.abort()
    for (const subscriber of subscribers) await subscriber[Symbol.asyncDispose]()
  }

  /** Once everything is quiet: what was told stays told, and nothing is there that nobody has asked for. */
  async function checkAgain(): Promise<void> {
    const ids = new Set(await api.idsOf(seed))
    for (const id of ids)
      if (!load.told.has(id)) onViolation({ rule: 'idempotency', taskId: id, detail: 'nobody knows it' })
    const workers = new Set<string>()
    for (const [id, { digest, workerIds }] of load.told) {
      if (!ids.has(id)) onViolation({ rule: 'lost', taskId: id, detail: 'the task is not there any more' })
      const { events } = await load.read(id)
      if (digestOf(events) !== digest)
        onViolation({ rule: 'changed', taskId: id, detail: 'its events are not what they were' })
      for (const workerId of workerIds) workers.add(workerId)
    }
    for (const workerId of workers)
      for (const { text } of await api.workerLog(workerId))
        for (const mark of marksIn(text))
          for (const violation of ledger.enter(mark, `the log of worker ${workerId}`)) onViolation(violation)
    for (const violation of ledger.missing()) onViolation(violation)
    for (const detail of await site.begunTwice()) onViolation({ rule: 'begun twice', taskId: null, detail })
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
    `lost ${broken('lost')}, repeated ${broken('repeated')}, stuck ${broken('stuck')}, containers left ${broken('left')}, all violations ${violations.length}`,
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

/** After the drain: nothing on the engine but warm sessions, and after `SHUTDOWN=stop` nothing at all; the database whole. */
async function checkLeft(
  site: Site,
  deeds: DeedsOptions,
  api: ReturnType<typeof createApi>,
  onViolation: (violation: Violation) => void,
): Promise<void> {
  const { service } = site
  const isTidy = async (): Promise<string> => {
    const warm = new Set((await api.liveWorkers()).map(({ id }) => id))
    const containers = (await site.engine?.containers()) ?? []
    return containers
      .filter(({ workerId, state }) => !warm.has(workerId) || state !== 'running')
      .map(({ name, state }) => `${name} is ${state}`)
      .join(', ')
  }
  await until(isTidy, (left) => {
    onViolation({ rule: 'left', taskId: null, detail: left })
  })
  await service.down('SIGTERM')
  if (!(await service.up({ SHUTDOWN: 'stop' }))) await startService(deeds)
  await service.down('SIGTERM')
  const containers = (await site.engine?.containers()) ?? []
  for (const { name, state } of containers)
    onViolation({ rule: 'left', taskId: null, detail: `${name} is ${state} after SHUTDOWN=stop` })
  for (const detail of await site.liveProcesses())
    onViolation({ rule: 'left', taskId: null, detail: `${detail} of a worker lives on` })
  const database = new Database(site.databaseFile, { readonly: true })
  const integrity = database.pragma('integrity_check', { simple: true })
  const foreignKeys = database.pragma('foreign_key_check')
  database.close()
  if (integrity !== 'ok' || !Array.isArray(foreignKeys) || foreignKeys.length > 0)
    onViolation({ rule: 'database', taskId: null, detail: JSON.stringify({ integrity, foreignKeys }) })
}

/** Waits until there is nothing left to say, and gives up after a while with what there is. */
async function until(look: () => Promise<string>, onLeft: (left: string) => void): Promise<void> {
  const deadline = Date.now() + LEFT_MS
  for (;;) {
    const left = await look()
    if (left === '') return
    if (Date.now() > deadline) {
      onLeft(left)
      return
    }
    await delay(500)
  }
}
