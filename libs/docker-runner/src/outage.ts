import { createInterface } from 'node:readline'
import { type ContainerInfo, isRecord } from './container-info.ts'
import { type Engine, EngineError } from './engine.ts'

/** An engine that is not waited for that long has hardly been away: what broke off may be a connection only, as a proxy does it. */
const SHORTEST_OUTAGE_MS = 200

/** A time in which the engine was not there, in milliseconds since 1970, by this machine's clock. */
export interface Outage {
  readonly from: number
  readonly to: number
  /** Else a connection has broken off, for whatever reason. */
  readonly isCertain: boolean
}

/** What the reader of one worker notices of the engine's outages. */
export interface OutageNotes {
  /** A call or an answer has failed. A call that was not answered proves nothing: the engine may be slow. */
  failed(error: unknown): void
  answered(): void
  /** The last outage that is over, once; of those that are not certain only the first. */
  take(): Outage | null
}

export function createOutageNotes(): OutageNotes {
  let from: number | null = null
  let isRefused = false
  let hasDoubted = false
  let over: Outage | null = null
  return {
    failed(error) {
      const isCall = error instanceof EngineError
      if (isCall && !error.brokeOff) return
      from ??= Date.now()
      isRefused ||= isCall && !error.reached
    },
    answered() {
      if (from === null) return
      const to = Date.now()
      const isCertain = isRefused || to - from >= SHORTEST_OUTAGE_MS
      if (isCertain || !hasDoubted) over = { from, to, isCertain }
      hasDoubted ||= !isCertain
      from = null
      isRefused = false
    },
    take() {
      const taken = over
      over = null
      return taken
    },
  }
}

export function outageText({ from, to }: Outage): string {
  return `away from ${new Date(from).toISOString()} to ${new Date(to).toISOString()}`
}

/** What containers exit with that an engine ends: SIGKILL, SIGTERM, and what it says where it was not there to see it. */
const ENGINE_EXITS: readonly number[] = [137, 143, 255]

/** What an outage of the engine has done to a container that has ended. */
export interface EngineEnding {
  /** The engine has ended it, or has kept nothing of its end but the exit code. */
  readonly cause: string
  /** What it has said at last may not be in its log. */
  readonly mayLack: boolean
}

/**
 * `null`: it ended by itself and before the engine's eyes, or that cannot be told. `outage` is one that was noticed since the container was
 * last seen to run; `isUnseen`: it was never seen to run by this reader, and nobody has watched the engine since it began.
 */
export async function engineEnding(
  engine: Engine,
  container: ContainerInfo,
  outage: Outage | null,
  isUnseen: boolean,
  signal: AbortSignal,
): Promise<EngineEnding | null> {
  const isEngineExit = ENGINE_EXITS.includes(container.exitCode) && !container.oomKilled
  let isTaken: boolean
  try {
    if (outage === null) {
      if (!(isEngineExit || isUnseen) || !(await hasForgottenEnd(engine, container, signal))) return null
    } else if (container.finishedAt > outage.to) return null
    // One that leaves its containers alone has not killed this one either: somebody else has, such as the kernel for want of memory.
    isTaken = !(await engine.info(signal)).liveRestore
  } catch {
    // Then the container's exit is all that is known.
    return null
  }
  const when = outage === null ? '' : ` (it was ${outageText(outage)})`
  // One that goes on without its engine speaks into a pipe, and takes what the engine has not read with it.
  const cause = isTaken
    ? `The Docker engine was stopped or restarted${when} and took the worker along.`
    : `The worker ended while the Docker engine was not there${when}; what it said meanwhile may be lost.`
  return { cause, mayLack: !isTaken }
}

/** The engine hears of a want of memory and of the end from two sides, and forgets in its record of the container what comes second. */
const LATE_OOM_MS = 300

/** Whether the kernel killed a container for its limit of memory though its record does not say so. `false` also where that cannot be told. */
export async function diedOfMemory(
  engine: Engine,
  { id, exitCode, oomKilled, memoryLimit, startedAt, finishedAt }: ContainerInfo,
  signal: AbortSignal,
): Promise<boolean> {
  if (oomKilled || exitCode !== 137 || memoryLimit === 0) return false
  const filters = JSON.stringify({ container: [id], event: ['oom'] })
  const since = String(Math.floor(startedAt / 1_000))
  const until = String(Math.max(Date.now(), finishedAt + LATE_OOM_MS) / 1_000)
  try {
    const answer = await engine.stream('GET', '/events', {
      query: { since, until, filters },
      signal: AbortSignal.any([signal, AbortSignal.timeout(EVENTS_TIMEOUT_MS)]),
    })
    try {
      for await (const line of createInterface({ input: answer })) if (isRecord(JSON.parse(line))) return true
      return false
    } finally {
      answer.destroy()
    }
  } catch {
    return false
  }
}

/** How many events an engine remembers. */
const REMEMBERED_EVENTS = 256
/** After its end a container's `die` is there at the latest, also under load. */
const LATE_EVENT_MS = 1_000
const EVENTS_TIMEOUT_MS = 5_000

/**
 * Whether the engine was restarted since a container ended: it remembers the last things that happened, but not beyond a restart. `false` also
 * where so much has happened since that it cannot be told.
 */
async function hasForgottenEnd(
  engine: Engine,
  { id, finishedAt }: ContainerInfo,
  signal: AbortSignal,
): Promise<boolean> {
  // What is remembered comes at once, then what happens until then.
  const until = String(Math.max(Date.now(), finishedAt + LATE_EVENT_MS) / 1_000)
  const answer = await engine.stream('GET', '/events', {
    query: { since: '1', until },
    signal: AbortSignal.any([signal, AbortSignal.timeout(EVENTS_TIMEOUT_MS)]),
  })
  try {
    let events = 0
    for await (const line of createInterface({ input: answer })) {
      if (++events >= REMEMBERED_EVENTS || isEndOf(id, JSON.parse(line))) return false
    }
    return answer.complete
  } finally {
    answer.destroy()
  }
}

function isEndOf(container: string, event: unknown): boolean {
  if (!isRecord(event) || event['Action'] !== 'die') return false
  const { Actor: actor } = event
  return isRecord(actor) && actor['ID'] === container
}
