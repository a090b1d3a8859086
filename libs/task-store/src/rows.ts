import type {
  Artifact as DomainArtifact,
  ArtifactId,
  ContentHashes,
  FailureEvidence,
  GpuId,
  GpuNeed,
  GpuReading,
  KeyLimits,
  PresetId,
  SessionOptions,
  StoredKey,
  Task,
  TaskArtifact,
  TaskAttempt,
  TaskError,
  TaskFinish,
  TaskId,
  TaskOutput,
  Upload,
  Worker,
  WorkerExit,
  WorkerId,
  WorkerName,
  WorkerSpec,
  WorkerTimeouts,
} from '@gpu-service/tasks'
import {
  DEFAULT_KEY_LIMITS,
  FAILURE_CAUSES,
  FAILURE_CLASSES,
  PRIVACY_CLASSES,
  ROLES,
  specHashOf,
  STOP_REASONS,
  WORKER_MOVES,
} from '@gpu-service/tasks'
import { json, taskError, taskStatus } from './event-body.ts'
import type {
  ApiKey,
  Artifact,
  Attempt,
  Output,
  Task as PrismaTask,
  Upload as UploadRow,
  Worker as PrismaWorker,
} from './generated/client.ts'
import {
  boolean,
  type Check,
  either,
  isRecord,
  listOf,
  number,
  oneOf,
  orNull,
  recordOf,
  shape,
  text,
} from './shape.ts'
import { StoreError } from './store-error.ts'

/** A row as plain SQL gives it: Prisma's client alone makes each large integer a bigint. */
type Plain<R> = {
  readonly [K in keyof R]: bigint extends R[K] ? Exclude<R[K], bigint> | bigint | number : R[K]
}
export type TaskRow = Plain<PrismaTask>
export type WorkerRow = Plain<PrismaWorker>

// A brand is not in the value, so any text may carry it.
const gpuId: Check<GpuId> = (value): value is GpuId => typeof value === 'string'
const presetId: Check<PresetId> = (value): value is PresetId => typeof value === 'string'
const taskId: Check<TaskId> = (value): value is TaskId => typeof value === 'string'
const workerId: Check<WorkerId> = (value): value is WorkerId => typeof value === 'string'
const workerName: Check<WorkerName> = (value): value is WorkerName => typeof value === 'string'
const artifactId: Check<ArtifactId> = (value): value is ArtifactId => typeof value === 'string'

const mode = oneOf('ONE_OFF', 'SESSION')
const gpuIds = listOf(gpuId)
const presetIds = listOf(presetId)
const role = oneOf(...ROLES)
const privacy = oneOf(...PRIVACY_CLASSES)
const hashes = shape<ContentHashes>({ input: text, text: orNull(text), result: orNull(text) })
const limit = orNull(number)
const keyLimits: Check<Partial<KeyLimits>> = (value): value is Partial<KeyLimits> =>
  isRecord(value) &&
  Object.entries(value).every(([name, amount]) => name in DEFAULT_KEY_LIMITS && limit(amount))
const texts = recordOf(text)
const stopReason = oneOf(...STOP_REASONS)
const failureClass = oneOf(...FAILURE_CLASSES)
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
  secrets: listOf(
    shape<WorkerSpec['secrets'][number]>({ name: text, from: oneOf('file', 'variable'), source: text }),
  ),
  modelPath: orNull(text),
  gpus: shape<WorkerSpec['gpus']>({
    count: either(number, oneOf('default')),
    share: oneOf('exclusive', 'shared'),
    memoryMb: orNull(number),
    ids: orNull(gpuIds),
    names: orNull(listOf(text)),
  }),
  limits: shape<WorkerSpec['limits']>({
    memoryMb: orNull(number),
    cpus: orNull(number),
    processes: number,
    sharedMemoryMb: number,
    tmpMb: number,
  }),
  output: shape<WorkerSpec['output']>({
    mb: number,
    events: number,
    artifacts: number,
    artifactsMb: number,
  }),
  network: oneOf('none', 'bridge'),
  volumes: listOf(shape<WorkerSpec['volumes'][number]>({ source: text, target: text, readOnly: boolean })),
  relax: shape<WorkerSpec['relax']>({
    user: orNull(text),
    writableRoot: boolean,
    capabilities: listOf(text),
  }),
  timeouts: shape<WorkerSpec['timeouts']>({
    queueMs: orNull(number),
    startMs: number,
    runMs: number,
    silenceMs: orNull(number),
    ackMs: number,
    stopGraceMs: number,
    finishGraceMs: number,
  }),
  retry: shape<WorkerSpec['retry']>({ maxAttempts: number, backoffMs: number, on: listOf(failureClass) }),
  session: orNull(
    shape<SessionOptions>({
      maxConcurrency: number,
      maxWorkers: orNull(number),
      idleMs: orNull(number),
      maxTasks: orNull(number),
      maxAgeMs: orNull(number),
      minResidencyMs: number,
      pinned: boolean,
      prewarm: number,
      isolation: oneOf('shared', 'owner'),
    }),
  ),
})

// What stands for the fields that a spec lacks because it was stored before they were there.
const EARLIER_GPUS = { share: 'exclusive', memoryMb: null, names: null } satisfies Partial<GpuNeed>
const EARLIER_TIMEOUTS = {
  queueMs: null,
  startMs: 1_800_000,
  silenceMs: null,
  ackMs: 30_000,
} satisfies Partial<WorkerTimeouts>
const EARLIER = {
  secrets: [],
  retry: { maxAttempts: 1, backoffMs: 2_000, on: [] },
  session: null,
  output: { mb: 256, events: 5_000_000, artifacts: 10_000, artifactsMb: 10_240 },
} satisfies Partial<WorkerSpec>

function completeSpec(value: unknown): unknown {
  if (!isRecord(value) || !isRecord(value['gpus']) || !isRecord(value['timeouts'])) return value
  const gpus = { ...EARLIER_GPUS, ...value['gpus'] }
  const timeouts = { ...EARLIER_TIMEOUTS, ...value['timeouts'] }
  return { ...EARLIER, ...value, gpus, timeouts }
}

/** How many specs are kept read. A preset's tasks mostly have the same one, letter for letter, and there are few presets. */
const MAX_SPECS = 64
const specs = new Map<string, WorkerSpec>()

/** Reads the column; what it gives is shared, and frozen so that it can be. */
function specOf(value: string, read: () => WorkerSpec): WorkerSpec {
  const known = specs.get(value)
  if (known !== undefined) return known
  const spec = freeze(read())
  const [oldest] = specs.keys()
  if (specs.size >= MAX_SPECS && oldest !== undefined) specs.delete(oldest)
  specs.set(value, spec)
  return spec
}

function freeze<T extends object>(value: T): T {
  for (const part of Object.values<unknown>(value as Record<string, unknown>)) {
    if (typeof part === 'object' && part !== null) freeze(part)
  }
  return Object.freeze(value)
}

const finish = shape<TaskFinish>({
  status: oneOf('completed', 'failed', 'cancelled'),
  error: orNull(taskError),
})
const exit = shape<WorkerExit>({ exitCode: orNull(number), oomKilled: boolean, finishedAt: number })
const usage = recordOf(number)
const files = listOf(
  shape<DomainArtifact>({ id: artifactId, name: text, mediaType: text, bytes: number, sha256: text }),
)
const evidence = shape<FailureEvidence>({
  cause: oneOf(...FAILURE_CAUSES),
  diagnosis: text,
  signal: orNull(text),
  oomKilled: boolean,
  stderr: listOf(text),
  stdout: listOf(text),
  imageDigest: orNull(text),
  spec: workerSpec,
  gpuReadings: listOf(
    shape<GpuReading>({
      gpuId,
      at: number,
      memoryUsedMb: orNull(number),
      utilizationPercent: orNull(number),
      temperatureC: orNull(number),
      powerW: orNull(number),
      eccErrors: orNull(number),
    }),
  ),
})

function completeEvidence(value: unknown): unknown {
  return isRecord(value) ? { ...value, spec: completeSpec(value['spec']) } : value
}

export function toTask(row: TaskRow): Task {
  const { column, jsonColumn, specColumn } = columnsOf('task', row.id)
  return {
    id: column('id', row.id, taskId),
    owner: row.owner,
    keyId: row.keyId,
    presetId: column('presetId', row.presetId, presetId),
    spec: specColumn(row.spec),
    privacy: column('privacy', row.privacy, privacy),
    scrubbedAt: time(row.scrubbedAt),
    contentHashes: row.contentHashes === null ? null : jsonColumn('contentHashes', row.contentHashes, hashes),
    input: jsonColumn('input', row.input, json),
    files: row.files === null ? [] : jsonColumn('files', row.files, files),
    labels: jsonColumn('labels', row.labels, texts),
    priority: row.priority,
    idempotencyKey: row.idempotencyKey,
    affinity: row.affinity,
    asked: {
      timeoutMs: row.askedTimeoutMs === null ? null : Number(row.askedTimeoutMs),
      gpuIds: row.askedGpuIds === null ? null : jsonColumn('askedGpuIds', row.askedGpuIds, gpuIds),
    },
    retryOf: column('retryOf', row.retryOf, orNull(taskId)),
    status: column('status', row.status, taskStatus),
    attempt: row.attempt,
    lastSeq: row.lastSeq,
    createdAt: Number(row.createdAt),
    queuedAt: Number(row.queuedAt),
    retryAt: time(row.retryAt),
    startedAt: time(row.startedAt),
    runningAt: time(row.runningAt),
    firstTextAt: time(row.firstTextAt),
    finishedAt: time(row.finishedAt),
    cancelRequestedAt: time(row.cancelRequestedAt),
    cancelReason: row.cancelReason,
    stopReason: column('stopReason', row.stopReason, orNull(stopReason)),
    release: {
      stoppedAt: time(row.stoppedAt),
      gpuFreeAt: time(row.gpuFreeAt),
      killed: row.killed === 1,
    },
    finish: row.finish === null ? null : jsonColumn('finish', row.finish, finish),
    gpuIds: jsonColumn('gpuIds', row.gpuIds, gpuIds),
    workerId: column('workerId', row.workerId, orNull(workerId)),
    error: error(row),
    exitCode: row.exitCode,
  }
}

export function toKey(row: ApiKey): StoredKey {
  const { column, jsonColumn } = columnsOf('API key', row.id)
  return {
    ...row,
    role: column('role', row.role, role),
    presets: row.presets === null ? null : jsonColumn('presets', row.presets, presetIds),
    limits: jsonColumn('limits', row.limits, keyLimits),
    createdAt: Number(row.createdAt),
    expiresAt: time(row.expiresAt),
    revokedAt: time(row.revokedAt),
    lastUsedAt: time(row.lastUsedAt),
  }
}

/** `null` for a worker of which nothing but its name is left: it had exited before its spec was kept. */
export function toWorker(row: WorkerRow, taskIds: readonly string[]): Worker | null {
  if (row.spec === '') return null
  const { column, jsonColumn, specColumn } = columnsOf('worker', row.id)
  const spec = specColumn(row.spec)
  return {
    id: column('id', row.id, workerId),
    name: column('name', row.name, workerName),
    presetId: column('presetId', row.presetId, presetId),
    mode: column('mode', row.mode, mode),
    status: column('status', row.status, workerStatus),
    spec,
    specHash: row.specHash === '' ? specHashOf(spec) : row.specHash,
    owner: row.owner,
    containerId: row.containerId,
    imageDigest: row.imageDigest,
    claim: { gpuIds: jsonColumn('gpuIds', row.gpuIds, gpuIds), memoryMb: row.claimMemoryMb },
    taskIds: column('taskIds', taskIds, listOf(taskId)),
    startedAt: Number(row.startedAt),
    readyAt: time(row.readyAt),
    exitedAt: time(row.exitedAt),
    tasksServed: row.tasksServed,
    peakMemoryMb: row.peakMemoryMb,
    cursor: { stdout: row.stdoutCursor, stderr: row.stderrCursor },
    eventSeq: row.eventSeq,
    exit: row.exit === null ? null : jsonColumn('exit', row.exit, exit),
    endReason: row.endReason,
  }
}

export function toAttempt(row: Attempt): TaskAttempt {
  const { column, jsonColumn } = columnsOf('attempt', `${row.taskId}.${row.attempt}`)
  return {
    attempt: row.attempt,
    workerId: column('workerId', row.workerId, workerId),
    gpuIds: jsonColumn('gpuIds', row.gpuIds, gpuIds),
    warm: row.warm === 1,
    startedAt: Number(row.startedAt),
    runningAt: time(row.runningAt),
    finishedAt: time(row.finishedAt),
    status: column('status', row.status, orNull(oneOf('COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'))),
    error: error(row),
    failureClass: column('failureClass', row.failureClass, orNull(failureClass)),
    exitCode: row.exitCode,
    evidence: row.evidence === null ? null : jsonColumn('evidence', row.evidence, evidence, completeEvidence),
  }
}

export function toPresetId(value: string): PresetId {
  return columnsOf('preset', value).column('id', value, presetId)
}

export function toGpuId(value: string): GpuId {
  return columnsOf('GPU', value).column('id', value, gpuId)
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

export function toUpload(row: UploadRow): Upload {
  const { owner, name, mediaType, sha256 } = row
  return {
    ...{ owner, name, mediaType, sha256 },
    id: columnsOf('upload', row.id).column('id', row.id, artifactId),
    bytes: Number(row.bytes),
    createdAt: Number(row.createdAt),
    expiresAt: Number(row.expiresAt),
  }
}

function time(value: bigint | number | null): number | null {
  return value === null ? null : Number(value)
}

function error({ errorCode, errorMessage }: Pick<TaskRow, 'errorCode' | 'errorMessage'>): TaskError | null {
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

  function parsed(name: string, value: string): unknown {
    try {
      return JSON.parse(value)
    } catch (error) {
      throw damaged(name, error)
    }
  }

  /** `complete` gives what was written by an earlier version the fields that it lacks. */
  function jsonColumn<T>(
    name: string,
    value: string,
    check: Check<T>,
    complete: (value: unknown) => unknown = (read) => read,
  ): T {
    return column(name, complete(parsed(name, value)), check)
  }

  function specColumn(value: string): WorkerSpec {
    return specOf(value, () => jsonColumn('spec', value, workerSpec, completeSpec))
  }

  return { column, jsonColumn, specColumn }
}
