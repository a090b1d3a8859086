import { specHashOf, StaleWriteError, type TaskEventBody, type TaskStore } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import {
  artifactId,
  claimOf,
  completed,
  deltas,
  eventsAfter,
  gpuId,
  newTask,
  newWorker,
  presetId,
  running,
  settlement,
  spec,
  START,
  taskId,
  workerId,
} from './fixtures.ts'
import { openForEach, type Place } from './opened-store.ts'

/** What every task store promises, whatever its database. */
export function describeTaskStore(name: string, openPlace: () => Promise<Place>): void {
  describe(name, () => {
    let store: TaskStore
    const { reopen } = openForEach(openPlace, (opened) => {
      store = opened
    })

    /** Tasks 1 to `count`, each STARTING on a worker of its own, with two events. */
    async function started(count = 1): Promise<void> {
      for (let n = 1; n <= count; n++) {
        await store.create([newTask(n)])
        await store.claim([claimOf(n)])
      }
    }

    const settled = (n: number, after: number) => ({
      taskId: taskId(n),
      attempt: 1,
      after,
      events: eventsAfter(after, completed),
      settle: settlement,
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
        await started()
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
        await started()
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
        await started(2)
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
        await started()
        await store.append({ workerId: workerId(1), tasks: [settled(1, 2)] })
        const before = await store.task(taskId(1))
        expect(await store.requestCancel(taskId(1), { at: START, reason: 'late' })).toEqual(before)
        expect(await store.requestCancel(taskId(9), { at: START, reason: null })).toBeNull()
      })
    })

    describe('recordStop', () => {
      it('keeps the first reason of the attempt', async () => {
        await started()
        expect(await store.recordStop(taskId(1), 2, 'cancel')).toMatchObject({ stopReason: null })
        expect(await store.recordStop(taskId(1), 1, 'timeout')).toMatchObject({ stopReason: 'timeout' })
        expect(await store.recordStop(taskId(1), 1, 'cancel')).toMatchObject({ stopReason: 'timeout' })
        await expect(store.recordStop(taskId(9), 1, 'cancel')).rejects.toMatchObject({ code: 'NOT_FOUND' })
      })

      it('records none after a stored finish or the end', async () => {
        await started(2)
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
        await store.append({ workerId: workerId(2), tasks: [settled(2, 2)] })
        expect(await store.recordStop(taskId(2), 1, 'timeout')).toMatchObject({ stopReason: null })
      })
    })

    describe('append', () => {
      it('stores events of every kind as they are', async () => {
        await started()
        const artifact = {
          id: artifactId(1),
          name: 'out.png',
          mediaType: 'image/png',
          bytes: 5_000_000_000,
          sha256: 'ab',
        }
        const bodies: readonly TaskEventBody[] = [
          running,
          { type: 'connection', status: 'connected' },
          { type: 'worker', status: 'loading', message: null, progress: 0.5 },
          { type: 'text_delta', delta: 'a\u0000b "quoted" \\ \ud800 \u2028 é 🎉' },
          { type: 'text', content: '' },
          { type: 'progress', completed: 1, total: null, unit: 'steps', message: null },
          { type: 'result', value: [null, { a: 1e300 }, 'x'] },
          { type: 'artifact', artifact },
          { type: 'usage', values: { tokens: 12, seconds: 0.25 } },
          { type: 'log', stream: 'STDERR', level: null, line: '[[[' },
          { type: 'custom', name: 'thing', payload: { __proto__x: [], nested: { deep: {} } } },
          { type: 'fault', kind: 'not-json', line: '{', detail: 'cut' },
          { type: 'gap', detail: 'rotated' },
          { type: 'finish', status: 'failed', error: { code: 'E', message: 'm' } },
        ]
        const events = bodies.map((body, index) => ({
          seq: 3 + index,
          at: START + Math.floor(index / 3),
          attempt: 1,
          body,
        }))
        await store.append({
          workerId: workerId(1),
          tasks: [{ taskId: taskId(1), attempt: 1, after: 2, events, changes: { status: 'RUNNING' } }],
        })
        await reopen()
        expect(await store.events(taskId(1), 2, 100)).toEqual(events)
      })

      it('moves the columns and the cursor with the events', async () => {
        await started()
        await store.append({
          workerId: workerId(1),
          cursor: { stdout: '17.5/2', stderr: '17.4/1' },
          eventSeq: 7,
          workerEvents: [{ at: START, body: { type: 'log', stream: 'STDERR', level: null, line: 'hello' } }],
          tasks: [
            {
              taskId: taskId(1),
              attempt: 1,
              after: 2,
              events: eventsAfter(2, running, { type: 'text_delta', delta: 'x' }),
              changes: { status: 'RUNNING', runningAt: START + 2_000, firstTextAt: START + 2_001 },
            },
          ],
        })
        expect(await store.task(taskId(1))).toMatchObject({
          status: 'RUNNING',
          lastSeq: 4,
          runningAt: START + 2_000,
          firstTextAt: START + 2_001,
          finish: null,
        })
        expect(await store.worker(workerId(1))).toMatchObject({
          cursor: { stdout: '17.5/2', stderr: '17.4/1' },
          eventSeq: 7,
        })
      })

      it('settles a task, its attempt, its output and its worker together', async () => {
        await started()
        const error = { code: 'WORKER_FAILED', message: 'it broke' }
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              taskId: taskId(1),
              attempt: 1,
              after: 2,
              events: eventsAfter(2, running, { type: 'status', taskStatus: 'FAILED', reason: 'it broke' }),
              changes: { status: 'RUNNING', runningAt: START + 1 },
              settle: { ...settlement, status: 'FAILED', error, exitCode: 137 },
            },
          ],
        })
        expect(await store.task(taskId(1))).toMatchObject({
          status: 'FAILED',
          finishedAt: settlement.at,
          error,
          exitCode: 137,
          workerId: workerId(1),
          gpuIds: [gpuId(0)],
        })
        expect(await store.output(taskId(1))).toEqual(settlement.output)
        expect(await store.worker(workerId(1))).toMatchObject({ tasksServed: 1, taskIds: [] })
        expect(await store.activeTasks()).toEqual([])
      })

      it('keeps the rows of artifacts', async () => {
        await started()
        const artifacts = [2, 1].map((n) => ({
          id: artifactId(n),
          name: `${n}.png`,
          mediaType: 'image/png',
          bytes: 2 ** 40 + n,
          sha256: 'ff',
        }))
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              taskId: taskId(1),
              attempt: 1,
              after: 2,
              events: eventsAfter(
                2,
                ...artifacts.map((artifact) => ({ type: 'artifact' as const, artifact })),
              ),
              artifacts,
            },
          ],
        })
        const rows = artifacts.map((artifact) => ({ ...artifact, taskId: taskId(1), attempt: 1 }))
        expect(await store.artifacts(taskId(1))).toEqual([rows[1], rows[0]])
        expect(await store.artifact(artifactId(2))).toEqual(rows[0])
        expect(await store.artifact(artifactId(9))).toBeNull()
        expect(await store.artifacts(taskId(9))).toEqual([])
      })

      it('resolves in the order of the calls, when what was asked for is stored', async () => {
        await started(50)
        const resolved: number[] = []
        const lastSeqs = new Map<number, number>()
        const calls = Array.from({ length: 1_000 }, async (_, call) => {
          const n = 1 + ((call * 7) % 50)
          const after = lastSeqs.get(n) ?? 2
          const count = 1 + (call % 3)
          lastSeqs.set(n, after + count)
          await store.append({
            workerId: workerId(n),
            cursor: { stdout: `${call}`, stderr: '' },
            tasks: [{ taskId: taskId(n), attempt: 1, after, events: deltas(after, count) }],
          })
          resolved.push(call)
        })
        await Promise.all(calls)
        expect(resolved).toEqual(Array.from({ length: 1_000 }, (_, call) => call))
        for (const [n, lastSeq] of lastSeqs) {
          expect((await store.task(taskId(n)))?.lastSeq).toBe(lastSeq)
          expect(await store.events(taskId(n), 2, 1_000)).toEqual(deltas(2, lastSeq - 2))
        }
        expect((await store.worker(workerId(1)))?.cursor.stdout).toBe('950')
      })

      it('refuses only the call whose knowledge is out of date, among many of one commit', async () => {
        await started(20)
        const results = await Promise.allSettled(
          Array.from({ length: 20 }, (_, index) => {
            const n = index + 1
            const after = n === 7 ? 1 : 2
            const attempt = n === 12 ? 2 : 1
            return store.append({
              workerId: workerId(n),
              cursor: { stdout: 'read', stderr: '' },
              tasks: [{ taskId: taskId(n), attempt, after, events: deltas(after, 2) }],
            })
          }),
        )
        const refused = results.flatMap((result, index) => (result.status === 'rejected' ? [index + 1] : []))
        expect(refused).toEqual([7, 12])
        for (const result of results) {
          if (result.status === 'rejected') expect(result.reason).toBeInstanceOf(StaleWriteError)
        }
        expect(results[6]).toMatchObject({ reason: { taskId: taskId(7), code: 'STALE_WRITE' } })
        expect((await store.task(taskId(7)))?.lastSeq).toBe(2)
        expect((await store.worker(workerId(7)))?.cursor.stdout).toBe('')
        expect((await store.task(taskId(8)))?.lastSeq).toBe(4)
        expect((await store.worker(workerId(8)))?.cursor.stdout).toBe('read')
      })

      it('refuses the same events a second time, also while the first are being written', async () => {
        await started()
        const once = {
          workerId: workerId(1),
          tasks: [{ taskId: taskId(1), attempt: 1, after: 2, events: deltas(2, 3) }],
        }
        const results = await Promise.allSettled([store.append(once), store.append(once)])
        expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
        await expect(store.append(once)).rejects.toThrow(StaleWriteError)
        expect(await store.events(taskId(1), 0, 100)).toHaveLength(5)
      })

      it('writes nothing of a call when one of its tasks is stale', async () => {
        await started(2)
        await expect(
          store.append({
            workerId: workerId(1),
            cursor: { stdout: 'x', stderr: '' },
            tasks: [
              { taskId: taskId(1), attempt: 1, after: 2, events: deltas(2, 1) },
              { taskId: taskId(2), attempt: 1, after: 5, events: deltas(5, 1) },
            ],
          }),
        ).rejects.toMatchObject({ code: 'STALE_WRITE', taskId: taskId(2) })
        expect((await store.task(taskId(1)))?.lastSeq).toBe(2)
        expect((await store.worker(workerId(1)))?.cursor.stdout).toBe('')
      })

      it('refuses moves that the table does not have, and anything for an ended or unknown task', async () => {
        await started()
        await store.create([newTask(2)])
        const append = (n: number, attempt: number, after: number, status?: 'RUNNING') =>
          store.append({
            workerId: workerId(1),
            tasks: [
              {
                taskId: taskId(n),
                attempt,
                after,
                events: deltas(after, 1),
                ...(status === undefined ? {} : { changes: { status } }),
              },
            ],
          })
        await expect(append(2, 0, 1, 'RUNNING')).rejects.toThrow(StaleWriteError)
        await expect(append(9, 1, 2)).rejects.toThrow(StaleWriteError)
        await store.append({ workerId: workerId(1), tasks: [settled(1, 2)] })
        await expect(append(1, 1, 3)).rejects.toThrow(StaleWriteError)
        await expect(store.append({ workerId: workerId(1), tasks: [settled(1, 3)] })).rejects.toThrow(
          StaleWriteError,
        )
        expect((await store.task(taskId(1)))?.lastSeq).toBe(3)
        expect((await store.worker(workerId(1)))?.tasksServed).toBe(1)
      })

      it('joins the calls for one task that come in one commit, changes of status included', async () => {
        await started()
        const tasks = (after: number, body: TaskEventBody, changes: object) => [
          { taskId: taskId(1), attempt: 1, after, events: eventsAfter(after, body), ...changes },
        ]
        await Promise.all([
          store.append({
            workerId: workerId(1),
            tasks: tasks(2, running, { changes: { status: 'RUNNING', runningAt: 5 } }),
          }),
          store.append({ workerId: workerId(1), tasks: tasks(3, { type: 'text_delta', delta: 'x' }, {}) }),
          store.append({
            workerId: workerId(1),
            tasks: tasks(4, { type: 'text', content: 'y' }, { changes: { firstTextAt: 6 } }),
          }),
          store.append({ workerId: workerId(1), tasks: [settled(1, 5)] }),
        ])
        expect(await store.task(taskId(1))).toMatchObject({
          status: 'COMPLETED',
          lastSeq: 6,
          runningAt: 5,
          firstTextAt: 6,
          exitCode: 0,
        })
        expect((await store.events(taskId(1), 0, 10)).map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5, 6])
      })

      it('refuses events with a hole, a settlement without its event, and an unknown worker', async () => {
        await started()
        const [first, , third] = deltas(2, 3)
        if (first === undefined || third === undefined) throw new Error('three events')
        const append = (task: object) =>
          store.append({
            workerId: workerId(1),
            tasks: [{ taskId: taskId(1), attempt: 1, after: 2, events: deltas(2, 1), ...task }],
          })
        await expect(append({ events: [first, third] })).rejects.toMatchObject({ code: 'INVALID_WRITE' })
        await expect(append({ events: [{ ...first, at: NaN }] })).rejects.toMatchObject({
          code: 'INVALID_WRITE',
        })
        await expect(append({ events: [{ ...first, body: { type: 'text' } }] })).rejects.toMatchObject({
          code: 'INVALID_WRITE',
        })
        await expect(append({ settle: settlement })).rejects.toMatchObject({ code: 'INVALID_WRITE' })
        for (const status of ['FAILED', 'QUEUED'] as const) {
          await expect(append({ changes: { status } }), status).rejects.toMatchObject({
            code: 'INVALID_WRITE',
          })
        }
        const both = { settle: settlement, requeue: { ...settlement, retryAt: START } }
        await expect(append(both)).rejects.toMatchObject({ code: 'INVALID_WRITE' })
        await expect(append({ requeue: both.requeue })).rejects.toMatchObject({ code: 'INVALID_WRITE' })
        await expect(
          store.append({ workerId: workerId(9), cursor: { stdout: 'x', stderr: '' }, tasks: [] }),
        ).rejects.toMatchObject({ code: 'NOT_FOUND' })
        expect(await store.events(taskId(1), 0, 10)).toHaveLength(2)
      })

      it('settles a task that never started without a worker', async () => {
        await store.create([newTask(1)])
        await store.append({
          workerId: workerId(9),
          tasks: [
            {
              taskId: taskId(1),
              attempt: 0,
              after: 1,
              events: [
                {
                  seq: 2,
                  at: START,
                  attempt: 0,
                  body: { type: 'status', taskStatus: 'FAILED', reason: 'no GPU' },
                },
              ],
              settle: { ...settlement, status: 'FAILED', output: { text: null, result: null, usage: null } },
            },
          ],
        })
        expect(await store.task(taskId(1))).toMatchObject({ status: 'FAILED', attempt: 0, workerId: null })
      })

      it('shows readers all of a call or nothing of it', async () => {
        await started()
        const seen = new Set<number>()
        const written = new AbortController()
        const reading = (async () => {
          while (!written.signal.aborted) {
            const [task, events] = [await store.task(taskId(1)), await store.events(taskId(1), 0, 10_000)]
            expect(events.length).toBeGreaterThanOrEqual(task?.lastSeq ?? 0)
            seen.add((events.length - 2) % 10)
          }
        })()
        for (let after = 2; after < 1_000; after += 10) {
          await store.append({
            workerId: workerId(1),
            tasks: [{ taskId: taskId(1), attempt: 1, after, events: deltas(after, 10) }],
          })
        }
        written.abort()
        await reading
        expect([...seen]).toEqual([0])
      })

      it('reads no text of NULs and lone surrogates where the database may not hold them', async () => {
        await started()
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              ...settled(1, 2),
              settle: {
                ...settlement,
                error: { code: 'X', message: 'a\u0000b' },
                output: { text: 'c\u0000d\ud800', result: { t: 'e\u0000f' }, usage: null },
              },
            },
          ],
        })
        expect((await store.task(taskId(1)))?.error?.message).toBe('a\ufffdb')
        expect(await store.output(taskId(1))).toEqual({
          text: 'c\ufffdd\ufffd',
          result: { t: 'e\u0000f' },
          usage: null,
        })
      })
    })

    describe('events', () => {
      it('gives any stretch of a log, across chunks of any size', async () => {
        await started()
        let after = 2
        for (const count of [1, 1, 5, 1_500, 1, 2_500, 1, 1]) {
          await store.append({
            workerId: workerId(1),
            tasks: [{ taskId: taskId(1), attempt: 1, after, events: deltas(after, count) }],
          })
          after += count
        }
        const all = await store.events(taskId(1), 0, 100_000)
        expect(all.map(({ seq }) => seq)).toEqual(Array.from({ length: after }, (_, index) => index + 1))
        for (const [from, limit] of [
          [0, 1],
          [3, 4],
          [1_000, 1_000],
          [after - 1, 10],
          [after, 10],
          [5, 0],
        ] as const) {
          expect(await store.events(taskId(1), from, limit)).toEqual(all.slice(from, from + limit))
        }
        expect(await store.events(taskId(9), 0, 10)).toEqual([])
      })

      it('stays the same when it is compacted, while it is being read', async () => {
        await started()
        for (let after = 2; after < 3_000; after++) {
          await store.append({
            workerId: workerId(1),
            tasks: [{ taskId: taskId(1), attempt: 1, after, events: deltas(after, 1) }],
          })
        }
        const before = await store.events(taskId(1), 0, 10_000)
        const [, during] = await Promise.all([store.compact(taskId(1)), store.events(taskId(1), 0, 10_000)])
        expect(during).toEqual(before)
        expect(await store.events(taskId(1), 0, 10_000)).toEqual(before)
        await store.compact(taskId(1))
        expect(await store.events(taskId(1), 1_234, 10)).toEqual(before.slice(1_234, 1_244))
        await store.compact(taskId(9))
      })

      it('keeps events larger than a chunk', async () => {
        await started()
        const content = 'é'.repeat(700_000)
        const events = eventsAfter(2, { type: 'text', content }, running, { type: 'text', content })
        await store.append({
          workerId: workerId(1),
          tasks: [{ taskId: taskId(1), attempt: 1, after: 2, events }],
        })
        await store.compact(taskId(1))
        expect(await store.events(taskId(1), 2, 10)).toEqual(events)
      })
    })

    describe('output', () => {
      it('is put together from the events while a task runs', async () => {
        await started()
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              taskId: taskId(1),
              attempt: 1,
              after: 2,
              events: eventsAfter(
                2,
                { type: 'text_delta', delta: 'Hel' },
                { type: 'usage', values: { a: 1, b: 2 } },
                { type: 'text_delta', delta: 'lo' },
                { type: 'usage', values: { b: 3 } },
              ),
            },
          ],
        })
        expect(await store.output(taskId(1))).toEqual({ text: 'Hello', result: null, usage: { a: 1, b: 3 } })
        await expect(store.output(taskId(9))).rejects.toMatchObject({ code: 'NOT_FOUND' })
      })
    })

    describe('lists', () => {
      const page = async (filter: object, first = 100) => {
        const { tasks } = await store.tasks({ filter, first, after: null })
        return tasks.map(({ createdAt }) => createdAt - START)
      }

      it('pages newest first, without a gap or a repeat', async () => {
        for (const n of [3, 1, 5, 2, 4]) await store.create([newTask(n)])
        const first = await store.tasks({ filter: {}, first: 2, after: null })
        expect(first.tasks.map(({ id }) => id)).toEqual([taskId(5), taskId(4)])
        expect(first.hasNextPage).toBe(true)
        const second = await store.tasks({ filter: {}, first: 3, after: taskId(4) })
        expect(second.tasks.map(({ id }) => id)).toEqual([taskId(3), taskId(2), taskId(1)])
        expect(second.hasNextPage).toBe(false)
        expect(await store.tasks({ filter: {}, first: 2, after: taskId(1) })).toEqual({
          tasks: [],
          hasNextPage: false,
        })
      })

      it('orders by the time of creation, and within a moment by its order', async () => {
        const times = [5, 3, 3, 3, 9, 1]
        for (const [n, at] of times.entries()) {
          await store.create([newTask(n, { createdAt: START + at, labels: { all: 'yes' } })])
        }
        const expected = [4, 0, 3, 2, 1, 5].map(taskId)
        for (const filter of [{}, { label: { key: 'all', value: 'yes' } }, { status: ['QUEUED' as const] }]) {
          const ids = []
          for (let after = null as (typeof expected)[number] | null; ;) {
            const { tasks, hasNextPage } = await store.tasks({ filter, first: 1, after })
            ids.push(...tasks.map(({ id }) => id))
            after = ids.at(-1) ?? null
            if (!hasNextPage) break
          }
          expect(ids).toEqual(expected)
        }
        const { tasks } = await store.tasks({
          filter: { createdBefore: START + 9, createdAfter: START + 1 },
          first: 2,
          after: taskId(0),
        })
        expect(tasks.map(({ id }) => id)).toEqual([taskId(3), taskId(2)])
        expect(await store.tasks({ filter: {}, first: 2, after: taskId(99) })).toEqual({
          tasks: [],
          hasNextPage: false,
        })
      })

      it('filters by status, preset, label and time, in every combination', async () => {
        for (let n = 1; n <= 40; n++) {
          await store.create([
            newTask(n, {
              presetId: presetId(n % 2 === 0 ? 'even/inference' : 'odd/inference'),
              labels: { third: String(n % 3), ['ke"y']: 'x' },
            }),
          ])
          if (n % 5 === 0) await store.requestCancel(taskId(n), { at: START, reason: null })
          if (n % 5 === 1) await store.claim([claimOf(n)])
        }
        const all = Array.from({ length: 40 }, (_, index) => 40 - index)
        const filters = {
          status: { value: ['CANCELLED', 'STARTING'], keep: (n: number) => n % 5 <= 1 },
          presetId: { value: 'even/inference', keep: (n: number) => n % 2 === 0 },
          label: { value: { key: 'third', value: '1' }, keep: (n: number) => n % 3 === 1 },
          createdAfter: { value: START + 4, keep: (n: number) => n > 4 },
          createdBefore: { value: START + 37, keep: (n: number) => n < 37 },
        }
        const names = Object.keys(filters) as (keyof typeof filters)[]
        for (let mask = 0; mask < 1 << names.length; mask++) {
          const chosen = names.filter((_, bit) => (mask & (1 << bit)) !== 0)
          const filter = Object.fromEntries(chosen.map((name) => [name, filters[name].value]))
          const expected = all.filter((n) => chosen.every((name) => filters[name].keep(n)))
          expect(await page(filter), chosen.join()).toEqual(expected)
          expect(await page(filter, 2), chosen.join()).toEqual(expected.slice(0, 2))
          expect(await store.countTasks(filter, 40), chosen.join()).toBe(expected.length)
          const matching = await store.matching(all.map(taskId), filter)
          expect(new Set(matching.map(({ id }) => id)), chosen.join()).toEqual(new Set(expected.map(taskId)))
        }
        expect(await page({ status: [] })).toEqual([])
        expect(await page({ label: { key: 'third', value: '%' } })).toEqual([])
        expect(await page({ label: { key: 'ke"y', value: 'x' } })).toHaveLength(40)
      })

      it('counts up to the limit only', async () => {
        for (let n = 1; n <= 5; n++) await store.create([newTask(n)])
        expect(await store.countTasks({}, 5)).toBe(5)
        expect(await store.countTasks({}, 4)).toBeNull()
        expect(await store.countTasks({ presetId: 'no/such' }, 0)).toBe(0)
      })

      it('finds words in the input, the output and the error, in any case', async () => {
        await started(3)
        await store.create([newTask(4, { input: { prompt: 'Straße über "Äpfel" C:\\temp', n: 'ПРИВЕТ' } })])
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              ...settled(1, 2),
              settle: { ...settlement, output: { text: 'The Quick Fox', result: null, usage: null } },
            },
          ],
        })
        await store.append({
          workerId: workerId(2),
          tasks: [
            {
              ...settled(2, 2),
              events: eventsAfter(2, { type: 'status', taskStatus: 'FAILED', reason: null }),
              settle: {
                ...settlement,
                status: 'FAILED',
                error: { code: 'E', message: 'Out of Memory' },
                output: { text: null, result: null, usage: null },
              },
            },
          ],
        })
        expect(await page({ text: 'quick' })).toEqual([1])
        expect(await page({ text: '  FOX   task ' })).toEqual([1])
        expect(await page({ text: 'fox nowhere' })).toEqual([])
        expect(await page({ text: 'memory OUT' })).toEqual([2])
        expect(await page({ text: 'task', status: ['STARTING'] })).toEqual([3])
        for (const text of ['ÜBER', 'straße', 'äpfel', '"ÄPFEL"', 'c:\\temp', 'привет', 'Привет']) {
          expect(await page({ text }), text).toEqual([4])
        }
        expect(await store.countTasks({ text: 'task' }, 10)).toBe(3)
        expect((await store.matching([taskId(1), taskId(2)], { text: 'fox' })).map(({ id }) => id)).toEqual([
          taskId(1),
        ])
      })

      it('takes what means something elsewhere as the words that are in it', async () => {
        await store.create([newTask(1, { input: '100% sure_thing [a-z] back\\slash' })])
        await store.create([newTask(2, { input: '1000 surexthing b backslash' })])
        for (const text of ['100%', 'sure_', '[a-z]', 'back\\slash', '"sure"', 'sure:(100)'])
          expect(await page({ text }), text).toEqual([1])
        for (const text of ['%', '_', "' OR 1=1 --", 'NOT b', 'sur*'])
          expect(await page({ text }), text).toEqual([])
      })

      it('finds the one among many that no index tells', async () => {
        for (let n = 1; n <= 300; n++) {
          await store.create([newTask(n, { input: n === 7 ? 'needle' : 'hay', labels: { all: 'yes' } })])
        }
        expect(await page({ text: 'needle' })).toEqual([7])
        expect(await page({ text: 'hay' }, 50)).toEqual(Array.from({ length: 50 }, (_, index) => 300 - index))
        expect(await page({ label: { key: 'all', value: 'yes' }, createdBefore: START + 3 })).toEqual([2, 1])
        expect(await store.countTasks({ text: 'hay' }, 1_000)).toBe(299)
        expect(await store.countTasks({ text: 'hay' }, 200)).toBeNull()
      })

      it('refuses a search that is too long', async () => {
        const text = Array.from({ length: 100 }, (_, n) => `word${n}`).join(' ')
        await expect(store.tasks({ filter: { text }, first: 1, after: null })).rejects.toMatchObject({
          code: 'INVALID_FILTER',
        })
      })

      it('gives tasks by id, and those that are active, oldest first', async () => {
        await started(2)
        await store.create([newTask(3)])
        await store.append({ workerId: workerId(1), tasks: [settled(1, 2)] })
        expect((await store.activeTasks()).map(({ id }) => id)).toEqual([taskId(2), taskId(3)])
        const some = await store.tasksById([taskId(1), taskId(9), taskId(3)])
        expect(some.map(({ id }) => id).sort()).toEqual([taskId(1), taskId(3)])
        expect(await store.tasksById([])).toEqual([])
        expect(await store.matching([], {})).toEqual([])
      })
    })

    describe('workers', () => {
      it('are updated field by field', async () => {
        await started()
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
        await started()
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
        await started(3)
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
        await started()
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
