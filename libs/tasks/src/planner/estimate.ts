import type { TaskId } from '../ids.ts'
import type { PlanInput, QueuedTask } from './plan-input.ts'
import { kindOf } from './queue-view.ts'
import { rehearse, type Rehearsal, type RehearsedStart } from './rehearsal.ts'
import { CERTAIN, times, type Doubt } from './spread.ts'

/** When a queued task is expected to be RUNNING. Moments are milliseconds since 1970. */
export interface StartEstimate {
  readonly at: number
  /** Nine of ten such tasks start no earlier, and nine of ten no later than `latest`, as far as what was measured tells. */
  readonly earliest: number
  readonly latest: number
  /** On a session worker that is ready by then. */
  readonly warm: boolean
  /** What it rests on, for people. */
  readonly how: string
}

/** So many must have started before their pace says anything about those behind them. */
const LEAST_STARTED = 20
/** Of its own kind fewer will do: what is pinned elsewhere, or has other workers, does not matter to it. */
const LEAST_OF_KIND = 10
/** Nothing is known more exactly. */
const LEAST_DOUBT_MS = 20
/** Tasks that come later and pass, and workers that fail, are not foreseen. */
const UNFORESEEN = 1.2

/**
 * When each task of the queue, which is given in order with the places from 1, starts to work; `null` where that cannot be told: it is not queued, waits for what
 * nobody knows the end of, or too little is known of the runs. All come from one rehearsal of plans; those too far back for it from the
 * pace of those before them. The work is bounded but for a look at each task of the queue.
 */
export function createForecast(
  input: PlanInput,
  ordered: readonly QueuedTask[],
  positionOf: (id: TaskId) => number | null,
): (id: TaskId) => StartEstimate | null {
  const rehearsal = rehearse(input, ordered)
  const ofKinds = countsOfKinds(ordered, input.keys)
  return (id) => {
    const start = rehearsal.starts.get(id)
    if (start !== undefined) return rehearsed(start, input.now)
    const position = positionOf(id)
    const task = position === null ? undefined : ordered[position - 1]
    if (position === null || task === undefined) return null
    return byPace({ task, position, ofKind: ofKinds[position - 1] ?? 0 }, rehearsal, input)
  }
}

interface Place {
  readonly task: QueuedTask
  /** From 1. */
  readonly position: number
  /** Among those of its kind, from 1. */
  readonly ofKind: number
}

/** Of each task how many of its kind there are up to it. */
function countsOfKinds(ordered: readonly QueuedTask[], keys: PlanInput['keys']): Uint32Array {
  const counts = new Map<string, number>()
  return Uint32Array.from(ordered, (task) => {
    const kind = kindOf(task, keys)
    const count = (counts.get(kind) ?? 0) + 1
    counts.set(kind, count)
    return count
  })
}

function rehearsed({ at, warm, doubt, last, before }: RehearsedStart, now: number): StartEstimate {
  const count = before === 0 ? 'It is next' : `After ${before} task${before === 1 ? '' : 's'} before it`
  const how = `${count}, on ${warm ? 'a session worker that is warm by then' : 'a worker that has to load first'}.`
  return estimated(at, doubt, last, now, warm, how)
}

function byPace(
  { task, position, ofKind }: Place,
  { starts, startsOfKind, hopeless, isOver, endedAt, doubt }: Rehearsal,
  { now, keys }: Pick<PlanInput, 'now' | 'keys'>,
): StartEstimate | null {
  const kind = kindOf(task, keys)
  const passedMs = endedAt - now
  // One that did not start where as many did as were before it waits for something else.
  if (isOver || passedMs === 0 || hopeless.has(kind) || position <= starts.size) return null
  const alike = startsOfKind.get(kind) ?? 0
  const isByKind = alike >= LEAST_OF_KIND
  if (!isByKind && starts.size < LEAST_STARTED) return null
  const ratio = Math.max(1, isByKind ? ofKind / alike : position / starts.size)
  const how = isByKind
    ? `By the pace of the first ${alike} of the ${ofKind - 1} tasks of its kind before it.`
    : `By the pace of the first ${starts.size} of the ${position - 1} tasks before it.`
  return estimated(now + passedMs * ratio, times(doubt, ratio), CERTAIN, now, task.session !== null, how)
}

function estimated(
  at: number,
  doubt: Doubt,
  last: Doubt,
  now: number,
  warm: boolean,
  how: string,
): StartEstimate {
  const down = Math.hypot(UNFORESEEN * Math.hypot(doubt.down, doubt.drift), last.down)
  const up = Math.hypot(UNFORESEEN * Math.hypot(doubt.up, doubt.drift), last.up)
  return {
    at: Math.round(at),
    earliest: Math.round(Math.max(now, at - Math.max(LEAST_DOUBT_MS, down))),
    latest: Math.round(at + Math.max(LEAST_DOUBT_MS, up)),
    warm,
    how,
  }
}
