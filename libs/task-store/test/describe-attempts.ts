import { StaleWriteError, type TaskAppend, type TaskStore } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import {
  artifactId,
  claimOf,
  completed,
  eventsAfter,
  failure,
  gpuId,
  newTask,
  newWorker,
  presetId,
  requeued,
  running,
  settledTask,
  settlement,
  spec,
  START,
  taskId,
  workerId,
} from './fixtures.ts'
import { openForEach, type Place } from './opened-store.ts'

/** What every task store promises of tasks that are tried again, of batches, and of workers that serve more than one task. */
export function describeAttempts(name: string, openPlace: () => Promise<Place>): void {
  describe(name, () => {
    let store: TaskStore
    const { reopen } = openForEach(openPlace, (opened) => {
      store = opened
    })

    const append = (n: number, ...tasks: readonly TaskAppend[]) =>
      store.append({ workerId: workerId(n), tasks })

    /** Task 1, RUNNING with text in its first attempt, then returned to the queue; four events. */
    async function failedOnce(): Promise<void> {
      await store.create([newTask(1)])
      await store.claim([claimOf(1)])
      const changes: TaskAppend['changes'] = {
        status: 'RUNNING',
        runningAt: START + 2_000,
        firstTextAt: START + 2_001,
        finish: { status: 'failed', error: null },
      }
      await append(1, { taskId: taskId(1), attempt: 1, after: 2, events: eventsAfter(2, running), changes })
      await append(1, requeued(1, 3))
    }

    const secondClaim = claimOf(1, {
      ...{ attempt: 2, after: 4, at: START + 11_000, warm: true },
      worker: newWorker(2, { claim: { gpuIds: [gpuId(1), gpuId(2)], memoryMb: 2_000 } }),
    })

    describe('leftBefore', () => {
      /** Announces artifacts of a running attempt; gives how many events the task has then. */
      async function leaves(
        n: number,
        attempt: number,
        after: number,
        names: readonly string[],
      ): Promise<number> {
        const artifacts = names.map((name, index) => ({
          id: artifactId(n * 100 + after * 10 + index),
          ...{ name, mediaType: 'application/octet-stream', bytes: 1, sha256: 'ff' },
        }))
        const events = eventsAfter(
          after,
          ...artifacts.map((artifact) => ({ type: 'artifact' as const, artifact })),
        ).map((event) => ({ ...event, attempt }))
        await append(attempt, { taskId: taskId(n), attempt, after, events, artifacts })
        return after + names.length
      }

      const left = async (n: number, attempt: number, limit = 32): Promise<string[]> =>
        (await store.leftBefore(taskId(n), attempt, limit)).map(
          ({ name, attempt: by, id }) => `${by} ${name} ${parseInt(id.slice(-4), 16)}`,
        )

      it('is what earlier attempts announced, of each name the latest', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        const after = await leaves(1, 1, 2, ['checkpoint', 'log', 'checkpoint'])
        expect(await left(1, 1)).toEqual([])
        await append(1, requeued(1, after))
        await store.claim([claimOf(1, { attempt: 2, after: after + 1, worker: newWorker(2) })])
        expect(await left(1, 2)).toEqual(['1 checkpoint 122', '1 log 121'])
        await leaves(1, 2, after + 2, ['checkpoint'])
        expect(await left(1, 2)).toEqual(['1 checkpoint 122', '1 log 121'])
        expect(await left(1, 3)).toEqual(['2 checkpoint 170', '1 log 121'])
        expect(await left(1, 3, 1)).toEqual(['2 checkpoint 170'])
      })

      it('is what the task has left that it is a retry of, also where there is one between that left nothing', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        await leaves(1, 1, 2, ['checkpoint'])
        await store.create([newTask(2, { retryOf: taskId(1) })])
        await store.create([newTask(3, { retryOf: taskId(2) })])
        await store.create([newTask(4, { retryOf: taskId(9) }), newTask(5)])
        expect(await left(2, 1)).toEqual(['1 checkpoint 120'])
        expect(await left(3, 1)).toEqual(['1 checkpoint 120'])
        expect(await left(4, 1)).toEqual([])
        expect(await left(5, 1)).toEqual([])
      })

      it('is nothing where the task that it is a retry of has completed', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        const after = await leaves(1, 1, 2, ['checkpoint'])
        await append(1, settledTask(1, after))
        await store.create([newTask(2, { retryOf: taskId(1) })])
        expect((await store.task(taskId(1)))?.status).toBe('COMPLETED')
        expect(await left(2, 1)).toEqual([])
      })

      it('looks through more than are read at once', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        await leaves(1, 1, 2, ['log', ...Array.from({ length: 250 }, () => 'checkpoint')])
        expect(await left(1, 2)).toEqual(['1 checkpoint 370', '1 log 120'])
      })
    })

    describe('create', () => {
      it('writes many tasks at once, in their order', async () => {
        const tasks = [3, 1, 2].map((n) => newTask(n, { labels: { n: String(n) } }))
        const result = await store.create(tasks)
        expect(result).toMatchObject({
          tasks: [3, 1, 2].map((n) => ({ task: { id: taskId(n), status: 'QUEUED' }, duplicate: false })),
        })
        expect((await store.activeTasks()).map(({ id }) => id)).toEqual([1, 2, 3].map(taskId))
        for (const n of [1, 2, 3]) expect(await store.events(taskId(n), 0, 10)).toHaveLength(1)
        expect(await store.countTasks({ label: { key: 'n', value: '2' } }, 9)).toBe(1)
      })

      it('tells the seen keys of a batch from the new ones, also where the batch itself repeats one', async () => {
        await store.create([newTask(1, { idempotencyKey: 'a', requestHash: 'a' })])
        const keyed = (n: number, key: string) => newTask(n, { idempotencyKey: key, requestHash: key })
        const result = await store.create([keyed(2, 'a'), keyed(3, 'b'), keyed(4, 'b'), newTask(5)])
        expect(result).toMatchObject({
          tasks: [
            { task: { id: taskId(1) }, duplicate: true },
            { task: { id: taskId(3) }, duplicate: false },
            { task: { id: taskId(3) }, duplicate: true },
            { task: { id: taskId(5) }, duplicate: false },
          ],
        })
        expect(await store.countTasks({}, 9)).toBe(3)
      })

      it('writes none of a batch where one key stands for another request', async () => {
        await store.create([newTask(1, { idempotencyKey: 'a', requestHash: 'a' })])
        const result = await store.create([
          newTask(2),
          newTask(3, { idempotencyKey: 'a', requestHash: 'b' }),
          newTask(4),
        ])
        expect(result).toMatchObject({ status: 'conflict', index: 1, task: { id: taskId(1) } })
        const within = await store.create([
          newTask(5, { idempotencyKey: 'c', requestHash: 'c' }),
          newTask(6, { idempotencyKey: 'c', requestHash: 'd' }),
        ])
        expect(within).toMatchObject({ status: 'conflict', index: 1 })
        expect(await store.countTasks({}, 9)).toBe(1)
      })

      it('harms no other call when one of them fails', async () => {
        await store.create([newTask(7)])
        const results = await Promise.allSettled(
          Array.from({ length: 20 }, (_, index) => store.create([newTask(index + 1), newTask(index + 101)])),
        )
        const failed = results.flatMap(({ status }, index) => (status === 'rejected' ? [index + 1] : []))
        expect(failed).toEqual([7])
        expect(await store.task(taskId(107))).toBeNull()
        expect(await store.countTasks({}, 99)).toBe(39)
      })
    })

    describe('claim', () => {
      it('starts those of a batch that can be, and gives null for the others', async () => {
        await store.create([1, 2, 3].map((n) => newTask(n)))
        await store.requestCancel(taskId(2), { at: START, reason: null })
        const tasks = await store.claim([claimOf(3), claimOf(2), claimOf(1), claimOf(9)])
        expect(tasks.map((task) => task && [task.id, task.workerId])).toEqual([
          [taskId(3), workerId(3)],
          null,
          [taskId(1), workerId(1)],
          null,
        ])
        expect((await store.liveWorkers()).map(({ id }) => id)).toEqual([workerId(1), workerId(3)])
        expect(await store.attempts(taskId(2))).toEqual([])
      })

      it('gives a task to one of two in the same batch', async () => {
        await store.create([newTask(1)])
        const tasks = await store.claim([claimOf(1), { ...claimOf(1), worker: newWorker(2) }])
        expect(tasks.map((task) => task?.workerId)).toEqual([workerId(1), undefined])
        expect(await store.worker(workerId(2))).toBeNull()
      })

      it('gives several tasks to a session worker that is there', async () => {
        const claim = { gpuIds: [gpuId(3)], memoryMb: 4_000 }
        await store.createWorker(newWorker(5, { mode: 'SESSION', claim, owner: 'ann', specHash: 'abc' }))
        expect(await store.worker(workerId(5))).toMatchObject({
          ...{ status: 'STARTING', mode: 'SESSION', owner: 'ann', specHash: 'abc', spec, claim },
          ...{ startedAt: START + 1_005, taskIds: [] },
        })
        await store.create([newTask(1), newTask(2)])
        const worker = { id: workerId(5), claim }
        await store.claim([1, 2].map((n) => claimOf(n, { worker, warm: true })))
        expect((await store.worker(workerId(5)))?.taskIds).toEqual([taskId(1), taskId(2)])
        expect((await store.task(taskId(2)))?.gpuIds).toEqual([gpuId(3)])
        expect(await store.attempts(taskId(2))).toMatchObject([{ warm: true, gpuIds: [gpuId(3)] }])
        await append(5, {
          ...{ taskId: taskId(1), attempt: 1, after: 2, events: eventsAfter(2, completed) },
          settle: settlement,
        })
        expect(await store.worker(workerId(5))).toMatchObject({ taskIds: [taskId(2)], tasksServed: 1 })
      })
    })

    describe('an attempt that is followed by another', () => {
      it('returns its task to the queue, and keeps what it was in its own row', async () => {
        await failedOnce()
        expect(await store.task(taskId(1))).toMatchObject({
          ...{ status: 'QUEUED', attempt: 1, lastSeq: 4, workerId: workerId(1), gpuIds: [gpuId(0)] },
          ...{ queuedAt: START + 8_000, retryAt: START + 10_000, startedAt: START + 1_001 },
          ...{ runningAt: null, firstTextAt: null, finish: null, stopReason: null },
          ...{ finishedAt: null, error: null, exitCode: null },
        })
        expect(await store.attempts(taskId(1))).toEqual([
          {
            ...{ attempt: 1, workerId: workerId(1), gpuIds: [gpuId(0)], warm: false },
            ...{ startedAt: START + 1_001, runningAt: START + 2_000, finishedAt: START + 8_000 },
            ...{ status: 'FAILED', error: failure.error, failureClass: 'worker_failed', exitCode: 3 },
            evidence: failure.evidence,
          },
        ])
        expect(await store.output(taskId(1))).toEqual(failure.output)
        expect(await store.worker(workerId(1))).toMatchObject({ tasksServed: 1, taskIds: [] })
        expect((await store.activeTasks()).map(({ id }) => id)).toEqual([taskId(1)])
      })

      it('leaves nothing of itself to the next one', async () => {
        await failedOnce()
        await store.recordRelease(taskId(1), 1, { stoppedAt: START + 1, gpuFreeAt: START + 2, killed: true })
        const [task] = await store.claim([secondClaim])
        expect(task).toMatchObject({
          ...{ status: 'STARTING', attempt: 2, lastSeq: 5, startedAt: START + 11_000, retryAt: null },
          ...{ queuedAt: START + 8_000, workerId: workerId(2), gpuIds: [gpuId(1), gpuId(2)] },
          release: { stoppedAt: null, gpuFreeAt: null, killed: false },
          ...{ runningAt: null, firstTextAt: null, finish: null, stopReason: null },
        })
        expect(await store.task(taskId(1))).toEqual(task)
        expect(await store.attempts(taskId(1))).toMatchObject([
          { attempt: 1, status: 'FAILED', warm: false },
          { attempt: 2, status: null, warm: true, gpuIds: [gpuId(1), gpuId(2)], runningAt: null },
        ])
        expect(await store.output(taskId(1))).toEqual({ text: null, result: null, usage: null })
        expect((await store.worker(workerId(2)))?.claim).toEqual(secondClaim.worker.claim)
      })

      it('can be the first of several that end in success', async () => {
        await failedOnce()
        await store.claim([secondClaim])
        await append(2, {
          ...{ taskId: taskId(1), attempt: 2, after: 5, settle: settlement },
          events: [{ seq: 6, at: START + 12_000, attempt: 2, body: completed }],
        })
        expect(await store.task(taskId(1))).toMatchObject({ status: 'COMPLETED', error: null, exitCode: 0 })
        expect((await store.attempts(taskId(1))).map(({ status }) => status)).toEqual(['FAILED', 'COMPLETED'])
        expect(await store.output(taskId(1))).toEqual(settlement.output)
        expect((await store.worker(workerId(2)))?.tasksServed).toBe(1)
      })

      it('takes nothing more of its old writer', async () => {
        await failedOnce()
        const late = { taskId: taskId(1), attempt: 1, after: 4 }
        await expect(append(1, { ...late, events: eventsAfter(4, running) })).rejects.toThrow(StaleWriteError)
        await expect(
          append(1, { ...late, events: eventsAfter(4, completed), settle: settlement }),
        ).rejects.toThrow(StaleWriteError)
        await expect(append(1, requeued(1, 4))).rejects.toThrow(StaleWriteError)
        expect((await store.worker(workerId(1)))?.tasksServed).toBe(1)
      })

      it('may fail before it has run', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        await append(1, requeued(1, 2))
        expect(await store.attempts(taskId(1))).toMatchObject([{ status: 'FAILED', runningAt: null }])
        expect(await store.claim([{ ...secondClaim, after: 3 }])).toMatchObject([{ attempt: 2 }])
      })
    })

    describe('a queued task', () => {
      const error = { code: 'QUEUE_TIMEOUT', message: 'it waited too long' }

      it('can be ended with an error, once', async () => {
        await store.create([newTask(1)])
        const task = await store.endQueued(taskId(1), { at: START + 5, status: 'TIMED_OUT', error })
        expect(task).toMatchObject({ status: 'TIMED_OUT', finishedAt: START + 5, error, lastSeq: 2 })
        expect(await store.task(taskId(1))).toEqual(task)
        expect(await store.events(taskId(1), 1, 9)).toEqual([
          {
            ...{ seq: 2, at: START + 5, attempt: 0 },
            body: { type: 'status', taskStatus: 'TIMED_OUT', reason: error.message },
          },
        ])
        expect(await store.output(taskId(1))).toEqual({ text: null, result: null, usage: null })
        expect(await store.endQueued(taskId(1), { at: START, status: 'FAILED', error })).toBeNull()
        expect(await store.endQueued(taskId(9), { at: START, status: 'FAILED', error })).toBeNull()
      })

      it('is not ended while a worker has it', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        expect(await store.endQueued(taskId(1), { at: START, status: 'FAILED', error })).toBeNull()
        expect((await store.task(taskId(1)))?.lastSeq).toBe(2)
      })

      it('keeps the output of the attempt before when it ends', async () => {
        await failedOnce()
        const task = await store.endQueued(taskId(1), { at: START + 9_500, status: 'FAILED', error })
        expect(task).toMatchObject({ status: 'FAILED', error, attempt: 1, retryAt: null, lastSeq: 5 })
        expect(await store.output(taskId(1))).toEqual(failure.output)
        expect(await store.attempts(taskId(1))).toMatchObject([{ finishedAt: START + 8_000, exitCode: 3 }])
      })

      it('keeps the first request for a cancel, made of its attempt before', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        await store.requestCancel(taskId(1), { at: START + 10, reason: 'first' })
        await append(1, requeued(1, 2))
        const task = await store.requestCancel(taskId(1), { at: START + 20, reason: 'second' })
        expect(task).toMatchObject({
          ...{ status: 'CANCELLED', finishedAt: START + 20, cancelRequestedAt: START + 10 },
          ...{ cancelReason: 'first', stopReason: null },
        })
        expect(await store.events(taskId(1), 3, 9)).toMatchObject([
          { attempt: 1, body: { taskStatus: 'CANCELLED', reason: 'first' } },
        ])
        expect(await store.output(taskId(1))).toEqual(failure.output)
      })
    })

    describe('recordStop', () => {
      it('keeps every reason', async () => {
        for (const [n, reason] of (
          ['start-timeout', 'silence', 'gpu-lost', 'output-lost'] as const
        ).entries()) {
          await store.create([newTask(n)])
          await store.claim([claimOf(n)])
          expect(await store.recordStop(taskId(n), 1, reason)).toMatchObject({ stopReason: reason })
        }
      })
    })

    describe('recordRelease', () => {
      const release = async () => (await store.task(taskId(1)))?.release

      it('keeps each moment as it was first told, also of a task that has ended', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        await store.recordRelease(taskId(1), 1, { stoppedAt: START + 1 })
        expect(await release()).toEqual({ stoppedAt: START + 1, gpuFreeAt: null, killed: false })
        await append(1, {
          ...{ taskId: taskId(1), attempt: 1, after: 2, events: eventsAfter(2, completed) },
          settle: settlement,
        })
        await store.recordRelease(taskId(1), 1, { stoppedAt: START + 5, gpuFreeAt: START + 6, killed: true })
        await store.recordRelease(taskId(1), 1, { killed: false })
        expect(await release()).toEqual({ stoppedAt: START + 1, gpuFreeAt: START + 6, killed: true })
      })

      it('is of one attempt, and stays while its task waits for the next', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        await store.recordRelease(taskId(1), 1, { stoppedAt: START + 1 })
        await append(1, requeued(1, 2))
        await store.recordRelease(taskId(1), 1, { gpuFreeAt: START + 2 })
        expect(await release()).toEqual({ stoppedAt: START + 1, gpuFreeAt: START + 2, killed: false })
        await store.claim([{ ...secondClaim, after: 3 }])
        await store.recordRelease(taskId(1), 1, { killed: true })
        await store.recordRelease(taskId(9), 1, { killed: true })
        expect(await release()).toEqual({ stoppedAt: null, gpuFreeAt: null, killed: false })
      })
    })

    describe('workers', () => {
      it('change together with what they say, or not at all', async () => {
        await store.create([newTask(1)])
        await store.claim([claimOf(1)])
        const worker = { status: 'WORKING', readyAt: START + 3, peakMemoryMb: 900 } as const
        await expect(
          store.append({
            ...{ workerId: workerId(1), worker, tasks: [requeued(1, 9)] },
            cursor: { stdout: 'x', stderr: '' },
          }),
        ).rejects.toThrow(StaleWriteError)
        expect(await store.worker(workerId(1))).toMatchObject({ status: 'STARTING', readyAt: null })
        await store.append({ workerId: workerId(1), worker, tasks: [] })
        expect(await store.worker(workerId(1))).toMatchObject(worker)
        await store.append({ workerId: workerId(1), worker: { status: 'STOPPING' }, tasks: [] })
        await expect(
          store.append({ workerId: workerId(1), worker: { status: 'READY' }, tasks: [requeued(1, 2)] }),
        ).rejects.toMatchObject({ code: 'INVALID_WRITE' })
        expect((await store.task(taskId(1)))?.status).toBe('STARTING')
      })

      it('keep the most memory that was measured, and why they were ended', async () => {
        await store.createWorker(newWorker(1))
        for (const peakMemoryMb of [500, 700, 600]) await store.updateWorker(workerId(1), { peakMemoryMb })
        await store.updateWorker(workerId(1), { endReason: 'idle', exitedAt: START + 9, status: 'EXITED' })
        expect(await store.worker(workerId(1))).toMatchObject({
          ...{ peakMemoryMb: 700, endReason: 'idle', exitedAt: START + 9 },
        })
      })

      it('keep a log of their own, of which any stretch can be read', async () => {
        await store.createWorker(newWorker(1))
        const entries = Array.from({ length: 200 }, (_, n) => ({
          at: START + Math.floor(n / 3),
          body: { type: 'connection' as const, status: `${n}` },
        }))
        for (let from = 0, size = 1; from < 200; from += size, size = (size % 3) + 1) {
          const workerEvents = entries.slice(from, from + size)
          await store.append({ workerId: workerId(1), workerEvents, tasks: [] })
        }
        expect(await store.workerLog(workerId(1), 0, 1_000)).toEqual(entries)
        for (const [after, limit] of [
          [0, 1],
          [5, 150],
          [198, 10],
          [200, 10],
          [0, 0],
        ] as const) {
          expect(await store.workerLog(workerId(1), after, limit)).toEqual(
            entries.slice(after, after + limit),
          )
        }
        expect(await store.workerLog(workerId(2), 0, 10)).toEqual([])
      })
    })

    describe('history', () => {
      it('tells what was measured, by spec, newest first and of completed attempts only', async () => {
        const other = { specHash: 'other', presetId: presetId('other/inference') }
        for (const n of [1, 2, 3, 4]) {
          await store.create([newTask(n)])
          await store.claim([claimOf(n, { worker: newWorker(n, n === 4 ? other : { specHash: 'one' }) })])
          const ended = n === 3 ? failure : settlement
          await store.append({
            workerId: workerId(n),
            worker: { readyAt: START + 1_000 + n + n * 10, ...(n === 2 ? {} : { peakMemoryMb: n * 100 }) },
            tasks: [
              {
                ...{ taskId: taskId(n), attempt: 1, after: 2 },
                changes: { status: 'RUNNING', runningAt: START },
                events: eventsAfter(2, running, {
                  ...{ type: 'status', taskStatus: ended.status, reason: null },
                }),
                settle: { ...ended, at: START + n * 1_000 },
              },
            ],
          })
        }
        const byHash = new Map((await store.history(10)).map((figures) => [figures.specHash, figures]))
        expect([...byHash.keys()].sort()).toEqual(['one', 'other'])
        expect(byHash.get('one')).toEqual({
          ...{ specHash: 'one', presetId: presetId('test/inference') },
          ...{ loadMs: [30, 20, 10], runMs: [2_000, 1_000], peakMemoryMb: [300, 100] },
        })
        expect(byHash.get('other')).toEqual({
          ...{ ...other, loadMs: [40], runMs: [4_000], peakMemoryMb: [400] },
        })
        const [one] = (await store.history(1)).filter(({ specHash }) => specHash === 'one')
        expect(one).toMatchObject({ loadMs: [30], runMs: [2_000], peakMemoryMb: [300] })
      })
    })

    describe('drains', () => {
      it('stay until they are taken back, the last word of each GPU', async () => {
        expect(await store.drains()).toEqual(new Map())
        await store.setDrain(gpuId(0), { at: START, reason: 'fan' })
        await store.setDrain(gpuId(1), { at: START, reason: null })
        await store.setDrain(gpuId(0), { at: START + 1, reason: null })
        await reopen()
        expect(await store.drains()).toEqual(
          new Map([
            [gpuId(0), { at: START + 1, reason: null }],
            [gpuId(1), { at: START, reason: null }],
          ]),
        )
        await store.setDrain(gpuId(0), null)
        await store.setDrain(gpuId(0), null)
        expect([...(await store.drains()).keys()]).toEqual([gpuId(1)])
      })
    })
  })
}
