import type { WorkerEvent } from '@gpu-service/event-parser'

/** An event in a line, for a person. */
export function eventText(event: WorkerEvent): string {
  switch (event.type) {
    case 'connection':
      return `connection   ${event.status}`
    case 'worker': {
      const percent = event.progress === null ? '' : ` ${Math.round(event.progress * 100)} %`
      return `worker       ${event.status}${percent}${event.message === null ? '' : `: ${event.message}`}`
    }
    case 'text_delta':
      return `text_delta   ${JSON.stringify(event.delta)}`
    case 'text':
      return `text         ${JSON.stringify(event.content)}`
    case 'finish':
      return `finish       ${event.status}${event.error === null ? '' : `: ${errorText(event.error)}`}`
    case 'progress': {
      const { completed, total, unit, message } = event
      const of = total === null ? '' : ` of ${total}`
      return `progress     ${completed}${of}${unit === null ? '' : ` ${unit}`}${message === null ? '' : `: ${message}`}`
    }
    case 'result':
      return `result       ${JSON.stringify(event.value)}`
    case 'artifact': {
      const where =
        event.source.kind === 'path' ? event.source.path : `${event.source.data.length} characters`
      return `artifact     ${event.name ?? where}${event.mediaType === null ? '' : ` (${event.mediaType})`}`
    }
    case 'usage':
      return `usage        ${Object.entries(event.values)
        .map(([name, value]) => `${name} ${value}`)
        .join(', ')}`
    case 'log':
      return `log          ${event.level}: ${event.message}`
    case 'custom':
      return `${event.name.padEnd(12)} ${JSON.stringify(event.payload)}`
  }
}

function errorText({ code, message }: { code: string | null; message: string }): string {
  return code === null ? message : `${code}: ${message}`
}
