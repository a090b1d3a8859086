import type { TaskEvent as DomainEvent, TaskEventBody } from '@gpu-service/tasks'
import type { Resolvers } from './generated/resolvers.ts'

/** A new kind of event does not compile until it has a name in the schema. */
const TYPENAMES = {
  status: 'TaskStatusEvent',
  connection: 'ConnectionEvent',
  worker: 'WorkerEvent',
  text_delta: 'TextDeltaEvent',
  text: 'TextEvent',
  finish: 'FinishEvent',
  progress: 'ProgressEvent',
  result: 'ResultEvent',
  artifact: 'ArtifactEvent',
  usage: 'UsageEvent',
  log: 'LogEvent',
  custom: 'CustomEvent',
  fault: 'ProtocolFaultEvent',
  gap: 'GapEvent',
} as const satisfies Record<TaskEventBody['type'], string>

/**
 * The body of an event whose type GraphQL has resolved already.
 * @throws TypeError where the two disagree, which is a bug.
 */
function bodyOf<T extends TaskEventBody['type']>(
  event: DomainEvent,
  type: T,
): Extract<TaskEventBody, { type: T }> {
  const { body } = event
  if (body.type !== type) throw new TypeError(`event ${event.seq} is a ${body.type}, not a ${type}`)
  return body as Extract<TaskEventBody, { type: T }>
}

export const taskEventTypes = {
  TaskEvent: { __resolveType: ({ body }) => TYPENAMES[body.type] },
  TaskStatusEvent: {
    taskStatus: (event) => bodyOf(event, 'status').taskStatus,
    reason: (event) => bodyOf(event, 'status').reason,
  },
  ConnectionEvent: { status: (event) => bodyOf(event, 'connection').status },
  WorkerEvent: {
    status: (event) => bodyOf(event, 'worker').status,
    message: (event) => bodyOf(event, 'worker').message,
    progress: (event) => bodyOf(event, 'worker').progress,
  },
  TextDeltaEvent: { delta: (event) => bodyOf(event, 'text_delta').delta },
  TextEvent: { content: (event) => bodyOf(event, 'text').content },
  FinishEvent: {
    status: (event) => bodyOf(event, 'finish').status,
    error: (event) => bodyOf(event, 'finish').error,
  },
  ProgressEvent: {
    completed: (event) => bodyOf(event, 'progress').completed,
    total: (event) => bodyOf(event, 'progress').total,
    unit: (event) => bodyOf(event, 'progress').unit,
    message: (event) => bodyOf(event, 'progress').message,
  },
  ResultEvent: { value: (event) => bodyOf(event, 'result').value },
  ArtifactEvent: { artifact: (event) => bodyOf(event, 'artifact').artifact },
  UsageEvent: { values: (event) => bodyOf(event, 'usage').values },
  LogEvent: {
    stream: (event) => bodyOf(event, 'log').stream,
    level: (event) => bodyOf(event, 'log').level,
    line: (event) => bodyOf(event, 'log').line,
  },
  CustomEvent: {
    name: (event) => bodyOf(event, 'custom').name,
    payload: (event) => bodyOf(event, 'custom').payload,
  },
  ProtocolFaultEvent: {
    kind: (event) => bodyOf(event, 'fault').kind,
    line: (event) => bodyOf(event, 'fault').line,
    detail: (event) => bodyOf(event, 'fault').detail,
  },
  GapEvent: { detail: (event) => bodyOf(event, 'gap').detail },
  Artifact: { url: ({ id }) => `/artifacts/${id}` },
} satisfies Partial<Resolvers>
