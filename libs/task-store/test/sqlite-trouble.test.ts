import { renameSync, rmSync } from 'node:fs'
import { silentLogger, type TaskStore } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openTaskStore } from '../src/index.ts'
import { newTask, taskId, temporaryFolder } from './fixtures.ts'

describe('a database in trouble', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let file: string
  let store: TaskStore

  const open = (): Promise<TaskStore> => openTaskStore({ url: `file:${file}`, logger: silentLogger })
  const close = (): PromiseLike<void> => store[Symbol.asyncDispose]()

  beforeEach(async () => {
    folder = temporaryFolder()
    file = `${folder.path}/tasks.db`
    store = await open()
    await store.create([newTask(1)])
  })
  afterEach(async () => {
    await close()
    folder[Symbol.dispose]()
  })

  it('that was there and is gone is not made anew by itself, but where its mark is removed too', async () => {
    await close()
    rmSync(file)
    await expect(open()).rejects.toMatchObject({
      code: 'DATABASE_MISSING',
      message: expect.stringContaining(`${file}.lock`) as string,
    })
    rmSync(`${file}.lock`)
    store = await open()
    expect(await store.task(taskId(1))).toBeNull()
  })

  it('that is removed while it is in use takes nothing more, until it is put back', async () => {
    expect(await store.health()).toEqual({ ok: true, detail: 'takes writes' })
    renameSync(file, `${file}.away`)
    await vi.waitFor(
      async () => {
        expect(await store.health()).toMatchObject({
          ok: false,
          detail: expect.stringContaining('removed') as string,
        })
      },
      { timeout: 5_000 },
    )
    await expect(store.create([newTask(2)])).rejects.toMatchObject({ code: 'DATABASE_UNAVAILABLE' })
    renameSync(`${file}.away`, file)
    await store.create([newTask(3)])
    await vi.waitFor(async () => {
      expect(await store.health()).toMatchObject({ ok: true })
    })
    await close()
    store = await open()
    expect((await store.activeTasks()).map(({ id }) => id)).toEqual([taskId(1), taskId(3)])
  })

  it('that another program has locked says so within a second or so, and takes writes again afterwards', async () => {
    const other = new Database(file)
    other.exec('BEGIN EXCLUSIVE')
    const start = performance.now()
    expect(await store.health()).toMatchObject({
      ok: false,
      detail: expect.stringContaining('no write for 1 s') as string,
    })
    expect(performance.now() - start).toBeLessThan(3_000)
    other.exec('ROLLBACK')
    other.close()
    await vi.waitFor(async () => {
      expect(await store.health()).toMatchObject({ ok: true })
    })
  })

  it('is made durable for all who ask, also where they ask at once or nothing was written since', async () => {
    await store.sync()
    await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        await store.create([newTask(index + 10)])
        await store.sync()
      }),
    )
    await store.sync()
    expect(await store.countTasks({}, 100)).toBe(51)
  })
})
