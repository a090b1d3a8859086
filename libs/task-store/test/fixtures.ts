import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  specHashOf,
  type ArtifactId,
  type AttemptResult,
  type Claim,
  type GpuId,
  type NewTask,
  type NewWorker,
  type PresetId,
  type TaskStore,
  type TaskAppend,
  type TaskEvent,
  type TaskEventBody,
  type TaskId,
  type WorkerId,
  type WorkerName,
  type WorkerSpec,
} from '@gpu-service/tasks'

/** A folder that is gone when the test is over. */
export function temporaryFolder(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'task-store-'))
  return {
    path,
    [Symbol.dispose]() {
      rmSync(path, { recursive: true, force: true })
    },
  }
}

/** The n-th id: greater for a greater n. */
function idOf(kind: string, n: number): string {
  return `01900000-0000-7000-8${kind}-${n.toString(16).padStart(12, '0')}`
}

export const taskId = (n: number) => idOf('001', n) as TaskId
export const workerId = (n: number) => idOf('002', n) as WorkerId
export const artifactId = (n: number) => idOf('003', n) as ArtifactId
export const gpuId = (n: number) => `GPU-${n}` as GpuId
export const presetId = (id: string) => id as PresetId

/** When the first task of a test is submitted. */
export const START = 1_790_000_000_000

export const spec: WorkerSpec = {
  presetId: presetId('test/inference'),
  model: 'test',
  kind: 'inference',
  mode: 'ONE_OFF',
  image: 'test:1',
  command: ['run', '--fast'],
  localCommand: null,
  pull: 'never',
  env: { A: 'b' },
  secrets: [],
  modelPath: null,
  gpus: { count: 'default', share: 'exclusive', memoryMb: null, ids: null, names: null },
  limits: { memoryMb: null, cpus: 1.5, processes: 4_096, sharedMemoryMb: 1_024, tmpMb: 512 },
  output: { mb: 256, events: 5_000_000, artifacts: 10_000, artifactsMb: 10_240 },
  network: 'none',
  volumes: [{ source: '/srv/data', target: '/data', readOnly: true }],
  relax: { user: null, writableRoot: false, capabilities: [] },
  timeouts: {
    queueMs: null,
    startMs: 1_800_000,
    runMs: 60_000,
    silenceMs: null,
    ackMs: 30_000,
    stopGraceMs: 5_000,
    finishGraceMs: 10_000,
  },
  retry: { maxAttempts: 1, backoffMs: 2_000, on: [] },
  session: null,
}

export function newTask(n: number, changes: Partial<NewTask> = {}): NewTask {
  return {
    id: taskId(n),
    owner: 'ann',
    keyId: null,
    privacy: 'full',
    presetId: presetId('test/inference'),
    spec,
    input: { prompt: `task ${n}` },
    labels: {},
    priority: 0,
    idempotencyKey: null,
    requestHash: `hash ${n}`,
    affinity: null,
    asked: { timeoutMs: null, gpuIds: null },
    files: [],
    retryOf: null,
    createdAt: START + n,
    ...changes,
  }
}

export function newWorker(n: number, changes: Partial<NewWorker> = {}): NewWorker {
  return {
    id: workerId(n),
    name: `gpu-abcdefgh-${n}` as WorkerName,
    presetId: presetId('test/inference'),
    mode: 'ONE_OFF',
    spec,
    specHash: specHashOf(spec),
    owner: null,
    claim: { gpuIds: [gpuId(0)], memoryMb: null },
    at: START + 1_000 + n,
    ...changes,
  }
}

export function claimOf(n: number, changes: Partial<Claim> = {}): Claim {
  return {
    taskId: taskId(n),
    attempt: 1,
    after: 1,
    at: START + 1_000 + n,
    reason: 'GPU-0 is free',
    worker: newWorker(n),
    warm: false,
    ...changes,
  }
}

/** Events after `after`, one for each body. */
export function eventsAfter(after: number, ...bodies: readonly TaskEventBody[]): readonly TaskEvent[] {
  return bodies.map((body, index) => ({ seq: after + 1 + index, at: START + 2_000, attempt: 1, body }))
}

/** Returns task n, whose attempt this is, to the queue. */
export function requeued(n: number, after: number, attempt = 1): TaskAppend {
  const body: TaskEventBody = { type: 'status', taskStatus: 'QUEUED', reason: 'again' }
  return {
    taskId: taskId(n),
    attempt,
    after,
    events: [{ seq: after + 1, at: START + 8_000, attempt, body }],
    requeue: { ...failure, at: START + 8_000, retryAt: START + 10_000 },
  }
}

export function deltas(after: number, count: number): readonly TaskEvent[] {
  return eventsAfter(
    after,
    ...Array.from({ length: count }, (_, index) => ({
      type: 'text_delta' as const,
      delta: `${after + 1 + index} `,
    })),
  )
}

export const completed: TaskEventBody = { type: 'status', taskStatus: 'COMPLETED', reason: null }
export const running: TaskEventBody = { type: 'status', taskStatus: 'RUNNING', reason: null }

export const settlement: AttemptResult = {
  status: 'COMPLETED',
  at: START + 9_000,
  error: null,
  failureClass: null,
  exitCode: 0,
  evidence: null,
  charge: null,
  output: { text: 'done', result: { ok: true }, usage: { tokens: 3 } },
}

export const failure: AttemptResult = {
  status: 'FAILED',
  at: START + 9_000,
  error: { code: 'WORKER_FAILED', message: 'it broke' },
  failureClass: 'worker_failed',
  exitCode: 3,
  charge: null,
  evidence: {
    ...{ cause: 'crashed', diagnosis: 'It crashed.', signal: 'SIGSEGV', oomKilled: false },
    ...{ stderr: ['a', 'b'], stdout: ['{"event":"text_delta"}'], imageDigest: 'sha256:1', spec },
    gpuReadings: [
      {
        ...{ gpuId: gpuId(0), at: START, memoryUsedMb: 5, utilizationPercent: null },
        ...{ temperatureC: 40, powerW: 11.5, eccErrors: 0 },
      },
    ],
  },
  output: { text: 'half', result: null, usage: null },
}

/** Tasks 1 to `count`, each STARTING on a worker of its own, with two events. */
export async function startTasks(store: TaskStore, count = 1): Promise<void> {
  for (let n = 1; n <= count; n++) {
    await store.create([newTask(n)])
    await store.claim([claimOf(n)])
  }
}

/** What settles the first attempt of such a task behind its event `after`. */
export const settledTask = (n: number, after: number): TaskAppend => ({
  taskId: taskId(n),
  attempt: 1,
  after,
  events: eventsAfter(after, completed),
  settle: settlement,
})
