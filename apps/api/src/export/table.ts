import type { AuditEntry, Task, TaskEvent, TaskId, TaskOutput } from '@gpu-service/tasks'

/** A cell: a text, a number, a truth or nothing as such; what may be any JSON value is made a text of JSON by `json`. */
type Cell = string | number | boolean | null | { readonly json: unknown }

/** What is exported of rows of one kind, column by column, in the same words in every format. */
export type Table<R> = Readonly<Record<string, (row: R) => Cell>>

export type Format = 'ndjson' | 'csv'

export const FORMATS = {
  ndjson: { mediaType: 'application/x-ndjson; charset=utf-8' },
  csv: { mediaType: 'text/csv; charset=utf-8; header=present' },
} as const satisfies Record<Format, object>

/** What stands above the rows; empty where nothing does. */
export function headOf<R>(table: Table<R>, format: Format): string {
  return format === 'csv' ? csvLine(Object.keys(table)) : ''
}

export function lineOf<R>(table: Table<R>, row: R, format: Format): string {
  const cells = Object.entries(table).map(([name, cell]): readonly [string, Cell] => [name, cell(row)])
  if (format === 'csv') return csvLine(cells.map(([, cell]) => cell))
  const values = cells.map(([name, cell]) => [
    name,
    typeof cell === 'object' && cell !== null ? cell.json : cell,
  ])
  return `${JSON.stringify(Object.fromEntries(values))}\n`
}

/** By RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe before it, which spreadsheets do not show. */
function csvLine(cells: readonly Cell[]): string {
  const texts = cells.map((cell) => {
    if (cell === null) return ''
    const text = typeof cell === 'object' ? JSON.stringify(cell.json) : String(cell)
    const harmless = typeof cell === 'string' && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
    return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless
  })
  return `${texts.join(',')}\r\n`
}

export interface TaskRow extends TaskOutput {
  readonly task: Task
}

export const TASKS: Table<TaskRow> = {
  id: ({ task }) => task.id,
  owner: ({ task }) => task.owner,
  presetId: ({ task }) => task.presetId,
  image: ({ task }) => task.spec.image,
  status: ({ task }) => task.status,
  priority: ({ task }) => task.priority,
  labels: ({ task }) => ({ json: task.labels }),
  affinity: ({ task }) => task.affinity,
  idempotencyKey: ({ task }) => task.idempotencyKey,
  retryOf: ({ task }) => task.retryOf,
  attempt: ({ task }) => task.attempt,
  createdAt: ({ task }) => moment(task.createdAt),
  queuedAt: ({ task }) => moment(task.queuedAt),
  startedAt: ({ task }) => moment(task.startedAt),
  runningAt: ({ task }) => moment(task.runningAt),
  firstTextAt: ({ task }) => moment(task.firstTextAt),
  finishedAt: ({ task }) => moment(task.finishedAt),
  cancelRequestedAt: ({ task }) => moment(task.cancelRequestedAt),
  cancelReason: ({ task }) => task.cancelReason,
  stopReason: ({ task }) => task.stopReason,
  stoppedAt: ({ task }) => moment(task.release.stoppedAt),
  gpuFreeAt: ({ task }) => moment(task.release.gpuFreeAt),
  killed: ({ task }) => task.release.killed,
  gpuIds: ({ task }) => ({ json: task.gpuIds }),
  workerId: ({ task }) => task.workerId,
  errorCode: ({ task }) => task.error?.code ?? null,
  errorMessage: ({ task }) => task.error?.message ?? null,
  exitCode: ({ task }) => task.exitCode,
  lastSeq: ({ task }) => task.lastSeq,
  input: ({ task }) => ({ json: task.input }),
  files: ({ task }) => ({ json: task.files }),
  text: ({ text }) => text,
  result: ({ result }) => ({ json: result }),
  usage: ({ usage }) => ({ json: usage }),
}

export interface EventRow {
  readonly taskId: TaskId
  readonly event: TaskEvent
}

export const EVENTS: Table<EventRow> = {
  taskId: ({ taskId }) => taskId,
  seq: ({ event }) => event.seq,
  at: ({ event }) => moment(event.at),
  attempt: ({ event }) => event.attempt,
  type: ({ event }) => event.body.type,
  body: ({ event }) => ({ json: event.body }),
}

export const AUDIT: Table<AuditEntry> = {
  seq: ({ seq }) => seq,
  at: ({ at }) => moment(at),
  actorKind: ({ actor }) => actor.kind,
  actorId: ({ actor }) => actor.id,
  actorName: ({ actor }) => actor.name,
  actorAddress: ({ actor }) => actor.address,
  action: ({ action }) => action,
  targetKind: ({ target }) => target.kind,
  targetId: ({ target }) => target.id,
  result: ({ result }) => result,
  status: ({ status }) => status,
  reason: ({ reason }) => reason,
  details: ({ details }) => ({ json: details }),
  previousHash: ({ previousHash }) => previousHash,
  hash: ({ hash }) => hash,
}

function moment(at: number | null): string | null {
  return at === null ? null : new Date(at).toISOString()
}
