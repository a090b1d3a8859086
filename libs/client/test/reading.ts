import { expect } from 'vitest'
import { type GpuClient, isFinal, type TaskEvent, TaskEventsDocument, type TaskEvents } from '../src/index.ts'

/** All that comes. */
export async function eventsOf(batches: AsyncIterable<TaskEvents>): Promise<TaskEvent[]> {
  const events: TaskEvent[] = []
  for await (const batch of batches) events.push(...batch.events)
  return events
}

/** A task's events as the service has stored them. */
export async function storedEvents(client: GpuClient, id: string): Promise<TaskEvent[]> {
  const events: TaskEvent[] = []
  for (;;) {
    const { task } = await client.query(TaskEventsDocument, { id, first: 1_000, after: events.length })
    if (task === null) throw new Error(`there is no task ${id}`)
    events.push(...task.events.events)
    if (events.length >= task.events.lastSeq) return events
  }
}

export async function submit(client: GpuClient, kind: string): Promise<string> {
  const result = await client.submitTask({ presetId: `test/${kind}` })
  if (result.__typename !== 'SubmitTaskSuccess') throw new Error(result.message)
  return result.task.id
}

/** Events of an ended task, each once and in order, and the last one its only final status. */
export function expectWhole(events: readonly TaskEvent[]): void {
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, index) => index + 1))
  const finals = events.filter((event) => event.__typename === 'TaskStatusEvent' && isFinal(event.taskStatus))
  expect(finals).toEqual(events.slice(-1))
}
