import type {
  ArtifactId,
  GpuId,
  JsonValue,
  PresetId,
  Task,
  TaskArtifact,
  TaskError,
  TaskFinish,
  TaskId,
  TaskOutput,
  Worker,
  WorkerExit,
  WorkerId,
  WorkerName,
  WorkerSpec,
} from '@gpu-service/tasks'
import { WORKER_MOVES } from '@gpu-service/tasks'
import { json, taskError, taskStatus } from './event-body.ts'
import type { Artifact, Output, Task as TaskRow, Worker as WorkerRow } from './generated/client.ts'
import { boolean, type Check, either, listOf, number, oneOf, orNull, recordOf, shape, text } from './shape.ts'
import { StoreError } from './store-error.ts'

// A brand is not in the value, so any text may carry it.
const gpuId: Check<GpuId> = (value): value is GpuId => typeof value === 'string'
const presetId: Check<PresetId> = (value): value is PresetId => typeof value === 'string'
const taskId: Check<TaskId> = (value): value is TaskId => typeof value === 'string'
const workerId: Check<WorkerId> = (value): value is WorkerId => typeof value === 'string'
const workerName: Check<WorkerName> = (value): value is WorkerName => typeof value === 'string'
const artifactId: Check<ArtifactId> = (value): value is ArtifactId => typeof value === 'string'

const mode = oneOf('ONE_OFF', 'SESSION')
const gpuIds = listOf(gpuId)
const texts = recordOf(text)
const stopReason = oneOf('cancel', 'timeout')
const workerStatus: Check<Worker['status']> = (value): value is Worker['status'] =>
  typeof value === 'string' && Object.hasOwn(WORKER_MOVES, value)

const workerSpec = shape<WorkerSpec>({
  presetId,
  model: text,
  kind: text,
  mode,
  image: text,
  command: listOf(text),
  localCommand: orNull(listOf(text)),
  pull: oneOf('never', 'missing'),
  env: texts,
  modelPath: orNull(text),
  gpus: shape<WorkerSpec['gpus']>({ count: either(number, oneOf('default')), ids: orNull(gpuIds) }),
  limits: shape<WorkerSpec['limits']>({
    memoryMb: orNull(number),
    cpus: orNull(number),
    processes: number,
    sharedMemoryMb: number,
    tmpMb: number,
  }),
  network: oneOf('none', 'bridge'),
  volumes: listOf(shape<WorkerSpec['volumes'][number]>({ source: text, target: text, readOnly: boolean })),
  relax: shape<WorkerSpec['relax']>({
    user: orNull(text),
    writableRoot: boolean,
    capabilities: listOf(text),
  }),
  timeouts: shape<WorkerSpec['timeouts']>({ runMs: number, stopGraceMs: number, finishGraceMs: number }),
})

const finish = shape<TaskFinish>({
  status: oneOf('completed', 'failed', 'cancelled'),
  error: orNull(taskError),
})
const exit = shape<WorkerExit>({ exitCode: orNull(number), oomKilled: boolean, finishedAt: number })
const usage = recordOf(number)

export function toTask(row: TaskRow): Task {
  const { column, jsonColumn } = columnsOf('task', row.id)
  return {
    id: column('id', row.id, taskId),
    owner: row.owner,
    presetId: column('presetId', row.presetId, presetId),
    spec: jsonColumn('spec', row.spec, workerSpec),
    input: jsonColumn('input', row.input, json),
    labels: jsonColumn('labels', row.labels, texts),
    priority: row.priority,
    idempotencyKey: row.idempotencyKey,
    affinity: row.affinity,
    status: column('status', row.status, taskStatus),
    attempt: row.attempt,
    lastSeq: row.lastSeq,
    createdAt: Number(row.createdAt),
    startedAt: time(row.startedAt),
    runningAt: time(row.runningAt),
    firstTextAt: time(row.firstTextAt),
    finishedAt: time(row.finishedAt),
    cancelRequestedAt: time(row.cancelRequestedAt),
    cancelReason: row.cancelReason,
    stopReason: column('stopReason', row.stopReason, orNull(stopReason)),
    finish: row.finish === null ? null : jsonColumn('finish', row.finish, finish),
    gpuIds: jsonColumn('gpuIds', row.gpuIds, gpuIds),
    workerId: column('workerId', row.workerId, orNull(workerId)),
    error: error(row),
    exitCode: row.exitCode,
  }
}

export function toWorker(row: WorkerRow, taskIds: readonly string[]): Worker {
  const { column, jsonColumn } = columnsOf('worker', row.id)
  return {
    id: column('id', row.id, workerId),
    name: column('name', row.name, workerName),
    presetId: column('presetId', row.presetId, presetId),
    mode: column('mode', row.mode, mode),
    status: column('status', row.status, workerStatus),
    containerId: row.containerId,
    gpuIds: jsonColumn('gpuIds', row.gpuIds, gpuIds),
    taskIds: column('taskIds', taskIds, listOf(taskId)),
    startedAt: Number(row.startedAt),
    readyAt: time(row.readyAt),
    tasksServed: row.tasksServed,
    cursor: { stdout: row.stdoutCursor, stderr: row.stderrCursor },
    eventSeq: row.eventSeq,
    exit: row.exit === null ? null : jsonColumn('exit', row.exit, exit),
  }
}

export function toOutput(row: Output): TaskOutput {
  const { jsonColumn } = columnsOf('output of task', row.taskId)
  return {
    text: row.text,
    result: row.result === null ? null : jsonColumn('result', row.result, json),
    usage: row.usage === null ? null : jsonColumn('usage', row.usage, usage),
  }
}

export function toArtifact(row: Artifact): TaskArtifact {
  const { column } = columnsOf('artifact', row.id)
  return {
    id: column('id', row.id, artifactId),
    taskId: column('taskId', row.taskId, taskId),
    attempt: row.attempt,
    name: row.name,
    mediaType: row.mediaType,
    bytes: Number(row.bytes),
    sha256: row.sha256,
  }
}

function time(value: bigint | null): number | null {
  return value === null ? null : Number(value)
}

function error({ errorCode, errorMessage }: TaskRow): TaskError | null {
  return errorCode === null ? null : { code: errorCode, message: errorMessage ?? '' }
}

/** Reads the columns of one row; what is not as it was written throws `StoreError` DATABASE_CORRUPT with the row and the column. */
function columnsOf(kind: string, id: string) {
  const damaged = (name: string, cause?: unknown) =>
    new StoreError('DATABASE_CORRUPT', `The ${name} of ${kind} ${id} cannot be read.`, { cause })

  function column<T>(name: string, value: unknown, check: Check<T>): T {
    if (!check(value)) throw damaged(name)
    return value
  }

  function jsonColumn<T>(name: string, value: string, check: Check<T>): T {
    let parsed: JsonValue
    try {
      parsed = JSON.parse(value) as JsonValue
    } catch (error) {
      throw damaged(name, error)
    }
    return column(name, parsed, check)
  }

  return { column, jsonColumn }
}
