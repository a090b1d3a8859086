import type { TaskEventBody, WorkerLogEvent } from '@gpu-service/tasks'
import type { WorkerLogEntry } from './generated/resolvers.ts'

/** `position`: of the event in the worker's log, from 1. */
export function logEntry({ at, body }: WorkerLogEvent, position: number): WorkerLogEntry {
  const log = body.type === 'log' ? body : null
  return {
    position,
    at,
    kind: body.type,
    text: textOf(body),
    stream: log?.stream ?? null,
    level: log?.level ?? null,
    progress: body.type === 'worker' ? body.progress : null,
  }
}

function textOf(body: TaskEventBody): string {
  switch (body.type) {
    case 'status':
      return phrase(body.taskStatus, body.reason)
    case 'connection':
      return body.status
    case 'worker':
      return phrase(body.status, body.message)
    case 'text_delta':
      return body.delta
    case 'text':
      return body.content
    case 'finish':
      return phrase(body.status, body.error?.message)
    case 'progress': {
      const amount = `${body.completed}${body.total === null ? '' : ` of ${body.total}`}`
      return phrase(`${amount}${body.unit === null ? '' : ` ${body.unit}`}`, body.message)
    }
    case 'result':
      return JSON.stringify(body.value)
    case 'artifact':
      return body.artifact.name
    case 'usage':
      return JSON.stringify(body.values)
    case 'log':
      return body.line
    case 'custom':
      return phrase(body.name, JSON.stringify(body.payload))
    case 'fault':
      return phrase(body.kind, body.detail)
    case 'gap':
      return body.detail
  }
}

function phrase(what: string, more: string | null | undefined): string {
  return more == null ? what : `${what}: ${more}`
}
