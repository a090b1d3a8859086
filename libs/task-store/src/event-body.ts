import type {
  Artifact,
  JsonValue,
  JsonObject,
  TaskError,
  TaskEventBody,
  TaskStatus,
} from '@gpu-service/tasks'
import { TASK_MOVES } from '@gpu-service/tasks'
import { type Check, isRecord, number, oneOf, orNull, recordOf, shape, text } from './shape.ts'

type EventType = TaskEventBody['type']
type BodyOf<T extends EventType> = Extract<TaskEventBody, { type: T }>

export const taskStatus: Check<TaskStatus> = (value): value is TaskStatus =>
  typeof value === 'string' && Object.hasOwn(TASK_MOVES, value)

export const taskError = shape<TaskError>({ code: text, message: text })

// What was parsed from JSON is JSON.
export const json: Check<JsonValue> = (value): value is JsonValue => value !== undefined
const jsonObject: Check<JsonObject> = (value): value is JsonObject => isRecord(value)

// A brand is not in the value.
const artifactId: Check<Artifact['id']> = (value): value is Artifact['id'] => typeof value === 'string'

const artifact = shape<Artifact>({ id: artifactId, name: text, mediaType: text, bytes: number, sha256: text })

const BODIES: { readonly [T in EventType]: Check<BodyOf<T>> } = {
  status: shape<BodyOf<'status'>>({ type: oneOf('status'), taskStatus, reason: orNull(text) }),
  connection: shape<BodyOf<'connection'>>({ type: oneOf('connection'), status: text }),
  worker: shape<BodyOf<'worker'>>({
    type: oneOf('worker'),
    status: text,
    message: orNull(text),
    progress: orNull(number),
  }),
  text_delta: shape<BodyOf<'text_delta'>>({ type: oneOf('text_delta'), delta: text }),
  text: shape<BodyOf<'text'>>({ type: oneOf('text'), content: text }),
  finish: shape<BodyOf<'finish'>>({ type: oneOf('finish'), status: text, error: orNull(taskError) }),
  progress: shape<BodyOf<'progress'>>({
    type: oneOf('progress'),
    completed: number,
    total: orNull(number),
    unit: orNull(text),
    message: orNull(text),
  }),
  result: shape<BodyOf<'result'>>({ type: oneOf('result'), value: json }),
  artifact: shape<BodyOf<'artifact'>>({ type: oneOf('artifact'), artifact }),
  usage: shape<BodyOf<'usage'>>({ type: oneOf('usage'), values: recordOf(number) }),
  log: shape<BodyOf<'log'>>({
    type: oneOf('log'),
    stream: oneOf('STDOUT', 'STDERR'),
    level: orNull(text),
    line: text,
  }),
  custom: shape<BodyOf<'custom'>>({ type: oneOf('custom'), name: text, payload: jsonObject }),
  fault: shape<BodyOf<'fault'>>({ type: oneOf('fault'), kind: text, line: text, detail: text }),
  gap: shape<BodyOf<'gap'>>({ type: oneOf('gap'), detail: text }),
}

const CHECKS = new Map<unknown, (value: unknown) => boolean>(Object.entries(BODIES))

/** Whether the value is an event's body, as this version of the program writes it. */
export const eventBody: Check<TaskEventBody> = (value): value is TaskEventBody =>
  isRecord(value) && CHECKS.get(value['type'])?.(value) === true
