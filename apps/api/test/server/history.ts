import { randomUUID } from 'node:crypto'
import {
  specHashOf,
  type Artifact,
  type ArtifactId,
  type GpuId,
  type NewTask,
  type NewWorker,
  type TaskAppend,
  type TaskEventBody,
  type TaskId,
  type TaskStore,
  type WorkerId,
  type WorkerName,
} from '@gpu-service/tasks'
import { EXAMPLE_SPEC } from '@gpu-service/tasks/testing'
import { v7 as uuidv7 } from 'uuid'

export const MADE_AT = 1_790_000_000_000
export const GPU = 'GPU-7' as GpuId

/** A task that was submitted so. */
export function newTask(changes: Partial<NewTask> = {}): NewTask {
  return {
    ...{
      id: uuidv7() as TaskId,
      owner: 'ann',
      keyId: null,
      privacy: 'full',
      presetId: EXAMPLE_SPEC.presetId,
      spec: EXAMPLE_SPEC,
    },
    ...{
      input: null,
      labels: {},
      priority: 0,
      idempotencyKey: null,
      requestHash: randomUUID(),
      affinity: null,
    },
    ...{ asked: { timeoutMs: null, gpuIds: null }, files: [], retryOf: null, createdAt: MADE_AT },
    ...changes,
  }
}

export function newWorker(spec = EXAMPLE_SPEC): NewWorker {
  const id = uuidv7() as WorkerId
  return {
    ...{ id, name: `gpu-test-${id}` as WorkerName, presetId: spec.presetId, mode: spec.mode, spec },
    ...{ specHash: specHashOf(spec), owner: null, claim: { gpuIds: [GPU], memoryMb: null }, at: MADE_AT },
  }
}

/** Stores the life of a task that fails once, says so much in its second attempt, and makes an artifact of these bytes. */
export async function liveThrough(
  store: TaskStore,
  task: NewTask,
  text: string,
  artifact: Pick<Artifact, 'name' | 'bytes' | 'sha256'>,
): Promise<void> {
  const { id, spec } = task
  await store.create([task])
  let after = 1
  const append = async (
    attempt: number,
    workerId: WorkerId,
    bodies: readonly TaskEventBody[],
    rest: Pick<TaskAppend, 'settle' | 'requeue' | 'changes' | 'artifacts'>,
  ) => {
    const events = bodies.map((body, index) => ({ seq: after + 1 + index, at: MADE_AT + 5, attempt, body }))
    await store.append({ workerId, tasks: [{ taskId: id, attempt, after, events, ...rest }] })
    after += events.length
  }
  const claim = async (attempt: number): Promise<WorkerId> => {
    const worker = newWorker(spec)
    await store.claim([
      { taskId: id, attempt, after, at: MADE_AT, reason: 'It is free.', worker, warm: false },
    ])
    after++
    await store.updateWorker(worker.id, { imageDigest: 'sha256:abc', containerId: 'c1' })
    return worker.id
  }
  const nothing = { text: null, result: null, usage: null }
  await append(1, await claim(1), [{ type: 'status', taskStatus: 'QUEUED', reason: 'again' }], {
    requeue: {
      ...{ status: 'FAILED', at: MADE_AT + 1, retryAt: MADE_AT + 2, exitCode: 3, output: nothing },
      ...{ error: { code: 'WORKER_FAILED', message: 'it broke' }, failureClass: 'worker_failed' },
      charge: null,
      evidence: {
        ...{ cause: 'crashed', diagnosis: 'It crashed.', signal: 'SIGSEGV', oomKilled: false },
        ...{ stderr: ['a'], stdout: [], imageDigest: 'sha256:abc', spec, gpuReadings: [] },
      },
    },
  })
  const made: Artifact = { ...artifact, id: uuidv7() as ArtifactId, mediaType: 'text/plain' }
  await append(
    2,
    await claim(2),
    [
      { type: 'status', taskStatus: 'RUNNING', reason: null },
      { type: 'text', content: text },
      { type: 'artifact', artifact: made },
      { type: 'status', taskStatus: 'COMPLETED', reason: null },
    ],
    {
      artifacts: [made],
      changes: { status: 'RUNNING', runningAt: MADE_AT + 3 },
      settle: {
        ...{
          status: 'COMPLETED',
          at: MADE_AT + 9,
          error: null,
          failureClass: null,
          exitCode: 0,
          evidence: null,
          charge: null,
        },
        output: { text, result: { ok: true }, usage: { tokens: 3 } },
      },
    },
  )
}
