import { specHashOf, type TaskStore } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import {
  claimOf,
  deltas,
  eventsAfter,
  gpuId,
  newTask,
  newWorker,
  presetId,
  running,
  spec,
  START,
  startTasks,
  settledTask,
  taskId,
  workerId,
} from './fixtures.ts'
import { openForEach, type Place } from './opened-store.ts'

/** What every task store promises of tasks and workers, whatever its database. */
export function describeTaskStore(name: string, openPlace: () => Promise<Place>): void {
  describe(name, () => {
    let store: TaskStore
    const { reopen } = openForEach(openPlace, (opened) => {
      store = opened
    })

    describe('create', () => {
      it('keeps everything of a task, and its first event', async () => {
        const { requestHash, ...submitted } = newTask(1, {
          input: { prompt: 'hi', list: [1, null, { deep: true }] },
          labels: { team: 'red', run: '7' },
          priority: 3,
          idempotencyKey: 'key',
          affinity: 'warm',
          asked: { timeoutMs: 60_000, gpuIds: [gpuId(2)] },
          files: [],
          retryOf: taskId(7),
        })
        const result = await store.create([{ ...submitted, requestHash }])
        const expected = {
          ...submitted,
          contentHashes: null,
          scrubbedAt: null,
          status: 'QUEUED',
          attempt: 0,
          lastSeq: 1,
          queuedAt: submitted.createdAt,
          retryAt: null,
          startedAt: null,
          runningAt: null,
          firstTextAt: null,
          finishedAt: null,
          cancelRequestedAt: null,
          cancelReason: null,
          stopReason: null,
          release: { stoppedAt: null, gpuFreeAt: null, killed: false },
          finish: null,
          gpuIds: [],
          workerId: null,
          error: null,
          exitCode: null,
        }
        expect(result).toEqual({ status: 'created', tasks: [{ task: expected, duplicate: false }] })
        await reopen()
        expect(await store.task(taskId(1))).toEqual(expected)
        expect(await store.events(taskId(1), 0, 10)).toEqual([
          {
            seq: 1,
            at: submitted.createdAt,
            attempt: 0,
            body: { type: 'status', taskStatus: 'QUEUED', reason: null },
          },
        ])
      })

      it('makes one task of 50 equal submissions at once', async () => {
        const results = await Promise.all(
          Array.from({ length: 50 }, (_, n) =>
            store.create([newTask(n + 1, { idempotencyKey: 'once', requestHash: 'same' })]),
          ),
        )
        const created = results.flatMap((result) => (result.status === 'created' ? result.tasks : []))
        expect(created).toHaveLength(50)
        expect(new Set(created.map(({ task }) => task.id)).size).toBe(1)
        expect(created.filter(({ duplicate }) => !duplicate)).toHaveLength(1)
        expect(await store.countTasks({}, 100)).toBe(1)
      })

      it('refuses a key that was seen with another request, and names the task', async () => {
        await store.create([newTask(1, { idempotencyKey: 'key', requestHash: 'a' })])
        const result = await store.create([newTask(2, { idempotencyKey: 'key', requestHash: 'b' })])
        expect(result).toMatchObject({ status: 'conflict', index: 0, task: { id: taskId(1) } })
        expect(await store.task(taskId(2))).toBeNull()
      })

      it('keeps the keys of two owners apart, and tasks without a key too', async () => {
        await store.create([newTask(1, { idempotencyKey: 'key' })])
        await store.create([newTask(2, { idempotencyKey: 'key', owner: 'bob' })])
        await store.create([newTask(3)])
        await store.create([newTask(4)])
        expect(await store.countTasks({}, 100)).toBe(4)
      })

      it('rejects an id that is taken, and writes nothing of it', async () => {
        await store.create([newTask(1)])
        await expect(store.create([newTask(1, { labels: { a: 'b' } })])).rejects.toMatchObject({
          code: 'DATABASE_FAILED',
        })
        expect((await store.task(taskId(1)))?.labels).toEqual({})
        expect(await store.events(taskId(1), 0, 10)).toHaveLength(1)
      })
    })

    describe('claim', () => {
      it('starts the next attempt with its event and its worker', async () => {
        await store.create([newTask(1)])
        const [task] = await store.claim([claimOf(1)])
        expect(task).toMatchObject({
          status: 'STARTING',
          attempt: 1,
          lastSeq: 2,
          startedAt: START + 1_001,
          gpuIds: [gpuId(0)],
          workerId: workerId(1),
        })
        expect(await store.events(taskId(1), 1, 10)).toEqual([
          {
            seq: 2,
            at: START + 1_001,
            attempt: 1,
            body: { type: 'status', taskStatus: 'STARTING', reason: 'GPU-0 is free' },
          },
        ])
        expect(await store.worker(workerId(1))).toEqual({
          id: workerId(1),
          name: 'gpu-abcdefgh-1',
          presetId: presetId('test/inference'),
          mode: 'ONE_OFF',
          status: 'STARTING',
          spec,
          specHash: specHashOf(spec),
          owner: null,
          containerId: null,
          imageDigest: null,
          claim: { gpuIds: [gpuId(0)], memoryMb: null },
          taskIds: [taskId(1)],
          startedAt: START + 1_001,
          readyAt: null,
          exitedAt: null,
          tasksServed: 0,
          peakMemoryMb: null,
          cursor: { stdout: '', stderr: '' },
          eventSeq: null,
          exit: null,
          endReason: null,
        })
      })

      it('gives null and writes nothing where the task was taken, cancelled or moved on', async () => {
        await startTasks(store)
        const second = newWorker(9)
        expect(await store.claim([claimOf(1, { worker: second })])).toEqual([null])
        await store.create([newTask(2)])
        expect(await store.claim([claimOf(2, { after: 0 })])).toEqual([null])
        expect(await store.claim([claimOf(3)])).toEqual([null])
        await store.requestCancel(taskId(2), { at: START, reason: null })
        expect(await store.claim([claimOf(2)])).toEqual([null])
        expect(await store.worker(workerId(9))).toBeNull()
        expect(await store.worker(workerId(2))).toBeNull()
        expect((await store.task(taskId(2)))?.lastSeq).toBe(2)
      })

      it('gives a task to one of two that claim it at once', async () => {
        await store.create([newTask(1)])
        const claims = await Promise.all(
          [1, 2, 3].map((n) => store.claim([{ ...claimOf(1), worker: claimOf(n).worker }])),
        )
        expect(claims.flat().filter((task) => task !== null)).toHaveLength(1)
        expect(await store.liveWorkers()).toHaveLength(1)
      })
    })

    describe('requestCancel', () => {
      it('ends a queued task with its final event and an empty output', async () => {
        await store.create([newTask(1)])
        const task = await store.requestCancel(taskId(1), { at: START + 5, reason: 'not needed' })
        expect(task).toMatchObject({
          status: 'CANCELLED',
          lastSeq: 2,
          finishedAt: START + 5,
          cancelRequestedAt: START + 5,
          cancelReason: 'not needed',
          stopReason: null,
        })
        expect(await store.events(taskId(1), 1, 10)).toEqual([
          {
            seq: 2,
            at: START + 5,
            attempt: 0,
            body: { type: 'status', taskStatus: 'CANCELLED', reason: 'not needed' },
          },
        ])
        expect(await store.output(taskId(1))).toEqual({ text: null, result: null, usage: null })
      })

      it('keeps the status of a started task and records the first request only', async () => {
        await startTasks(store)
        await store.requestCancel(taskId(1), { at: START + 5, reason: 'first' })
        const task = await store.requestCancel(taskId(1), { at: START + 6, reason: 'second' })
        expect(task).toMatchObject({
          status: 'STARTING',
          lastSeq: 2,
          cancelRequestedAt: START + 5,
          cancelReason: 'first',
          stopReason: 'cancel',
        })
      })

      it('leaves an earlier reason to stop, and sets none after the worker has finished', async () => {
        await startTasks(store, 2)
        await store.recordStop(taskId(1), 1, 'timeout')
        expect(await store.requestCancel(taskId(1), { at: START, reason: null })).toMatchObject({
          stopReason: 'timeout',
          cancelRequestedAt: START,
        })
        const finish = { status: 'completed', error: null } as const
        await store.append({
          workerId: workerId(2),
          tasks: [
            {
              taskId: taskId(2),
              attempt: 1,
              after: 2,
              events: eventsAfter(2, running, { type: 'finish', ...finish }),
              changes: { status: 'RUNNING', finish },
            },
          ],
        })
        expect(await store.requestCancel(taskId(2), { at: START, reason: null })).toMatchObject({
          stopReason: null,
          cancelRequestedAt: START,
          finish,
        })
      })

      it('leaves an ended task as it is, and tells of an unknown one', async () => {
        await startTasks(store)
        await store.append({ workerId: workerId(1), tasks: [settledTask(1, 2)] })
        const before = await store.task(taskId(1))
        expect(await store.requestCancel(taskId(1), { at: START, reason: 'late' })).toEqual(before)
        expect(await store.requestCancel(taskId(9), { at: START, reason: null })).toBeNull()
      })
    })

    describe('recordStop', () => {
      it('keeps the first reason of the attempt', async () => {
        await startTasks(store)
        expect(await store.recordStop(taskId(1), 2, 'cancel')).toMatchObject({ stopReason: null })
        expect(await store.recordStop(taskId(1), 1, 'timeout')).toMatchObject({ stopReason: 'timeout' })
        expect(await store.recordStop(taskId(1), 1, 'cancel')).toMatchObject({ stopReason: 'timeout' })
        await expect(store.recordStop(taskId(9), 1, 'cancel')).rejects.toMatchObject({ code: 'NOT_FOUND' })
      })

      it('records none after a stored finish or the end', async () => {
        await startTasks(store, 2)
        const finish = { status: 'failed', error: { code: 'X', message: 'y' } } as const
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              taskId: taskId(1),
              attempt: 1,
              after: 2,
              events: eventsAfter(2, { type: 'finish', ...finish }),
              changes: { finish },
            },
          ],
        })
        expect(await store.recordStop(taskId(1), 1, 'timeout')).toMatchObject({ stopReason: null, finish })
        await store.append({ workerId: workerId(2), tasks: [settledTask(2, 2)] })
        expect(await store.recordStop(taskId(2), 1, 'timeout')).toMatchObject({ stopReason: null })
      })
    })

    describe('workers', () => {
      it('are updated field by field', async () => {
        await startTasks(store)
        await store.updateWorker(workerId(1), {
          containerId: 'c1',
          imageDigest: 'sha256:1',
          status: 'READY',
          readyAt: START + 3,
        })
        expect(await store.worker(workerId(1))).toMatchObject({
          containerId: 'c1',
          status: 'READY',
          readyAt: START + 3,
          exit: null,
        })
        await store.updateWorker(workerId(1), {})
        const exit = { exitCode: null, oomKilled: true, finishedAt: START + 4 }
        await store.updateWorker(workerId(1), { status: 'EXITED', exit, exitedAt: START + 4 })
        expect(await store.worker(workerId(1))).toMatchObject({ status: 'EXITED', exit, containerId: 'c1' })
        expect(await store.worker(workerId(9))).toBeNull()
      })

      it('make only the moves of the table', async () => {
        await startTasks(store)
        await store.updateWorker(workerId(1), { status: 'EXITED' })
        await store.updateWorker(workerId(1), { status: 'EXITED' })
        await expect(store.updateWorker(workerId(1), { status: 'READY' })).rejects.toMatchObject({
          code: 'INVALID_WRITE',
        })
        await expect(store.updateWorker(workerId(9), { containerId: 'x' })).rejects.toMatchObject({
          code: 'NOT_FOUND',
        })
      })

      it('are live until they have exited, oldest first', async () => {
        await startTasks(store, 3)
        await store.updateWorker(workerId(2), { status: 'EXITED' })
        await store.updateWorker(workerId(3), { status: 'STOPPING' })
        expect((await store.liveWorkers()).map(({ id, taskIds }) => [id, taskIds])).toEqual([
          [workerId(1), [taskId(1)]],
          [workerId(3), [taskId(3)]],
        ])
      })
    })

    describe('the installation', () => {
      it('has a name of its own that stays', async () => {
        const { installation } = store
        expect(installation).toMatch(/^[a-z0-9]{8}$/)
        await reopen()
        expect(store.installation).toBe(installation)
      })
    })

    describe('closing', () => {
      it('lets what is under way end, and refuses everything after', async () => {
        await startTasks(store)
        const writing = store.append({
          workerId: workerId(1),
          tasks: [{ taskId: taskId(1), attempt: 1, after: 2, events: deltas(2, 1) }],
        })
        await Promise.all([store[Symbol.asyncDispose](), store[Symbol.asyncDispose](), writing])
        await expect(store.task(taskId(1))).rejects.toMatchObject({ code: 'CLOSED' })
        await expect(store.create([newTask(2)])).rejects.toMatchObject({ code: 'CLOSED' })
        await reopen()
        expect((await store.task(taskId(1)))?.lastSeq).toBe(3)
      })
    })

    it('keeps the spec as it was submitted', async () => {
      await store.create([newTask(1)])
      expect((await store.task(taskId(1)))?.spec).toEqual(spec)
    })
  })
}
