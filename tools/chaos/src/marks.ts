import type { SeenEvent } from './api.ts'

/** Which line of which run of the chaos worker it is: `[o7 RUN]`, or `[e7 RUN]` on stderr. */
export interface Mark {
  readonly runId: string
  readonly stream: 'o' | 'e'
  readonly number: number
}

const MARK = /\[([oe])(\d+) ([0-9a-f-]{36}\.\d+)\]/g

/** Each mark once, in order. */
export function marksIn(text: string): Mark[] {
  const marks = new Map<string, Mark>()
  for (const [whole, stream, number, runId = ''] of text.matchAll(MARK))
    marks.set(whole, { runId, stream: stream === 'o' ? 'o' : 'e', number: Number(number) })
  return [...marks.values()]
}

/** Of the line that became this event. A status quotes the last words of a worker, which have been events before. */
export function marksOf(event: SeenEvent): Mark[] {
  return event.__typename === 'TaskStatusEvent' ? [] : marksIn(JSON.stringify(event))
}
