import { type TaskStore } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import {
  claimOf,
  eventsAfter,
  newTask,
  presetId,
  settlement,
  START,
  startTasks,
  settledTask,
  taskId,
  workerId,
} from './fixtures.ts'
import { openForEach, type Place } from './opened-store.ts'

/** How a task store lists and finds tasks, whatever its database. */
export function describeLists(name: string, openPlace: () => Promise<Place>): void {
  describe(name, () => {
    let store: TaskStore
    openForEach(openPlace, (opened) => {
      store = opened
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
        await startTasks(store, 3)
        await store.create([newTask(4, { input: { prompt: 'Straße über "Äpfel" C:\\temp', n: 'ПРИВЕТ' } })])
        await store.append({
          workerId: workerId(1),
          tasks: [
            {
              ...settledTask(1, 2),
              settle: { ...settlement, output: { text: 'The Quick Fox', result: null, usage: null } },
            },
          ],
        })
        await store.append({
          workerId: workerId(2),
          tasks: [
            {
              ...settledTask(2, 2),
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
        await startTasks(store, 2)
        await store.create([newTask(3)])
        await store.append({ workerId: workerId(1), tasks: [settledTask(1, 2)] })
        expect((await store.activeTasks()).map(({ id }) => id)).toEqual([taskId(2), taskId(3)])
        const some = await store.tasksById([taskId(1), taskId(9), taskId(3)])
        expect(some.map(({ id }) => id).sort()).toEqual([taskId(1), taskId(3)])
        expect(await store.tasksById([])).toEqual([])
        expect(await store.matching([], {})).toEqual([])
      })
    })
  })
}
