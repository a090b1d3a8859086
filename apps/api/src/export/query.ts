import type { AuditFilter, TaskFilter, TaskStatus } from '@gpu-service/tasks'
import { TASK_MOVES } from '@gpu-service/tasks'
import { parseAuditFilter } from '../graphql/audit-filter.ts'
import { parseDateTime } from '../graphql/scalars.ts'
import { parseFilter } from '../graphql/task-filter.ts'
import { FORMATS, type Format } from './table.ts'

/** The query of an export is not one; the message is for the client. */
export class QueryError extends Error {
  override readonly name = 'QueryError'
}

/** `format`, `ndjson` where it is absent. */
export function formatOf(query: unknown): Format {
  const text = fieldsOf(query).get('format') ?? 'ndjson'
  if (text === 'ndjson' || text === 'csv') return text
  throw new QueryError(`format must be one of ${Object.keys(FORMATS).join(', ')}.`)
}

/** The fields of GraphQL's TaskFilter, `status` with commas between several, and a label as `label.key` and `label.value`. */
export function taskFilterOf(query: unknown): TaskFilter {
  const fields = fieldsOf(query, [
    ...['status', 'presetId', 'createdAfter', 'createdBefore', 'label.key', 'label.value', 'text'],
  ])
  const key = fields.get('label.key')
  if (key === undefined && fields.has('label.value')) throw new QueryError('label.value needs a label.key.')
  return parseFilter({
    status: fields.get('status')?.split(',').map(statusOf),
    presetId: fields.get('presetId'),
    createdAfter: moment(fields, 'createdAfter'),
    createdBefore: moment(fields, 'createdBefore'),
    label: key === undefined ? undefined : { key, value: fields.get('label.value') },
    text: fields.get('text'),
  })
}

/** The fields of GraphQL's AuditFilter. */
export function auditFilterOf(query: unknown): AuditFilter {
  const fields = fieldsOf(query, [
    ...['after', 'before', 'actorKind', 'actorId', 'actorName', 'action', 'targetKind', 'targetId', 'result'],
  ])
  return parseAuditFilter({
    ...Object.fromEntries(fields),
    after: moment(fields, 'after'),
    before: moment(fields, 'before'),
  })
}

export function taskIdOf(query: unknown): string {
  const id = fieldsOf(query, ['task']).get('task')
  if (id === undefined) throw new QueryError('task must say whose events are meant.')
  return id
}

/** What is given; with `names`, nothing but these and `format`. */
function fieldsOf(query: unknown, names?: readonly string[]): ReadonlyMap<string, string> {
  const fields = new Map<string, string>()
  for (const [name, value] of Object.entries(query ?? {}) as [string, unknown][]) {
    if (names !== undefined && name !== 'format' && !names.includes(name))
      throw new QueryError(`There is no ${name} here; there are format, ${names.join(', ')}.`)
    if (typeof value !== 'string') throw new QueryError(`${name} may be given once only.`)
    if (value !== '') fields.set(name, value)
  }
  return fields
}

function statusOf(text: string): TaskStatus {
  const status = (Object.keys(TASK_MOVES) as TaskStatus[]).find((known) => known === text)
  if (status === undefined) throw new QueryError(`There is no status ${text}.`)
  return status
}

function moment(fields: ReadonlyMap<string, string>, name: string): number | undefined {
  const text = fields.get(name)
  if (text === undefined) return undefined
  try {
    return parseDateTime(text)
  } catch {
    throw new QueryError(`${name} must be a moment by RFC 3339 with an offset, such as 2026-03-01T09:30:00Z.`)
  }
}
