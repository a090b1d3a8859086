import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger, OutputCursor, WorkerName, WorkerOutput } from '@gpu-service/tasks'
import { type ContainerInfo, exitOf } from './container-info.ts'
import type { Containers } from './containers.ts'
import type { EngineDisk } from './disk.ts'
import { type Answer, type Engine, EngineError, LONGEST_TIMER_MS } from './engine.ts'
import { createLogReader, LogFormatError } from './log-reader.ts'
import { createOutageNotes, diedOfMemory, engineEnding, type Outage, outageText } from './outage.ts'

export interface OutputOptions {
  readonly engine: Engine
  readonly containers: Pick<Containers, 'find'>
  readonly disk: Pick<EngineDisk, 'watch'>
  readonly logger: Logger
  readonly name: WorkerName
  readonly after: OutputCursor
  readonly signal: AbortSignal
  /** Between two looks at a container whose log is being followed. */
  readonly pollMs: number
}

/** Between two attempts: doubled from the one up to the other. */
const SHORTEST_PAUSE_MS = 150
const LONGEST_PAUSE_MS = 2_000
/** How long the log of an ended container may be followed without a byte before the rest is read in one piece. */
const SILENCE_AFTER_EXIT_MS = 300
/** How long an answer that follows nothing may stand still. */
const STALL_MS = 60_000
/** A worker that has ended must not be stuck for a log that the engine cannot read. */
const MAX_REFUSED_READS = 5
/** An engine takes note of a start a little later than the first line may be said. */
const NOTED_START_MS = 100
/** How much of a log's end is tried first, in entries: a read with `since` scans the log from its start. */
const TAILS = [1_000, 20_000]

/**
 * What a container says, over the engine's `logs` and not over `attach`: attach is faster, but a reader that stalls there blocks the
 * worker and even `kill` and `inspect` of it, nothing of it can be read again after a crash, and its end is not the worker's. A stalled
 * reader of `logs` harms nobody, and the stamps of its entries are a position to go on from.
 *
 * That a followed log ends proves nothing: engines end it too early, or never. What counts is the container's state, and once that is an
 * end, a last read that follows nothing and goes from the position to the end of the log.
 */
export async function* readOutput(options: OutputOptions): AsyncGenerator<WorkerOutput, void, void> {
  const { engine, logger, name, pollMs } = options
  const reader = createLogReader(options.after)
  const outages = createOutageNotes()
  using diskWatch = options.disk.watch()
  const ending = new AbortController()
  const { signal } = ending
  let container: string | null = null
  /** When the worker's run began. */
  let startedAt = 0
  let isPaused = false
  /** Lets go of the call that waits for the container's end. */
  let endWait = (): void => undefined
  let pauseMs = SHORTEST_PAUSE_MS
  let refusedReads = 0

  const onAbort = () => {
    ending.abort()
  }
  const sources = [options.signal, engine.closed]
  for (const each of sources) each.addEventListener('abort', onAbort)
  if (sources.some((each) => each.aborted)) onAbort()
  try {
    let followed = false
    while (!signal.aborted) {
      const info = await look()
      if (info === 'away') continue
      if (info === null) {
        yield { kind: 'lost', detail: 'the engine knows the container no more' }
        return
      }
      // By its id from now on: another container may take over the name.
      container = info.id
      startedAt = reader.runOf(info.startedAt)
      const outage = outages.take()
      if (isAnotherRun(info)) {
        // What it says since then is no part of this worker's output.
        if (!(yield* readToEnd(betweenRuns(info), false))) continue
        const at = new Date(info.startedAt).toISOString()
        yield {
          kind: 'lost',
          detail: `the container was started again at ${at}, by hand or by another program`,
        }
        return
      }
      if (info.phase === 'created' || (info.phase === 'running' && followed)) await pause()
      if (info.phase === 'running') {
        followed = true
        if (outage !== null) yield noticeOf(outage)
        if (info.paused !== isPaused) yield { kind: 'notice', mayLack: false, detail: pauseText(info) }
        isPaused = info.paused
        yield* follow()
      } else if (info.phase === 'exited' && (yield* readToEnd(null, info.exitCode !== 0))) {
        const oomKilled = info.oomKilled || (await diedOfMemory(engine, info, signal))
        const ended = await engineEnding(
          engine,
          { ...info, oomKilled },
          outage?.isCertain ? outage : null,
          !followed,
          signal,
        )
        if (ended?.mayLack === true) yield { kind: 'gap', certain: false, detail: ended.cause }
        else if (ended === null && outage !== null) yield noticeOf(outage)
        await diskWatch.look()
        yield* suspicion()
        yield { kind: 'end', exit: { ...exitOf(info), oomKilled }, cause: ended?.cause ?? null }
        return
      }
    }
  } finally {
    ending.abort()
    for (const each of sources) each.removeEventListener('abort', onAbort)
  }

  async function look(): Promise<ContainerInfo | null | 'away'> {
    try {
      const info = container === null ? await options.containers.find(name, signal) : await inspect(container)
      outages.answered()
      endWait()
      return info
    } catch (error) {
      if (!(error instanceof EngineError)) throw error
      outages.failed(error)
      if (pauseMs === SHORTEST_PAUSE_MS && !signal.aborted)
        logger.warn({ worker: name, error }, 'the engine does not answer; its worker is read on when it does')
      await pause()
      return 'away'
    }
  }

  function inspect(id: string): Promise<ContainerInfo | null> {
    return engine.inspect(id, signal)
  }

  /** An ended container that is started once more keeps the end of its run before. */
  function isAnotherRun(info: ContainerInfo): boolean {
    return info.startedAt !== startedAt || (info.phase === 'running' && info.finishedAt > 0)
  }

  /** Before what is read, so that it is told to those who may have been left out of it. */
  function* suspicion(): Generator<WorkerOutput, void, void> {
    const detail = diskWatch.take()
    if (detail !== null) yield { kind: 'gap', certain: false, detail }
  }

  async function pause(): Promise<void> {
    await nap(pauseMs, signal)
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)
  }

  /** Yields until the followed log ends, for whatever reason. */
  async function* follow(): AsyncGenerator<WorkerOutput, void, void> {
    try {
      yield* read({ follow: true, until: null, mayStartAgain: false, guard: watchContainer })
    } catch (error) {
      if (!isBroken(error)) throw error
      if (error instanceof EngineError) outages.failed(error)
      if (!signal.aborted) logger.debug({ worker: name, error }, 'the followed log broke off')
    }
  }

  /**
   * Yields all that is left of a finished log, or of what it had before `until`; nothing of another run that begins meanwhile, where
   * `mayStartAgain`. False: it has to be tried again.
   */
  async function* readToEnd(
    until: number | null,
    mayStartAgain: boolean,
  ): AsyncGenerator<WorkerOutput, boolean, void> {
    try {
      yield* read({
        follow: false,
        until,
        mayStartAgain,
        guard: (answer, pace, done) => endWhenSilent(answer, pace, STALL_MS, done),
      })
      const missing = reader.missing()
      if (missing !== null) yield { kind: 'gap', certain: true, detail: missing }
      return !signal.aborted
    } catch (error) {
      if (!isBroken(error)) throw error
      if (signal.aborted) return false
      logger.warn({ worker: name, error }, 'the log of an ended worker could not be read')
      const refused =
        error instanceof LogFormatError ||
        (error instanceof EngineError && !error.away && error.status !== 404)
      if (refused && ++refusedReads >= MAX_REFUSED_READS) {
        yield { kind: 'gap', certain: true, detail: `the rest of the log cannot be read: ${error.message}` }
        return true
      }
      await pause()
      return false
    }
  }

  /** One pass over the log from the reader's position on. */
  async function* read(how: Reading): AsyncGenerator<WorkerOutput, void, void> {
    for (const tail of reader.canRecognise() ? [...TAILS, null] : [null]) {
      reader.begin(tail)
      const since = tail === null ? reader.since() : null
      const path = `/containers/${container ?? ''}/logs`
      const asked = {
        query: {
          stdout: '1',
          stderr: '1',
          timestamps: '1',
          follow: how.follow ? '1' : '0',
          tail: tail === null ? 'all' : String(tail),
          ...(since !== null && { since }),
          ...(how.until !== null && { until: String(how.until / 1_000) }),
        },
        signal,
      }
      const answer = how.follow ? await engine.follow(path, asked) : await engine.read(path, asked)
      const done = new AbortController()
      const pace: Pace = { waitingSince: performance.now() }
      try {
        void how.guard(answer, pace, done.signal)
        for await (const chunk of answer.chunks) {
          if (!Buffer.isBuffer(chunk)) continue
          pace.waitingSince = null
          // What is in the chunk was said before this look.
          if (how.mayStartAgain && (await inspect(container ?? ''))?.startedAt !== startedAt)
            throw new EngineError(null, 'the container was started again')
          pauseMs = SHORTEST_PAUSE_MS
          yield* suspicion()
          yield* reader.read(chunk)
          if (reader.beganTooLate) break
          pace.waitingSince = performance.now()
        }
      } finally {
        done.abort()
        answer.destroy()
      }
      if (how.follow ? !reader.beganTooLate : reader.endedWell()) return
    }
    throw new EngineError(null, 'the log ended inside of an entry')
  }

  /** Ends a followed log that does not end by itself although its container has, or although the engine was away meanwhile. */
  async function watchContainer(answer: Answer, pace: Pace, done: AbortSignal): Promise<void> {
    const exited = new AbortController()
    const wake = () => {
      exited.abort()
    }
    done.addEventListener('abort', wake)
    // Only a hint that comes early: this call may never settle. That it breaks off is a hint, too: the engine may have gone. It breaks off a
    // little later than the log, so it is kept until the engine has answered again.
    const waiting = new AbortController()
    endWait = () => {
      waiting.abort()
    }
    const asked = { timeoutMs: LONGEST_TIMER_MS, signal: AbortSignal.any([signal, waiting.signal]) }
    engine
      .stream('POST', `/containers/${container ?? ''}/wait`, asked)
      .then(text)
      .catch((error: unknown) => {
        if (!asked.signal.aborted) outages.failed(error)
      })
      .finally(wake)
    let wasAway = false
    for (let isNews = true; ; isNews = !exited.signal.aborted) {
      await nap(pollMs, isNews ? exited.signal : done)
      if (done.aborted) return
      try {
        const info = await engine.inspect(container ?? '', done)
        outages.answered()
        if (info?.phase !== 'running' || info.paused !== isPaused || wasAway || diskWatch.wasFull) break
      } catch (error) {
        outages.failed(error)
        wasAway = true
      }
    }
    await endWhenSilent(answer, pace, SILENCE_AFTER_EXIT_MS, done)
  }
}

/** Since when the next bytes are waited for; `null` while the reader's caller is busy. */
interface Pace {
  waitingSince: number | null
}

/** How the log is read: as it grows, or as it is, up to what was written at `until` (milliseconds since 1970). */
interface Reading {
  readonly follow: boolean
  readonly until: number | null
  /** It ended in a way that may be somebody's `docker restart`, which is not over yet. */
  readonly mayStartAgain: boolean
  readonly guard: Guard
}

type Guard = (answer: Answer, pace: Pace, done: AbortSignal) => Promise<void>

/**
 * A time after the last line of the run before and before the first line of this one. Lines are stamped a little later than the process that
 * wrote them ends, and may be earlier than the engine takes note of a start.
 */
function betweenRuns({ phase, startedAt, finishedAt }: ContainerInfo): number {
  return phase === 'running' && finishedAt > 0 ? (finishedAt + startedAt) / 2 : startedAt - NOTED_START_MS
}

function noticeOf(outage: Outage): WorkerOutput {
  const { from, isCertain } = outage
  const detail = isCertain
    ? `The Docker engine was ${outageText(outage)}; lines that the worker printed shortly before may be missing.`
    : `The Docker engine broke off its connections at ${new Date(from).toISOString()}; if it was restarted, lines that the worker printed shortly before may be missing.`
  return { kind: 'notice', mayLack: isCertain, detail }
}

function pauseText({ id, paused }: ContainerInfo): string {
  const short = id.slice(0, 12)
  return paused
    ? `The worker's container is paused and does nothing: \`docker unpause ${short}\` lets it go on.`
    : "The worker's container is not paused any more."
}

function waitedMs({ waitingSince }: Pace): number {
  return waitingSince === null ? 0 : performance.now() - waitingSince
}

async function endWhenSilent(answer: Answer, pace: Pace, limitMs: number, done: AbortSignal): Promise<void> {
  while (!done.aborted) {
    await nap(limitMs / 3, done)
    if (waitedMs(pace) > limitMs) answer.destroy()
  }
}

/** Waits, at most until the signal is aborted. */
async function nap(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => undefined)
}

/** An answer that breaks off is an error of Node's own, with a code. */
function isBroken(error: unknown): error is Error {
  return (
    error instanceof EngineError ||
    error instanceof LogFormatError ||
    (error instanceof Error && 'code' in error)
  )
}
