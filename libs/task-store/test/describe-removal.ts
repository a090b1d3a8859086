import type { TaskAppend, TaskId, TaskStore } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import {
  artifactId,
  claimOf,
  completed,
  deltas,
  eventsAfter,
  newTask,
  newWorker,
  settlement,
  START,
  taskId,
  workerId,
} from './fixtures.ts'
import { openForEach, type Place } from './opened-store.ts'

/** How a task store forgets, whatever its database. */
export function describeRemoval(name: string, openPlace: () => Promise<Place>): void {
  describe(name, () => {
    let store: TaskStore
    const { reopen } = openForEach(openPlace, (opened) => {
      store = opened
    })

    /** A task that ends so long after the start, with so many artifacts of 1,000 bytes and a label. */
    async function ended(n: number, endsAfterMs = n, artifacts = 0): Promise<void> {
      await store.create([newTask(n, { labels: { team: 'red' }, idempotencyKey: `key ${n}` })])
      await store.claim([claimOf(n)])
      const made = Array.from({ length: artifacts }, (_, at) => ({
        ...{
          id: artifactId(n * 100 + at),
          name: 'a.bin',
          mediaType: 'x/y',
          bytes: 1_000,
          sha256: '0'.repeat(64),
        },
      }))
      const settle: TaskAppend = {
        ...{ taskId: taskId(n), attempt: 1, after: 2, artifacts: made },
        events: eventsAfter(
          2,
          ...made.map((artifact) => ({ type: 'artifact' as const, artifact })),
          completed,
        ),
        settle: { ...settlement, at: START + endsAfterMs },
      }
      await store.append({ workerId: workerId(n), tasks: [settle] })
      await store.updateWorker(workerId(n), { status: 'EXITED', exitedAt: START + endsAfterMs })
    }

    async function finish(ids: readonly TaskId[]): Promise<void> {
      for (let left = ids; left.length > 0;) left = left.slice(await store.continueRemoval(left))
    }

    const old = (limit: number, before = START + 1_000_000, withArtifacts = false) =>
      store.endedTasks({ before, limit, withArtifacts }).then((tasks) => tasks.map(({ id }) => id))

    const last = (limit: number, before = START + 1_000_000) =>
      store.lastEnded({ before, limit }).then((tasks) => tasks.map(({ id }) => id))

    it('gives the tasks that ended before a moment, those first that ended first, and no others', async () => {
      await ended(1, 300)
      await ended(2, 100)
      await ended(3, 200)
      await store.create([newTask(4)])
      await store.create([newTask(5)])
      await store.claim([claimOf(5)])
      expect(await old(10)).toEqual([taskId(2), taskId(3), taskId(1)])
      expect(await old(2)).toEqual([taskId(2), taskId(3)])
      expect(await old(10, START + 200)).toEqual([taskId(2)])
      expect(await last(2)).toEqual([taskId(1), taskId(3)])
      expect(await last(2, START + 300)).toEqual([taskId(3), taskId(2)])
    })

    it('gives those with artifacts by the age of these, each once', async () => {
      await ended(1, 300, 2)
      await ended(2, 100, 0)
      await ended(3, 200, 3)
      expect(await old(10, START + 1_000_000, true)).toEqual([taskId(1), taskId(3)])
      expect(await old(10, START + 250, true)).toEqual([taskId(3)])
    })

    it('takes ended tasks out of everything that can be read, and leaves all others as they are', async () => {
      await ended(1, 100, 1)
      await ended(2, 200, 1)
      await store.create([newTask(3)])
      await store.create([newTask(4)])
      await store.claim([claimOf(4)])
      const begun = await store.beginRemoval([1, 3, 4, 99].map(taskId))
      expect(begun).toEqual([{ id: taskId(1), artifacts: [artifactId(100)] }])
      expect(await store.beginRemoval([taskId(1)])).toEqual([])
      expect(await store.beginRemoval([])).toEqual([])
      for (const check of [
        async () => {
          expect(await store.task(taskId(1))).toBeNull()
          expect(await store.tasksById([taskId(1), taskId(2)])).toHaveLength(1)
          expect(await store.artifacts(taskId(1))).toEqual([])
          expect(await store.artifact(artifactId(100))).toBeNull()
          expect(await store.attempts(taskId(1))).toEqual([])
          expect(await store.submitted('ann', 'key 1')).toBeNull()
          await expect(store.output(taskId(1))).rejects.toMatchObject({ code: 'NOT_FOUND' })
          expect(await store.requestCancel(taskId(1), { at: 1, reason: null })).toBeNull()
          for (const filter of [
            {},
            { label: { key: 'team', value: 'red' } },
            { status: ['COMPLETED'] } as const,
          ]) {
            const { tasks } = await store.tasks({ filter, first: 10, after: null })
            expect(tasks.map(({ id }) => id)).not.toContain(taskId(1))
            expect(tasks.map(({ id }) => id)).toContain(taskId(2))
          }
          expect(await old(10)).toEqual([taskId(2)])
          expect(await last(10)).toEqual([taskId(2)])
          expect((await store.activeTasks()).map(({ id }) => id)).toEqual([taskId(3), taskId(4)])
          expect(await store.artifact(artifactId(200))).not.toBeNull()
        },
      ]) {
        await check()
        await reopen()
        await check()
        await finish([taskId(1)])
        await check()
      }
    })

    it('tells what has begun and is not over, also after a restart', async () => {
      await ended(1, 100, 3)
      await ended(2, 200)
      await store.beginRemoval([taskId(1), taskId(2)])
      await reopen()
      expect(await store.removals(10)).toEqual([
        { id: taskId(1), artifacts: [100, 101, 102].map(artifactId) },
        { id: taskId(2), artifacts: [] },
      ])
      expect(await store.removals(1)).toHaveLength(1)
      await finish([taskId(1), taskId(2)])
      expect(await store.removals(10)).toEqual([])
      expect(await store.countTasks({}, 10)).toBe(0)
      // Somebody else was faster.
      expect(await store.continueRemoval([taskId(1)])).toBe(1)
    })

    it('frees the idempotency key with the task', async () => {
      await ended(1)
      await store.beginRemoval([taskId(1)])
      const again = await store.create([newTask(2, { idempotencyKey: 'key 1' })])
      expect(again).toMatchObject({ tasks: [{ duplicate: false }] })
    })

    it('removes many events from their end on, so that a reader finds no hole', async () => {
      await store.create([newTask(1)])
      await store.claim([claimOf(1)])
      const line = 'x'.repeat(200_000)
      let after = 2
      for (let n = 0; n < 120; n++, after += 1)
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              taskId: taskId(1),
              attempt: 1,
              after,
              events: eventsAfter(after, { type: 'text_delta', delta: line }),
            },
          ],
        })
      await store.append({
        workerId: workerId(1),
        tasks: [
          { taskId: taskId(1), attempt: 1, after, events: eventsAfter(after, completed), settle: settlement },
        ],
      })
      await store.beginRemoval([taskId(1)])
      let calls = 0
      for (let gone = 0; gone === 0; calls++) {
        gone = await store.continueRemoval([taskId(1)])
        const seqs = (await store.events(taskId(1), 0, 1_000)).map(({ seq }) => seq)
        expect(seqs).toEqual(seqs.map((_, at) => at + 1))
      }
      expect(calls).toBeGreaterThan(1)
      expect(await store.events(taskId(1), 0, 1_000)).toEqual([])
    })

    it('refuses what is still written to a task that is being removed', async () => {
      await ended(1)
      await store.beginRemoval([taskId(1)])
      const append = store.append({
        workerId: workerId(1),
        tasks: [{ taskId: taskId(1), attempt: 1, after: 3, events: deltas(3, 1) }],
      })
      await expect(append).rejects.toMatchObject({ code: 'STALE_WRITE' })
      await store.recordRelease(taskId(1), 1, { stoppedAt: START })
      await store.compact(taskId(1))
      await finish([taskId(1)])
      await store.recordRelease(taskId(1), 1, { stoppedAt: START })
    })

    it('removes workers that exited before a moment, with their logs, and no others', async () => {
      for (const n of [1, 2, 3]) {
        await store.createWorker(newWorker(n))
        for (let at = 0; at < 10; at++)
          await store.append({
            workerId: workerId(n),
            workerEvents: [{ at, body: { type: 'text_delta', delta: 'x' } }],
            tasks: [],
          })
      }
      for (const n of [1, 2])
        await store.updateWorker(workerId(n), { status: 'EXITED', exitedAt: START + n * 1_000 })
      while (!(await store.removeWorkers(START + 2_000))) await Promise.resolve()
      expect(await store.worker(workerId(1))).toBeNull()
      expect(await store.workerLog(workerId(1), 0, 100)).toEqual([])
      for (const n of [2, 3]) {
        expect(await store.worker(workerId(n))).not.toBeNull()
        expect(await store.workerLog(workerId(n), 0, 100)).toHaveLength(10)
      }
    })

    it('knows which artifacts have a row, and what all of them hold', async () => {
      await ended(1, 100, 2)
      await ended(2, 100, 1)
      expect((await store.usage()).artifactBytes).toBe(3_000)
      const asked = [
        ...Array.from({ length: 3_000 }, (_, n) => artifactId(n + 1_000)),
        artifactId(100),
        artifactId(200),
      ]
      expect([...(await store.knownArtifacts(asked))].sort()).toEqual([artifactId(100), artifactId(200)])
      await store.beginRemoval([taskId(1)])
      await finish([taskId(1)])
      await reopen()
      expect((await store.usage()).artifactBytes).toBe(1_000)
      expect(await store.knownArtifacts([artifactId(100), artifactId(200)])).toEqual(
        new Set([artifactId(200)]),
      )
    })

    it('tells how large it is, and gives back what is not needed', async () => {
      const usage = await store.usage()
      expect(usage.databaseBytes).toBeGreaterThan(0)
      expect(usage.fileBytes).toBeGreaterThanOrEqual(usage.databaseBytes)
      expect(await store.giveSpaceBack()).toBe(false)
    })
  })
}
