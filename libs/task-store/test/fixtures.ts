import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type {
  ArtifactId,
  Claim,
  GpuId,
  NewTask,
  PresetId,
  Settlement,
  TaskEvent,
  TaskEventBody,
  TaskId,
  WorkerId,
  WorkerName,
  WorkerSpec,
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
  modelPath: null,
  gpus: { count: 'default', ids: null },
  limits: { memoryMb: null, cpus: 1.5, processes: 4_096, sharedMemoryMb: 1_024, tmpMb: 512 },
  network: 'none',
  volumes: [{ source: '/srv/data', target: '/data', readOnly: true }],
  relax: { user: null, writableRoot: false, capabilities: [] },
  timeouts: { runMs: 60_000, stopGraceMs: 5_000, finishGraceMs: 10_000 },
}

export function newTask(n: number, changes: Partial<NewTask> = {}): NewTask {
  return {
    id: taskId(n),
    owner: 'ann',
    presetId: presetId('test/inference'),
    spec,
    input: { prompt: `task ${n}` },
    labels: {},
    priority: 0,
    idempotencyKey: null,
    requestHash: `hash ${n}`,
    affinity: null,
    createdAt: START + n,
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
    worker: {
      id: workerId(n),
      name: `gpu-abcdefgh-${n}` as WorkerName,
      presetId: presetId('test/inference'),
      mode: 'ONE_OFF',
      gpuIds: [gpuId(0)],
    },
    ...changes,
  }
}

/** Events after `after`, one for each body. */
export function eventsAfter(after: number, ...bodies: readonly TaskEventBody[]): readonly TaskEvent[] {
  return bodies.map((body, index) => ({ seq: after + 1 + index, at: START + 2_000, attempt: 1, body }))
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

export const settlement: Settlement = {
  status: 'COMPLETED',
  at: START + 9_000,
  error: null,
  exitCode: 0,
  output: { text: 'done', result: { ok: true }, usage: { tokens: 3 } },
}
