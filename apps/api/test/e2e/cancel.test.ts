import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RUNNERS, CONNECTED, FINISHED, script } from './scripts.ts'
import { FINAL, faultsOf, TestService } from './service.ts'

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`cancel with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({
        runner,
        env: { GPUS: 'simulated:1x8192' },
        presets: {
          long: script(`${CONNECTED}; sleep 600`, { gpus: { count: 1 } }),
          free: script(`${CONNECTED}; sleep 600`),
          stubborn: script(`trap '' TERM; ${CONNECTED}; while :; do sleep 1; done`, {
            timeouts: { stop_grace: '1s' },
          }),
          short: script(`${CONNECTED}; ${FINISHED}`),
        },
      })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    test('ends a queued task in the answer itself', async () => {
      const holder = await service.submit('long')
      await service.reached(holder, 'RUNNING')
      const waiting = await service.submit('long')
      expect(await service.cancel(waiting, 'not needed')).toMatchObject({ status: 'CANCELLED', attempt: 0 })
      const events = await service.events(waiting)
      expect(events.map((event) => event.taskStatus)).toEqual(['QUEUED', 'CANCELLED'])
      expect(events.at(-1)).toMatchObject({ reason: expect.stringContaining('not needed') as string })
      await service.cancel(holder)
      await service.ended(holder)
    })

    test('of a starting task stops its worker', async () => {
      const id = await service.submit('free')
      await service.reached(id, 'STARTING')
      const answered = await service.cancel(id)
      expect(answered.cancelRequestedAt).not.toBeNull()
      expect(await service.ended(id)).toMatchObject({ status: 'CANCELLED' })
    })

    test('of a running task stops its worker and frees its GPU for the next', async () => {
      const first = await service.submit('long')
      await service.reached(first, 'RUNNING')
      const second = await service.submit('long')
      expect(await service.task(second)).toMatchObject({
        status: 'QUEUED',
        explanation: 'It needs 1 GPU; 0 of the 1 that it may use are free.',
      })
      expect(await service.cancel(first)).toMatchObject({ status: 'RUNNING' })
      expect(await service.ended(first)).toMatchObject({ status: 'CANCELLED', exitCode: 143 })
      await service.reached(second, 'RUNNING')
      await service.cancel(second)
      await service.ended(second)
    })

    test('of a worker that ignores SIGTERM kills it after the grace period', async () => {
      const id = await service.submit('stubborn')
      await service.reached(id, 'RUNNING')
      await service.cancel(id)
      expect(await service.ended(id)).toMatchObject({ status: 'CANCELLED', exitCode: 137 })
    })

    test('of an ended task gives the task as it ended', async () => {
      const id = await service.submit('short')
      await service.ended(id)
      expect(await service.cancel(id)).toMatchObject({ status: 'COMPLETED', cancelRequestedAt: null })
    })

    test('asked twice keeps the first reason', async () => {
      const id = await service.submit('free')
      await service.reached(id, 'RUNNING')
      const first = await service.cancel(id, 'first')
      const second = await service.cancel(id, 'second')
      expect(second.cancelRequestedAt).toBe(first.cancelRequestedAt)
      await service.ended(id)
      expect((await service.task(id)).explanation).toContain('first')
    })

    test('racing with the end of its task leaves exactly one final state, 100 times', async () => {
      const statuses = new Map<string, number>()
      const lane = async (from: number): Promise<void> => {
        for (let n = from; n < 100; n += 10) {
          const id = await service.submit('short')
          // Spread over the whole life of the task: after its n-th event, of about six.
          await service.events(id, 0, (event) => event.seq >= 1 + (n % 6))
          await service.cancel(id)
          const task = await service.ended(id)
          expect(FINAL).toContain(task.status)
          expect(faultsOf(await service.events(id))).toEqual([])
          statuses.set(task.status, (statuses.get(task.status) ?? 0) + 1)
        }
      }
      await Promise.all(Array.from({ length: 10 }, (_, from) => lane(from)))
      expect([...statuses.values()].reduce((sum, count) => sum + count, 0)).toBe(100)
      expect([...statuses.keys()].sort()).toEqual(['CANCELLED', 'COMPLETED'])
    })
  })
}
