import type { JsonObject, JsonValue, WorkerEvent } from './events.ts'
import type { FieldReader } from './fields.ts'
import { isObject } from './plain.ts'

/**
 * Reads the event that an object with the `event` `name` stands for. A required field that is missing or of the wrong type gives `null`,
 * an optional one of the wrong type counts as absent; `read` then has a complaint. Fields that the event does not have are dropped.
 */
export function readWorkerEvent(name: string, object: JsonObject, read: FieldReader): WorkerEvent | null {
  switch (name) {
    case 'text_delta': {
      const delta = read.text('delta', object['delta'])
      return delta === null ? null : { type: 'text_delta', delta }
    }
    case 'text': {
      const content = read.text('content', object['content'])
      return content === null ? null : { type: 'text', content }
    }
    case 'connection': {
      const status = read.text('status', object['status'])
      return status === null ? null : { type: 'connection', status }
    }
    case 'worker': {
      const status = read.text('status', object['status'])
      const message = read.optionalText('message', object['message'])
      const progress = read.optionalNumber('progress', object['progress'], 'a number from 0 to 1', isShare)
      return status === null ? null : { type: 'worker', status, message, progress }
    }
    case 'finish': {
      const status = object['status']
      const error = readError(object['error'], read)
      if (status === 'completed' || status === 'failed' || status === 'cancelled') {
        return { type: 'finish', status, error }
      }
      read.complain('`status` must be "completed", "failed" or "cancelled"')
      return null
    }
    case 'progress': {
      const completed = read.number('completed', object['completed'])
      const total = read.optionalNumber('total', object['total'])
      const unit = read.optionalText('unit', object['unit'])
      const message = read.optionalText('message', object['message'])
      return completed === null ? null : { type: 'progress', completed, total, unit, message }
    }
    case 'result': {
      const value = object['value']
      if (value !== undefined) return { type: 'result', value: read.json(value) }
      read.complain('`value` is missing')
      return null
    }
    case 'artifact': {
      const path = read.optionalText('path', object['path'])
      const data = read.optionalText('data', object['data'])
      const mediaType = read.optionalText('media_type', object['media_type'])
      const artifact = {
        type: 'artifact',
        name: read.optionalText('name', object['name']),
        mediaType,
      } as const
      if (path !== null && data === null) return { ...artifact, source: { kind: 'path', path } }
      if (data !== null && path === null) return { ...artifact, source: { kind: 'data', data } }
      read.complain('either `path` or `data` must be there')
      return null
    }
    case 'usage': {
      const values = Object.entries(object)
        .filter((entry): entry is [string, number] => entry[0] !== 'seq' && Number.isFinite(entry[1]))
        .map(([key, value]) => [read.plain(key), value] as const)
      if (values.length > 0) return { type: 'usage', values: Object.fromEntries(values) }
      read.complain('at least one number must be there')
      return null
    }
    case 'log': {
      const level = read.text('level', object['level'])
      const message = read.text('message', object['message'])
      return level === null || message === null ? null : { type: 'log', level, message }
    }
    default:
      return { type: 'custom', name: read.plain(name), payload: read.object(withoutEnvelope(object)) }
  }
}

function isShare(value: number): boolean {
  return value >= 0 && value <= 1
}

/** The `error` of a `finish`: a text, or an object with a `message` and perhaps a `code`. */
function readError(
  error: JsonValue | undefined,
  read: FieldReader,
): { code: string | null; message: string } | null {
  if (error === undefined || error === null) return null
  if (typeof error === 'string') return { code: null, message: read.plain(error) }
  if (isObject(error)) {
    const { code = null, message } = error
    if (typeof message === 'string') {
      return { code: read.optionalText('error.code', code), message: read.plain(message) }
    }
  }
  read.complain('`error` must be a text or an object with the text `message`')
  return null
}

function withoutEnvelope(object: JsonObject): JsonObject {
  if (object['task_id'] === undefined && object['seq'] === undefined) return object
  return Object.fromEntries(Object.entries(object).filter(([key]) => key !== 'task_id' && key !== 'seq'))
}
