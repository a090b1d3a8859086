import { setImmediate as nextTurn } from 'node:timers/promises'
import { createOutputBuilder, type TaskEvent, type TaskId, type TaskStore } from '@gpu-service/tasks'
import { fromChunk, insertEvents, MAX_EVENTS, MAX_SIZE } from './chunk.ts'
import { type EventChunk, Prisma, type PrismaClient } from './generated/client.ts'
import { toOutput } from './rows.ts'
import { KEPT } from './statements.ts'
import { StoreError } from './store-error.ts'
import type { Writer } from './writer.ts'

// A read takes few chunks at first, since they may be large, and more while they turn out to be small.
const FIRST_CHUNKS = 8
const MAX_CHUNKS = 512

/** After so much of stored text a read gives what it has: events may be 1 MiB each. */
const MAX_READ = 4 * 1024 * 1024

/** Of any seq. */
const LAST_SEQ = 2 ** 31 - 1

/** The store's event log: what `append` has written, read back and tidied up. */
export function createEventLog(
  reader: PrismaClient,
  writer: Writer,
): Pick<TaskStore, 'events' | 'output' | 'compact'> {
  /** The events after `after`, of the chunks that hold at most `limit` of them, in batches between which others have their turn. */
  async function* batches(
    taskId: TaskId,
    after: number,
    limit: number,
  ): AsyncGenerator<{ readonly events: readonly TaskEvent[]; readonly size: number }> {
    const end = Math.min(after + limit, LAST_SEQ)
    let at = after
    for (let take = FIRST_CHUNKS; at < end;) {
      const chunks = await reader.eventChunk.findMany({
        where: { taskId, toSeq: { gt: at }, fromSeq: { lte: end } },
        orderBy: { toSeq: 'asc' },
        take,
      })
      const events: TaskEvent[] = []
      let size = 0
      for (const chunk of chunks) {
        if (chunk.fromSeq > at + 1) {
          throw new StoreError(
            'DATABASE_CORRUPT',
            `The stored events ${at + 1} to ${chunk.fromSeq - 1} of task ${taskId} are missing.`,
          )
        }
        for (const event of fromChunk(chunk, at)) if (event.seq <= end) events.push(event)
        at = chunk.toSeq
        size += chunk.size
      }
      if (events.length > 0) yield { events, size }
      if (chunks.length < take) return
      if (size < MAX_SIZE) take = Math.min(MAX_CHUNKS, take * 2)
      await nextTurn()
    }
  }

  return {
    async events(id, after, limit) {
      const all: TaskEvent[] = []
      let read = 0
      for await (const { events, size } of batches(id, after, limit)) {
        for (const event of events) all.push(event)
        read += size
        if (read > MAX_READ) break
      }
      return all
    },

    async output(id) {
      const task = await reader.task.findUnique({ where: { id, ...KEPT }, select: { attempt: true } })
      if (task === null) throw new StoreError('NOT_FOUND', `There is no task ${id}.`)
      const { attempt } = task
      const settled = await reader.output.findUnique({ where: { taskId_attempt: { taskId: id, attempt } } })
      if (settled !== null) return toOutput(settled)
      const builder = createOutputBuilder()
      for await (const { events } of batches(id, 0, LAST_SEQ)) {
        for (const event of events) if (event.attempt === attempt) builder.add(event.body)
      }
      return builder.build()
    },

    async compact(id) {
      const chunks = await writer.change(({ query }) =>
        query(
          Prisma.sql`SELECT 1 AS "is" FROM "EventChunk" WHERE "taskId" = ${id} LIMIT ${FIRST_CHUNKS + 1}`,
        ),
      )
      // A reader gets so few at once, whatever their size: joining them would cost more than it gains.
      if (chunks.length <= FIRST_CHUNKS) return
      // Many small chunks become large ones in two rounds; the last one finds nothing to do.
      while (await joinNeighbours(reader, writer, id)) await nextTurn()
    },
  }
}

/** The most chunks that are joined at once, so that it takes a few milliseconds. */
const MAX_JOINED = 250
/** One more, so that a page of chunks never ends within a run that could go on. */
const PAGE = MAX_JOINED + 1

/** Joins what is small, from one end of the log to the other. Tells whether there was any. */
async function joinNeighbours(reader: PrismaClient, writer: Writer, id: TaskId): Promise<boolean> {
  let joined = false
  for (let after = 0; ;) {
    const page = await reader.$queryRaw<readonly Extent[]>(Prisma.sql`
      SELECT "fromSeq", "toSeq", "size" FROM "EventChunk"
      WHERE "taskId" = ${id} AND "toSeq" > ${after} ORDER BY "toSeq" LIMIT ${PAGE}`)
    const runs = runsOf(page)
    if (page.length === PAGE) runs.pop()
    for (const run of runs) {
      if (run.chunks > 1) {
        await joinChunks(reader, writer, id, run)
        joined = true
      }
      after = run.toSeq
    }
    if (page.length < PAGE) return joined
    await nextTurn()
  }
}

type Extent = Pick<EventChunk, 'fromSeq' | 'toSeq' | 'size'>

/** Neighbours. */
interface Run {
  readonly fromSeq: number
  readonly toSeq: number
  readonly size: number
  readonly chunks: number
}

/** The longest runs of neighbours that fit one chunk. */
function runsOf(extents: readonly Extent[]): Run[] {
  const runs: Run[] = []
  for (const { fromSeq, toSeq, size } of extents) {
    const run = runs.at(-1)
    if (
      run !== undefined &&
      run.chunks < MAX_JOINED &&
      toSeq - run.fromSeq < MAX_EVENTS &&
      run.size + size <= MAX_SIZE
    ) {
      runs[runs.length - 1] = { ...run, toSeq, size: run.size + size, chunks: run.chunks + 1 }
    } else {
      runs.push({ fromSeq, toSeq, size, chunks: 1 })
    }
  }
  return runs
}

/** Puts chunks into one. What it reads stays true until it writes: only another compaction could change it, and is found out. */
async function joinChunks(reader: PrismaClient, writer: Writer, taskId: TaskId, run: Run): Promise<void> {
  const rows = await reader.$queryRaw<readonly EventChunk[]>(Prisma.sql`
    SELECT * FROM "EventChunk"
    WHERE "taskId" = ${taskId} AND "toSeq" >= ${run.fromSeq} AND "toSeq" <= ${run.toSeq} ORDER BY "toSeq"`)
  const events = rows.flatMap((row) => fromChunk(row))
  await nextTurn()
  await writer.change(async (transaction) => {
    const removed = await transaction.execute(Prisma.sql`
      DELETE FROM "EventChunk"
      WHERE "taskId" = ${taskId} AND "toSeq" >= ${run.fromSeq} AND "toSeq" <= ${run.toSeq}`)
    if (removed !== run.chunks) {
      throw new StoreError('INVALID_WRITE', `The events of task ${taskId} are being compacted twice at once.`)
    }
    await insertEvents(transaction, [{ taskId, events }])
  })
}
