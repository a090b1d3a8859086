import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as later } from 'node:timers/promises'
import { openTaskStore } from '@gpu-service/task-store'
import {
  silentLogger,
  specHashOf,
  type ArtifactId,
  type NewTask,
  type TaskId,
  type TaskStore,
  type WorkerId,
  type WorkerName,
} from '@gpu-service/tasks'
import { EXAMPLE_SPEC } from '@gpu-service/tasks/testing'
import { v7 as uuidv7 } from 'uuid'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { CONNECTED, FINISHED, say, script } from './scripts.ts'
import { TestService } from './service.ts'

const DAY_MS = 86_400_000
const OLD = 300
const KILLS = 4

const artifact = `echo '{"event":"artifact","data":"aGVsbG8=","name":"hello.txt"}'`

interface Storage {
  readonly databaseBytes: string
  readonly artifactBytes: string
  readonly removedTasks: number
  readonly lastRoundAt: string | null
}

const storageOf = async (service: TestService): Promise<Storage> =>
  (
    await service.query<{ service: { storage: Storage } }>(
      '{ service { storage { databaseBytes fileBytes logBytes artifactBytes removedTasks removedWorkers lastRoundAt } } }',
    )
  ).service.storage

describe('what a service keeps', () => {
  let service: TestService
  beforeAll(async () => {
    service = await TestService.start({
      runner: 'process',
      env: { HOUSEKEEPING_SECONDS: '0.3' },
      presets: {
        made: script(`${CONNECTED}; ${say('Hello')}; ${artifact}; ${FINISHED}`),
        long: script(`${CONNECTED}; sleep 600`),
      },
    })
  })
  afterAll(() => service[Symbol.asyncDispose]())

  const artifacts = (): Promise<string[]> => readdir(join(service.dataDir, 'artifacts'))

  async function remove(id: string): Promise<Readonly<Record<string, unknown>>> {
    const { deleteTask } = await service.query<{ deleteTask: Readonly<Record<string, unknown>> }>(
      `mutation ($id: ID!) { deleteTask(id: $id) { __typename ... on DeleteTaskSuccess { id } ... on RefusedProblem { code } } }`,
      { id },
    )
    return deleteTask
  }

  test('is gone with a task that a client deletes: rows, files and download', async () => {
    const kept = await service.run('made')
    const { id } = await service.run('made')
    const { task } = await service.query<{ task: { artifacts: readonly { id: string; url: string }[] } }>(
      `query ($id: ID!) { task(id: $id) { artifacts { id url } } }`,
      { id },
    )
    const [file] = task.artifacts
    const url = new URL(file?.url ?? '', service.url)
    expect((await fetch(url)).status).toBe(200)
    expect(await storageOf(service)).toMatchObject({ artifactBytes: '10', removedTasks: 0 })

    expect(await remove(id)).toEqual({ __typename: 'DeleteTaskSuccess', id })
    expect((await fetch(url)).status).toBe(404)
    expect(await artifacts()).not.toContain(file?.id)
    expect(await service.query('query ($id: ID!) { task(id: $id) { id } }', { id })).toEqual({ task: null })
    await expect(service.events(id)).rejects.toThrow('NOT_FOUND')
    expect(await storageOf(service)).toMatchObject({ artifactBytes: '5', removedTasks: 1 })
    expect(await remove(id)).toEqual({ __typename: 'UnknownTaskProblem' })

    const long = await service.submit('long')
    await service.reached(long, 'RUNNING')
    expect(await remove(long)).toEqual({ __typename: 'RefusedProblem', code: 'NOT_ENDED' })
    await service.cancel(long)
    await service.ended(long)
    expect((await service.events(kept.id)).length).toBeGreaterThan(5)
  })

  test(`is removed for its age, to the last row and file, also where the service is killed in the middle ${KILLS} times`, async () => {
    const kept = await service.run('made')
    await service.down()
    const { tasks, workers } = await withStore((store) => seed(store, join(service.dataDir, 'artifacts')))
    await writeFile(join(service.dataDir, 'artifacts', uuidv7()), 'taken, and never announced')
    const before = await artifacts()
    for (let kill = 0; kill < KILLS; kill++) {
      await service.up()
      // Spread over the time that it takes.
      await later(kill * 40)
      await service.down('SIGKILL')
    }
    expect(before.length).toBeGreaterThan(OLD / 3)
    await service.up()
    await vi.waitFor(
      async () => {
        expect((await storageOf(service)).lastRoundAt).not.toBeNull()
      },
      { timeout: 30_000, interval: 100 },
    )
    await service.down()
    await withStore(async (store) => {
      expect(await store.tasksById(tasks)).toEqual([])
      expect(await store.removals(1)).toEqual([])
      for (const id of tasks) expect(await store.events(id, 0, 1)).toEqual([])
      for (const id of workers) expect(await store.worker(id)).toBeNull()
      const files = await artifacts()
      expect([...(await store.knownArtifacts(files as ArtifactId[]))].sort()).toEqual(files.sort())
      expect((await store.usage()).artifactBytes).toBe(5 * files.length)
      expect(await store.task(kept.id as TaskId)).not.toBeNull()
    })
    await service.up()
    expect((await service.events(kept.id)).length).toBeGreaterThan(5)
    // Six starts of the service.
  }, 120_000)

  async function withStore<T>(work: (store: TaskStore) => Promise<T>): Promise<T> {
    await using store = await openTaskStore({
      url: `file:${join(service.dataDir, 'gpu-service.db')}`,
      logger: silentLogger,
    })
    return await work(store)
  }
})

/**
 * Writes what tasks of two months ago would have left: every third with an artifact, every hundredth with many events. And one of two hours
 * ago.
 */
async function seed(
  store: TaskStore,
  folder: string,
): Promise<{ readonly tasks: readonly TaskId[]; readonly workers: readonly WorkerId[] }> {
  await mkdir(folder, { recursive: true })
  const tasks: TaskId[] = []
  const workers: WorkerId[] = []
  async function one(n: number, at: number): Promise<void> {
    const taskId = uuidv7({ msecs: at + n }) as TaskId
    const workerId = uuidv7({ msecs: at + n }) as WorkerId
    tasks.push(taskId)
    workers.push(workerId)
    const { presetId } = EXAMPLE_SPEC
    const task: NewTask = {
      ...{
        id: taskId,
        owner: 'local',
        keyId: null,
        privacy: 'full',
        presetId,
        spec: EXAMPLE_SPEC,
        input: {},
        labels: { old: 'yes' },
      },
      ...{ priority: 0, idempotencyKey: `old ${n}`, requestHash: 'x', affinity: null, retryOf: null },
      ...{ asked: { timeoutMs: null, gpuIds: null }, files: [], createdAt: at + n },
    }
    await store.create([task])
    const name = `gpu-${store.installation}-${workerId}` as WorkerName
    const worker = {
      ...{
        id: workerId,
        name,
        presetId,
        mode: 'ONE_OFF',
        spec: EXAMPLE_SPEC,
        specHash: specHashOf(EXAMPLE_SPEC),
      },
      ...{ owner: null, claim: { gpuIds: [], memoryMb: null }, at: at + n },
    } as const
    await store.claim([{ taskId, attempt: 1, after: 1, at: at + n, reason: 'It fits.', worker, warm: false }])
    const ids = n % 3 === 0 ? [uuidv7({ msecs: at + n }) as ArtifactId] : []
    for (const id of ids) await writeFile(join(folder, id), 'hello')
    const bodies = [
      ...Array.from(
        { length: n % 100 === 0 ? 20_000 : 5 },
        () => ({ type: 'text_delta', delta: 'x'.repeat(50) }) as const,
      ),
      { type: 'status', taskStatus: 'COMPLETED', reason: null } as const,
    ]
    await store.append({
      workerId,
      worker: { status: 'EXITED', exitedAt: at + n },
      tasks: [
        {
          ...{ taskId, attempt: 1, after: 2 },
          events: bodies.map((body, index) => ({ seq: 3 + index, at: at + n, attempt: 1, body })),
          artifacts: ids.map((id) => ({ id, name: 'a', mediaType: 'x/y', bytes: 5, sha256: '0'.repeat(64) })),
          settle: {
            ...{
              status: 'COMPLETED',
              charge: null,
              at: at + n,
              error: null,
              failureClass: null,
              exitCode: 0,
              evidence: null,
            },
            output: { text: 'x', result: null, usage: null },
          },
        },
      ],
    })
  }
  const old = Date.now() - 60 * DAY_MS
  for (let n = 0; n < OLD; n += 20)
    await Promise.all(Array.from({ length: 20 }, (_, lane) => one(n + lane, old)))
  const ofOld = { tasks: [...tasks], workers: [...workers] }
  // So that the service does not think that its clock has jumped.
  await one(OLD + 1, Date.now() - DAY_MS / 12)
  return ofOld
}
