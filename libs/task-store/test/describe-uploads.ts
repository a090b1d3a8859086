import { type Artifact, SERVICE, type TaskStore, type Upload } from '@gpu-service/tasks'
import { describe, expect, it } from 'vitest'
import { artifactId, newTask, START, taskId } from './fixtures.ts'
import { openForEach, type Place } from './opened-store.ts'

const EXPIRES = START + 60_000

/** How a task store keeps files that clients give, whatever its database. */
export function describeUploads(name: string, openPlace: () => Promise<Place>): void {
  describe(name, () => {
    let store: TaskStore
    openForEach(openPlace, (opened) => {
      store = opened
    })

    async function add(n: number, changes: Partial<Upload> = {}): Promise<Upload> {
      const upload: Upload = {
        ...{ id: artifactId(n), owner: 'ann', name: `${n}.wav`, mediaType: 'audio/wav', bytes: 2 ** 32 },
        ...{ sha256: '0'.repeat(64), createdAt: START, expiresAt: EXPIRES + n, ...changes },
      }
      await store.addUpload(upload, SERVICE)
      return upload
    }

    const fileOf = ({ id, mediaType, bytes, sha256 }: Upload, called: string): Artifact => ({
      ...{ id, name: called, mediaType, bytes, sha256 },
    })

    async function end(...numbers: readonly number[]): Promise<void> {
      for (const n of numbers) await store.requestCancel(taskId(n), { at: START + n, reason: null })
    }

    it('are there as they were given, in their order, and counted', async () => {
      const [first, second] = [await add(1), await add(2, { owner: 'bob', name: 'ü\u0001.txt' })]
      expect(await store.uploads([second.id, artifactId(9), first.id])).toEqual(
        expect.arrayContaining([first, second]),
      )
      expect(await store.uploadIds(null, 1)).toEqual([first.id])
      expect(await store.uploadIds(first.id, 5)).toEqual([second.id])
      expect(await store.knownArtifacts([first.id, artifactId(9)])).toEqual(new Set([first.id]))
      expect((await store.usage()).artifactBytes).toBe(2 ** 33)
      expect(await store.unusedUploadBytes('ann')).toBe(2 ** 32)
    })

    it('belong to tasks under the names of these, in their order', async () => {
      const [one, two] = [await add(1), await add(2)]
      const files = [fileOf(two, 'b'), fileOf(one, 'a'), fileOf(two, 'c')]
      await store.create([newTask(1, { files })])
      expect((await store.task(taskId(1)))?.files).toEqual(files)
      expect(await store.unusedUploadBytes('ann')).toBe(0)
      expect(await store.expiredUploads(EXPIRES + 10, 5)).toEqual([])
      expect(await store.removeUploads([one.id, two.id], 'why')).toEqual([])
    })

    it('are not given to a task, nor to any of its batch, where one is gone', async () => {
      const upload = await add(1)
      expect(await store.removeUploads([upload.id], 'why')).toEqual([upload.id])
      const lost = newTask(2, { files: [fileOf(upload, 'a')] })
      expect(await store.create([newTask(1), lost])).toEqual({ status: 'file-gone', index: 1, id: upload.id })
      expect(await store.task(taskId(1))).toBeNull()
      expect((await store.usage()).artifactBytes).toBe(0)
    })

    it('go when they have expired and no task has them, those first that expired first', async () => {
      const [late, early] = [await add(3), await add(2)]
      expect(await store.expiredUploads(EXPIRES + 3, 5)).toEqual([early.id])
      expect(await store.expiredUploads(EXPIRES + 4, 1)).toEqual([early.id])
      expect(await store.removeUploads([late.id, early.id], 'It expired.')).toHaveLength(2)
      const { entries } = await store.auditLog({
        filter: { action: 'upload.remove' },
        first: 5,
        before: null,
      })
      expect(entries).toMatchObject([{ reason: 'It expired.' }, { target: { kind: 'upload' } }])
    })

    it('go with the last task that has them, told with its removal', async () => {
      const [shared, own] = [await add(1), await add(2)]
      await store.create([
        newTask(1, { files: [fileOf(shared, 'a'), fileOf(own, 'b')] }),
        newTask(2, { files: [fileOf(shared, 'a')] }),
      ])
      await end(1, 2)
      const old = await store.endedTasks({ before: START + 10, limit: 5, withArtifacts: true })
      expect(old.map(({ id }) => id)).toEqual([taskId(1), taskId(2)])
      expect(await store.beginRemoval([taskId(1)])).toEqual([{ id: taskId(1), artifacts: [own.id] }])
      expect((await store.uploads([shared.id, own.id])).map(({ id }) => id)).toEqual([shared.id])
      expect(await store.continueRemoval([taskId(1)])).toBe(1)
      expect((await store.usage()).artifactBytes).toBe(2 ** 32)
      expect(await store.beginRemoval([taskId(2)])).toEqual([{ id: taskId(2), artifacts: [shared.id] }])
      expect(await store.uploadIds(null, 5)).toEqual([])
      expect((await store.usage()).artifactBytes).toBe(0)
    })

    it('go once where several tasks that have them are removed together', async () => {
      const shared = await add(1)
      await store.create([1, 2].map((n) => newTask(n, { files: [fileOf(shared, 'a')] })))
      await end(1, 2)
      const removals = await store.beginRemoval([taskId(1), taskId(2)])
      expect(removals.flatMap(({ artifacts }) => artifacts)).toEqual([shared.id])
      expect((await store.usage()).artifactBytes).toBe(0)
    })
  })
}
