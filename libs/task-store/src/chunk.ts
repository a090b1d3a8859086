import type { TaskEvent, TaskEventBody, TaskId, WorkerLogEvent } from '@gpu-service/tasks'
import type { Transaction } from './connection.ts'
import { eventBody } from './event-body.ts'
import { listOf, number } from './shape.ts'
import { insert } from './statements.ts'
import { StoreError } from './store-error.ts'

/** The row of a run of consecutive events. */
export interface Chunk {
  readonly taskId: string
  readonly fromSeq: number
  readonly toSeq: number
  readonly format: number
  /** Characters of `data`. */
  readonly size: number
  readonly data: string
}

/** The most events in a chunk. */
export const MAX_EVENTS = 1_000
/** The most characters in a chunk, about; an event that is larger by itself has a chunk of its own. */
export const MAX_SIZE = 256 * 1024

/** JSON `[[at, attempt, [body, ...]], ...]`: neighbours mostly share their time and attempt. */
const FORMAT = 1

/** Writes the events, whose seq go on without a hole, as chunks of bounded size. */
export function toChunks(taskId: TaskId, events: readonly TaskEvent[]): readonly Chunk[] {
  const chunks: Chunk[] = []
  let runs: string[] = []
  let bodies: string[] = []
  let runAt = 0
  let runAttempt = 0
  let count = 0
  let size = 0

  function endRun(): void {
    if (bodies.length > 0) runs.push(`[${runAt},${runAttempt},[${bodies.join(',')}]]`)
    bodies = []
  }

  function endChunk(toSeq: number): void {
    endRun()
    const data = `[${runs.join(',')}]`
    chunks.push({ taskId, fromSeq: toSeq - count + 1, toSeq, format: FORMAT, size: data.length, data })
    runs = []
    count = 0
    size = 0
  }

  for (const { seq, at, attempt, body } of events) {
    const json = JSON.stringify(body)
    if (count === MAX_EVENTS || (count > 0 && size + json.length > MAX_SIZE)) endChunk(seq - 1)
    if (at !== runAt || attempt !== runAttempt) endRun()
    runAt = at
    runAttempt = attempt
    bodies.push(json)
    count++
    size += json.length + 1
  }
  const last = events.at(-1)
  if (last !== undefined) endChunk(last.seq)
  return chunks
}

/** Adds to the logs of tasks; the events of each go on where its log ends. */
export function insertEvents(
  transaction: Transaction,
  added: readonly { readonly taskId: TaskId; readonly events: readonly TaskEvent[] }[],
): Promise<void> {
  const chunks = added.flatMap(({ taskId, events }) => toChunks(taskId, events))
  return insert(
    transaction,
    'EventChunk',
    chunks.map((chunk) => ({ ...chunk })),
  )
}

/**
 * The events of a chunk that stand after `after`. Throws `StoreError` DATABASE_CORRUPT, with the task and the seqs, where the row does not
 * hold exactly the events that it says it holds.
 */
export function fromChunk(chunk: Chunk, after = 0): readonly TaskEvent[] {
  if (chunk.format !== FORMAT) throw damaged(chunk, `it has the unknown format ${chunk.format}`)
  let runs: unknown
  try {
    runs = JSON.parse(chunk.data)
  } catch (error) {
    throw damaged(chunk, 'it is not JSON', error)
  }
  if (!Array.isArray(runs)) throw damaged(chunk, 'it is not a list')
  const events: TaskEvent[] = []
  let seq = chunk.fromSeq
  for (const run of runs as readonly unknown[]) {
    if (!isRun(run)) throw damaged(chunk, `event ${seq} has no time or no attempt`)
    const [at, attempt, bodies] = run
    for (const body of bodies) {
      if (!eventBody(body)) throw damaged(chunk, `event ${seq} is not an event`)
      if (seq > after) events.push({ seq, at, attempt, body })
      seq++
    }
  }
  if (seq !== chunk.toSeq + 1) throw damaged(chunk, `it holds ${seq - chunk.fromSeq} events`)
  return events
}

/** Writes what belongs to no task: `[[at, [body, ...]], ...]`. */
export function toWorkerLog(events: readonly WorkerLogEvent[]): string {
  const runs: [number, TaskEventBody[]][] = []
  for (const { at, body } of events) {
    const run = runs.at(-1)
    if (run?.[0] === at) run[1].push(body)
    else runs.push([at, [body]])
  }
  return JSON.stringify(runs)
}

/** What stands in a worker's log; throws as `fromChunk` does. */
export function fromWorkerLog(row: {
  readonly workerId: string
  readonly fromSeq: number
  readonly toSeq: number
  readonly data: string
}): readonly WorkerLogEvent[] {
  const unreadable = (cause?: unknown) =>
    new StoreError(
      'DATABASE_CORRUPT',
      `The entries ${row.fromSeq} to ${row.toSeq} of the log of worker ${row.workerId} cannot be read.`,
      { cause },
    )
  let runs: unknown
  try {
    runs = JSON.parse(row.data)
  } catch (error) {
    throw unreadable(error)
  }
  if (!logRuns(runs)) throw unreadable()
  const events = runs.flatMap(([at, bodies]) => bodies.map((body) => ({ at, body })))
  if (events.length !== row.toSeq - row.fromSeq + 1) throw unreadable()
  return events
}

const bodies = listOf(eventBody)
const logRuns = listOf(
  (value: unknown): value is readonly [number, readonly TaskEventBody[]] =>
    Array.isArray(value) && value.length === 2 && number(value[0]) && bodies(value[1]),
)
function isRun(value: unknown): value is readonly [number, number, readonly unknown[]] {
  return (
    Array.isArray(value) &&
    value.length === 3 &&
    typeof value[0] === 'number' &&
    typeof value[1] === 'number' &&
    Array.isArray(value[2])
  )
}

function damaged(chunk: Chunk, what: string, cause?: unknown): StoreError {
  return new StoreError(
    'DATABASE_CORRUPT',
    `The stored events ${chunk.fromSeq} to ${chunk.toSeq} of task ${chunk.taskId} cannot be read: ${what}.`,
    { cause },
  )
}
