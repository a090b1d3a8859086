import { StaleWriteError, type TaskEventBody, type TaskStore } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import {
  artifactId,
  deltas,
  eventsAfter,
  gpuId,
  newTask,
  running,
  settlement,
  START,
  startTasks,
  settledTask,
  taskId,
  workerId,
} from './fixtures.ts'
import { openForEach, type Place } from './opened-store.ts'

/** How a task store takes what workers say, and gives it back, whatever its database. */
export function describeAppend(name: string, openPlace: () => Promise<Place>): void {
  describe(name, () => {
    let store: TaskStore
    const { reopen } = openForEach(openPlace, (opened) => {
      store = opened
    })

    describe('append', () => {
      it('stores events of every kind as they are', async () => {
        await startTasks(store)
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
        await startTasks(store)
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
        await startTasks(store)
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
        await startTasks(store)
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
        await startTasks(store, 50)
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
        await startTasks(store, 20)
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
        await startTasks(store)
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
        await startTasks(store, 2)
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
        await startTasks(store)
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
        await store.append({ workerId: workerId(1), tasks: [settledTask(1, 2)] })
        await expect(append(1, 1, 3)).rejects.toThrow(StaleWriteError)
        await expect(store.append({ workerId: workerId(1), tasks: [settledTask(1, 3)] })).rejects.toThrow(
          StaleWriteError,
        )
        expect((await store.task(taskId(1)))?.lastSeq).toBe(3)
        expect((await store.worker(workerId(1)))?.tasksServed).toBe(1)
      })

      it('joins the calls for one task that come in one commit, changes of status included', async () => {
        await startTasks(store)
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
          store.append({ workerId: workerId(1), tasks: [settledTask(1, 5)] }),
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
        await startTasks(store)
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
        await startTasks(store)
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
        await startTasks(store)
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              ...settledTask(1, 2),
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
        await startTasks(store)
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
        await startTasks(store)
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
        await startTasks(store)
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
        await startTasks(store)
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
  })
}
