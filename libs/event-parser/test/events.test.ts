import { expect, test } from 'vitest'
import type { WorkerEvent } from '../src/index.ts'
import { eventsOf } from './transcript.ts'

/** Does not compile when the union has a member more, or one less. */
function sentenceOf(event: WorkerEvent): string {
  switch (event.type) {
    case 'connection':
      return `connection ${event.status}`
    case 'worker':
      return `worker ${event.status}`
    case 'text_delta':
      return `delta ${event.delta}`
    case 'text':
      return `text ${event.content}`
    case 'finish':
      return `finish ${event.status}`
    case 'progress':
      return `progress ${event.completed}`
    case 'result':
      return `result ${JSON.stringify(event.value)}`
    case 'artifact':
      return `artifact ${event.source.kind}`
    case 'usage':
      return `usage ${Object.keys(event.values).join()}`
    case 'log':
      return `log ${event.message}`
    case 'custom':
      return `custom ${event.name}`
    default:
      return unreachable(event)
  }
}

function unreachable(event: never): never {
  throw new Error(`not an event: ${JSON.stringify(event)}`)
}

test('the events are a closed union, told apart by their type', () => {
  const lines = [
    '{"event":"connection","status":"connected"}',
    '{"event":"worker","status":"ready"}',
    '{"event":"text_delta","delta":"a"}',
    '{"event":"text","content":"b"}',
    '{"event":"finish","status":"completed"}',
    '{"event":"progress","completed":1}',
    '{"event":"result","value":[]}',
    '{"event":"artifact","path":"c"}',
    '{"event":"usage","tokens":1}',
    '{"event":"log","level":"info","message":"d"}',
    '{"event":"e"}',
  ]
  expect(eventsOf(lines.join('\n')).map(sentenceOf)).toEqual([
    'connection connected',
    'worker ready',
    'delta a',
    'text b',
    'finish completed',
    'progress 1',
    'result []',
    'artifact path',
    'usage tokens',
    'log d',
    'custom e',
  ])
})
