import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { StoreError } from '@gpu-service/task-store'
import { isFinal, type Task, type TaskId, type TaskOutput, type TaskStore } from '@gpu-service/tasks'
import { bundleOf, type BundleSources } from '../export/bundle.ts'
import { entriesOf, eventsOf, tasksOf } from '../export/pages.ts'
import {
  AUDIT,
  EVENTS,
  type Format,
  FORMATS,
  headOf,
  lineOf,
  type Table,
  TASKS,
  type TaskRow,
} from '../export/table.ts'
import { auditFilterOf, formatOf, QueryError, taskFilterOf, taskIdOf } from '../export/query.ts'
import { restricted } from '../graphql/visibility.ts'
import { callerOf } from './caller.ts'
import { sendErrors } from './graphql-request.ts'

/** Whether whoever asks may have it: the audit log, or a task with all that belongs to it. */
export type MayRead = (request: FastifyRequest, what: 'audit' | Task) => boolean

export interface ExportOptions extends BundleSources {
  readonly mayRead: MayRead
}

/** So much is put together before it is handed on. */
const CHUNK_CHARS = 32 * 1024

/**
 * Serves `/export/tasks`, `/export/events` and `/export/audit` as NDJSON or CSV, and `/export/tasks/:id/bundle`. All are streamed from pages of
 * the store: the next one is read when the client has taken the last, and none once it has hung up. Where the store fails in the middle the
 * connection is cut, so that no client takes a part for the whole.
 */
export function serveExports(app: FastifyInstance, options: ExportOptions): void {
  app.get('/export/tasks', (request, reply) =>
    answer(request, reply, (query) => {
      const filter = restricted(taskFilterOf(query), callerOf(request).principal)
      const rows = taskRows(options.store, filter, (task) => options.mayRead(request, task))
      return table(reply, 'tasks', TASKS, rows, formatOf(query))
    }),
  )

  app.get('/export/events', (request, reply) =>
    answer(request, reply, async (query) => {
      const task = await readable(request, taskIdOf(query))
      if (task === null) return notFound(reply)
      return table(reply, `events-${task.id}`, EVENTS, eventRows(options.store, task), formatOf(query))
    }),
  )

  app.get('/export/audit', (request, reply) =>
    answer(request, reply, (query) => {
      if (!options.mayRead(request, 'audit'))
        return refuse(reply, 403, 'FORBIDDEN', 'The audit log is not for everybody.')
      return table(reply, 'audit', AUDIT, entriesOf(options.store, auditFilterOf(query)), formatOf(query))
    }),
  )

  app.get<{ Params: { id: string } }>('/export/tasks/:id/bundle', async (request, reply) => {
    const task = await readable(request, request.params.id)
    if (task === null) return notFound(reply)
    if (!isFinal(task.status))
      return refuse(
        reply,
        409,
        'NOT_ENDED',
        `The task is ${task.status}; a bundle tells of one that has ended.`,
      )
    return send(reply, `task-${task.id}.bundle.ndjson`, FORMATS.ndjson.mediaType, bundleOf(options, task))
  })

  async function readable(request: FastifyRequest, id: string): Promise<Task | null> {
    const task = await options.store.task(id as TaskId)
    return task !== null && options.mayRead(request, task) ? task : null
  }
}

/** What is wrong with the query is the client's fault. */
async function answer(
  { query }: FastifyRequest,
  reply: FastifyReply,
  serve: (query: unknown) => FastifyReply | Promise<FastifyReply>,
): Promise<FastifyReply> {
  try {
    return await serve(query)
  } catch (error) {
    const isOfClient = error instanceof StoreError && error.code === 'INVALID_FILTER'
    if (error instanceof QueryError || isOfClient) return refuse(reply, 400, 'BAD_REQUEST', error.message)
    throw error
  }
}

async function* taskRows(
  store: TaskStore,
  filter: Parameters<typeof tasksOf>[1],
  isReadable: (task: Task) => boolean,
): AsyncGenerator<TaskRow, void> {
  for await (const task of tasksOf(store, filter)) {
    const output = isReadable(task) ? await outputOf(store, task.id) : null
    if (output !== null) yield { task, ...output }
  }
}

/** `null`: the task was removed meanwhile. */
async function outputOf(store: TaskStore, id: TaskId): Promise<TaskOutput | null> {
  try {
    return await store.output(id)
  } catch (error) {
    if (error instanceof StoreError && error.code === 'NOT_FOUND') return null
    throw error
  }
}

async function* eventRows(store: TaskStore, task: Task) {
  for await (const event of eventsOf(store, task)) yield { taskId: task.id, event }
}

function table<R>(
  reply: FastifyReply,
  name: string,
  columns: Table<R>,
  rows: AsyncIterable<R>,
  format: Format,
): Promise<FastifyReply> {
  async function* lines(): AsyncGenerator<string, void> {
    yield headOf(columns, format)
    for await (const row of rows) yield lineOf(columns, row, format)
  }
  return send(reply, `${name}.${format}`, FORMATS[format].mediaType, lines())
}

/** Begins to answer when there is something: what fails before has a status that says so. */
async function send(
  reply: FastifyReply,
  fileName: string,
  mediaType: string,
  lines: AsyncIterable<string>,
): Promise<FastifyReply> {
  const chunks = chunksOf(lines)
  const first = await chunks.next()
  async function* all(): AsyncGenerator<string, void> {
    if (first.done !== true) yield first.value
    yield* chunks
  }
  return reply
    .headers({
      'content-type': mediaType,
      'content-disposition': `attachment; filename="${fileName}"`,
      'content-security-policy': "sandbox; default-src 'none'",
    })
    .send(Readable.from(all(), { objectMode: false }))
}

async function* chunksOf(lines: AsyncIterable<string>): AsyncGenerator<string, void> {
  let chunk = ''
  for await (const line of lines) {
    chunk += line
    if (chunk.length < CHUNK_CHARS) continue
    yield chunk
    chunk = ''
  }
  // An empty one is no chunk.
  if (chunk !== '') yield chunk
}

function notFound(reply: FastifyReply): FastifyReply {
  return refuse(reply, 404, 'NOT_FOUND', 'There is no such task.')
}

function refuse(reply: FastifyReply, status: number, code: string, message: string): FastifyReply {
  return sendErrors(reply, status, [{ message, extensions: { code } }])
}
