import {
  isFinal,
  mayMove,
  StaleWriteError,
  type TaskAppend,
  type TaskId,
  type TaskStatus,
  type WorkerProgress,
} from '@gpu-service/tasks'
import { eventBody } from './event-body.ts'
import { StoreError } from './store-error.ts'

// What one transaction takes at most, so that none holds up the process or the other writers for long. A single call is never split.
const MAX_CALLS = 500
const MAX_EVENTS = 5_000

/** All that one call, or a group of calls, adds to one task. */
export interface TaskGroup {
  readonly taskId: TaskId
  readonly attempt: number
  readonly after: number
  readonly lastSeq: number
  /** The changes of status, in order; each but the first is known to be a move of the table. */
  readonly moves: readonly TaskStatus[]
  readonly parts: readonly TaskAppend[]
}

/** Calls that are written together. */
export interface AppendGroup<C extends AppendCall = AppendCall> {
  readonly calls: readonly C[]
  readonly tasks: ReadonlyMap<TaskId, TaskGroup>
}

export interface AppendCall {
  readonly progress: WorkerProgress
  /** What it adds, as `groupByTask` gives it. */
  readonly tasks: ReadonlyMap<TaskId, TaskGroup>
}

/**
 * Takes calls from the front as long as they fit together. One that does not go on where an earlier one ends waits for the next group: at
 * least one of the two is wrong, and only the database knows which.
 */
export function takeGroup<C extends AppendCall>(waiting: C[]): AppendGroup<C> {
  const calls: C[] = []
  const tasks = new Map<TaskId, TaskGroup>()
  let events = 0
  for (const call of waiting) {
    events += countEvents(call.progress)
    if (calls.length > 0 && (events > MAX_EVENTS || calls.length === MAX_CALLS)) break
    const joined = [...call.tasks.values()].map((added) => join(tasks.get(added.taskId), added))
    if (!joined.every((group) => group !== null)) break
    for (const group of joined) tasks.set(group.taskId, group)
    calls.push(call)
  }
  waiting.splice(0, calls.length)
  return { calls, tasks }
}

function countEvents(progress: WorkerProgress): number {
  return progress.tasks.reduce((sum, { events }) => sum + events.length, 0)
}

/** What a call adds, per task. Throws where it contradicts itself. */
export function groupByTask(progress: WorkerProgress): ReadonlyMap<TaskId, TaskGroup> {
  const tasks = new Map<TaskId, TaskGroup>()
  for (const append of progress.tasks) {
    const group = join(tasks.get(append.taskId), groupOf(append))
    if (group === null)
      throw new StaleWriteError(append.taskId, `Task ${append.taskId} is added to twice, out of order.`)
    tasks.set(append.taskId, group)
  }
  return tasks
}

function groupOf(append: TaskAppend): TaskGroup {
  const { taskId, attempt, after, events, changes, settle } = append
  const wrong = (what: string) => new StoreError('INVALID_WRITE', `Task ${taskId}: ${what}.`)
  let before = after
  for (const { seq, at, body } of events) {
    if (seq !== before + 1) throw wrong(`event ${seq} does not follow event ${before}`)
    // It could be written, but never be read again.
    if (!Number.isFinite(at) || !eventBody(body)) throw wrong(`event ${seq} is not an event`)
    before = seq
  }
  const last = events.at(-1)?.body
  if (settle !== undefined && (last?.type !== 'status' || last.taskStatus !== settle.status)) {
    throw wrong(`it is settled as ${settle.status}, but its last event does not say so`)
  }
  const moves: TaskStatus[] = []
  if (changes?.status !== undefined && changes.status !== settle?.status) moves.push(changes.status)
  if (moves.some(isFinal)) throw wrong('a final status needs a settlement')
  if (settle !== undefined) moves.push(settle.status)
  if (!areMoves(moves)) throw new StaleWriteError(taskId, `Task ${taskId} cannot go ${moves.join(' to ')}.`)
  return { taskId, attempt, after, lastSeq: after + events.length, moves, parts: [append] }
}

/** One group after the other; `null` where the second does not go on from the first. */
function join(first: TaskGroup | undefined, second: TaskGroup): TaskGroup | null {
  if (first === undefined) return second
  const moves = [...first.moves, ...second.moves]
  const last = first.moves.at(-1)
  if (first.attempt !== second.attempt || first.lastSeq !== second.after) return null
  if ((last !== undefined && isFinal(last)) || !areMoves(moves)) return null
  return { ...first, lastSeq: second.lastSeq, moves, parts: [...first.parts, ...second.parts] }
}

function areMoves(statuses: readonly TaskStatus[]): boolean {
  return statuses.every((to, index) => {
    const from = statuses[index - 1]
    return from === undefined || mayMove(from, to)
  })
}
