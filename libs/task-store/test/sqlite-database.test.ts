import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { setTimeout as later } from 'node:timers/promises'
import { silentLogger, type TaskStore } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openTaskStore } from '../src/index.ts'
import { claimOf, deltas, newTask, taskId, temporaryFolder, workerId } from './fixtures.ts'

describe('the SQLite database of a task store', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let file: string

  beforeEach(() => {
    folder = temporaryFolder()
    file = `${folder.path}/tasks.db`
  })
  afterEach(() => {
    folder[Symbol.dispose]()
  })

  const open = (url = `file:${file}`): Promise<TaskStore> => openTaskStore({ url, logger: silentLogger })

  /** Makes a database, and changes it behind the store's back. */
  async function made(change: (database: Database.Database) => void = () => undefined): Promise<void> {
    await (await open())[Symbol.asyncDispose]()
    const database = new Database(file)
    change(database)
    database.close()
  }

  /** Opening is refused so, and leaves the file as it was. */
  async function refused(code: string, message: RegExp): Promise<void> {
    const before = readFileSync(file)
    await expect(open()).rejects.toMatchObject({
      name: 'StoreError',
      code,
      message: expect.stringMatching(message) as string,
    })
    expect(readFileSync(file).equals(before)).toBe(true)
    expect(readdirSync(folder.path).sort()).toEqual(['tasks.db', 'tasks.db.lock'])
  }

  describe('its files', () => {
    it('can be read by their owner only, and are two when it is closed', async () => {
      const store = await open()
      await store.create([newTask(1)])
      const names = readdirSync(folder.path).sort()
      expect(names).toEqual(['tasks.db', 'tasks.db-shm', 'tasks.db-wal', 'tasks.db.lock'])
      for (const name of names) expect(statSync(`${folder.path}/${name}`).mode & 0o777, name).toBe(0o600)
      await store[Symbol.asyncDispose]()
      expect(readdirSync(folder.path).sort()).toEqual(['tasks.db', 'tasks.db.lock'])
    })

    it('are found by every form of a file URL', async () => {
      await made()
      for (const url of [`file:${file}`, `file://${file}`]) {
        const store = await open(url)
        expect(await store.countTasks({}, 1)).toBe(0)
        await store[Symbol.asyncDispose]()
      }
      expect(readdirSync(folder.path)).toHaveLength(2)
    })

    it('are refused where no other process could open them again', async () => {
      for (const url of [
        'postgresql://ann:secret@db/gpu',
        'file:',
        'file::memory:',
        'tasks.db',
        'file:a.db?mode=ro',
      ]) {
        await expect(open(url), url).rejects.toMatchObject({ code: 'DATABASE_URL_INVALID' })
        await expect(open(url), url).rejects.not.toThrow(/secret/)
      }
      await expect(open(`file:${folder.path}/no/such/folder/tasks.db`)).rejects.toMatchObject({
        code: 'DATABASE_UNAVAILABLE',
      })
    })
  })

  describe('its owner', () => {
    it('is one at a time, whatever the name of the file', async () => {
      const store = await open()
      symlinkSync(file, `${folder.path}/other.db`)
      for (const name of ['tasks.db', 'other.db']) {
        const start = performance.now()
        await expect(open(`file:${folder.path}/${name}`)).rejects.toMatchObject({
          code: 'DATABASE_IN_USE',
          message: expect.stringContaining(file) as string,
        })
        expect(performance.now() - start).toBeLessThan(500)
      }
      await store.create([newTask(1)])
      await store[Symbol.asyncDispose]()
      const next = await open()
      expect(await next.task(taskId(1))).not.toBeNull()
      await next[Symbol.asyncDispose]()
    })

    it('is one process at a time', async () => {
      const store = await open()
      const script = `
        const Database = require('better-sqlite3')
        const lock = new Database(${JSON.stringify(`${file}.lock`)}, { timeout: 0 })
        try { lock.exec('BEGIN EXCLUSIVE'); console.log('free') } catch (error) { console.log(error.code) }`
      const other = () =>
        spawnSync(process.execPath, ['-e', script], {
          cwd: import.meta.dirname,
          encoding: 'utf8',
        }).stdout.trim()
      expect(other()).toBe('SQLITE_BUSY')
      await store[Symbol.asyncDispose]()
      expect(other()).toBe('free')
    })

    it('is let go of where opening fails', async () => {
      writeFileSync(file, 'not a database, but long enough to be looked at as one'.repeat(100))
      await expect(open()).rejects.toMatchObject({ code: 'DATABASE_CORRUPT' })
      await expect(open()).rejects.toMatchObject({ code: 'DATABASE_CORRUPT' })
    })
  })

  describe('its schema', () => {
    it('is left alone, and quickly so, when it is up to date', async () => {
      await made()
      const before = readFileSync(file)
      const start = performance.now()
      const store = await open()
      const tookMs = performance.now() - start
      await store[Symbol.asyncDispose]()
      expect(readFileSync(file).equals(before)).toBe(true)
      expect(tookMs).toBeLessThan(1_000)
    })

    it('is recorded as the command line tool of Prisma does', async () => {
      await made((database) => {
        const rows = database
          .prepare('SELECT finished_at IS NOT NULL AS done, applied_steps_count FROM _prisma_migrations')
          .all()
        expect(rows.length).toBeGreaterThan(0)
        for (const row of rows) expect(row).toEqual({ done: 1, applied_steps_count: 1 })
      })
    })

    it('is refused when a newer version made it', async () => {
      await made((database) => {
        database.exec(
          `INSERT INTO _prisma_migrations SELECT 'x', checksum, finished_at, '29990101000000_future', logs, rolled_back_at, started_at, 1 FROM _prisma_migrations LIMIT 1`,
        )
      })
      await refused('DATABASE_NEWER', /29990101000000_future/)
    })

    it('is refused when a migration was edited or has failed', async () => {
      await made((database) => database.exec(`UPDATE _prisma_migrations SET checksum = 'other'`))
      await refused('MIGRATION_FAILED', /edited/)
      await made(() => undefined).catch(() => undefined)
      const database = new Database(file)
      database.exec(`UPDATE _prisma_migrations SET finished_at = NULL`)
      database.close()
      await refused('MIGRATION_FAILED', /failed on this database before/)
    })

    it('is refused when the tables are of another program', async () => {
      const database = new Database(file)
      database.exec('CREATE TABLE recipes (name TEXT)')
      database.close()
      await expect(open()).rejects.toMatchObject({ code: 'MIGRATION_FAILED' })
      const after = new Database(file)
      expect(after.prepare('SELECT name FROM sqlite_master').all()).toEqual([{ name: 'recipes' }])
      after.close()
    })
  })

  describe('when another program holds its lock', () => {
    it('makes writers wait, without holding up the process or the readers', async () => {
      const store = await open()
      await store.create([newTask(1)])
      const other = new Database(file)
      other.exec('BEGIN IMMEDIATE')
      let turns = 0
      const timer = setInterval(() => turns++, 5)
      const claim = store.claim([claimOf(1)])
      const closing = later(250).then(() => {
        other.exec('ROLLBACK')
        other.close()
      })
      expect(await store.task(taskId(1))).toMatchObject({ status: 'QUEUED' })
      await closing
      expect(await claim).toMatchObject([{ status: 'STARTING' }])
      clearInterval(timer)
      expect(turns).toBeGreaterThan(8)
      await store[Symbol.asyncDispose]()
    })
  })

  describe('when what it holds is damaged', () => {
    async function withLog(change: (database: Database.Database) => void): Promise<TaskStore> {
      const store = await open()
      for (const n of [1, 2]) {
        await store.create([newTask(n)])
        await store.claim([claimOf(n)])
        for (const after of [2, 5]) {
          await store.append({
            workerId: workerId(n),
            tasks: [{ taskId: taskId(n), attempt: 1, after, events: deltas(after, 3) }],
          })
        }
      }
      await store[Symbol.asyncDispose]()
      const database = new Database(file)
      change(database)
      database.close()
      return open()
    }

    it('names the task and the events that cannot be read, and reads all others', async () => {
      const damages = [
        `UPDATE "EventChunk" SET "data" = '[[1,1,[{' WHERE "taskId" = '${taskId(1)}' AND "fromSeq" = 6`,
        `UPDATE "EventChunk" SET "data" = '{}' WHERE "taskId" = '${taskId(1)}' AND "fromSeq" = 6`,
        `UPDATE "EventChunk" SET "data" = '[[1,1,[{"type":"text"},{},{}]]]' WHERE "taskId" = '${taskId(1)}' AND "fromSeq" = 6`,
        `UPDATE "EventChunk" SET "data" = '[]' WHERE "taskId" = '${taskId(1)}' AND "fromSeq" = 6`,
        `UPDATE "EventChunk" SET "format" = 2 WHERE "taskId" = '${taskId(1)}' AND "fromSeq" = 6`,
        `UPDATE "EventChunk" SET "fromSeq" = 7 WHERE "taskId" = '${taskId(1)}' AND "fromSeq" = 6`,
      ]
      for (const damage of damages) {
        const store = await withLog((database) => {
          expect(database.prepare(damage).run().changes).toBe(1)
        })
        const error: unknown = await store.events(taskId(1), 0, 100).catch((error: unknown) => error)
        expect(error, damage).toMatchObject({ code: 'DATABASE_CORRUPT' })
        expect(String(error)).toContain(taskId(1))
        expect(String(error)).toMatch(/ 6 /)
        expect(await store.events(taskId(1), 0, 4)).toHaveLength(4)
        expect(await store.events(taskId(2), 0, 100)).toHaveLength(8)
        await store[Symbol.asyncDispose]()
        folder[Symbol.dispose]()
        folder = temporaryFolder()
        file = `${folder.path}/tasks.db`
      }
    })

    it('tells a log that has a hole', async () => {
      const store = await withLog((database) =>
        database.exec(`DELETE FROM "EventChunk" WHERE "taskId" = '${taskId(1)}' AND "fromSeq" = 3`),
      )
      await expect(store.events(taskId(1), 0, 100)).rejects.toMatchObject({
        code: 'DATABASE_CORRUPT',
        message: expect.stringContaining('3 to 5') as string,
      })
      await store[Symbol.asyncDispose]()
    })

    it('names the row and the column', async () => {
      const store = await withLog((database) =>
        database.exec(`UPDATE "Task" SET "spec" = '{}' WHERE "id" = '${taskId(1)}'`),
      )
      await expect(store.task(taskId(1))).rejects.toMatchObject({
        code: 'DATABASE_CORRUPT',
        message: expect.stringMatching(`spec of task ${taskId(1)}`) as string,
      })
      expect(await store.task(taskId(2))).not.toBeNull()
      await store[Symbol.asyncDispose]()
    })
  })

  it('holds a compacted log in few chunks', async () => {
    const store = await open()
    await store.create([newTask(1)])
    await store.claim([claimOf(1)])
    for (let after = 2; after < 2_500; after++) {
      await store.append({
        workerId: workerId(1),
        tasks: [{ taskId: taskId(1), attempt: 1, after, events: deltas(after, 1) }],
      })
    }
    const before = await store.events(taskId(1), 0, 10_000)
    const database = new Database(file, { readonly: true })
    const chunks = database.prepare('SELECT COUNT(*) FROM "EventChunk"').pluck()
    expect(chunks.get()).toBe(2_500)
    await store.compact(taskId(1))
    expect(chunks.get()).toBe(3)
    database.close()
    expect(await store.events(taskId(1), 0, 10_000)).toEqual(before)
    await store[Symbol.asyncDispose]()
  })

  it('keeps its write-ahead log short under a stream of writes that never pauses, and 200 readers of it', async () => {
    const store = await open()
    await store.create([newTask(1)])
    await store.claim([claimOf(1)])
    let largest = 0
    let isOver = false
    let reads = 0
    const follow = async (): Promise<void> => {
      for (let after = 0; !isOver; reads++) {
        after = (await store.events(taskId(1), after, 1)).at(-1)?.seq ?? after
        await later(1_000)
      }
    }
    const readers = Array.from({ length: 200 }, follow)
    const line = 'x'.repeat(8_000)
    for (let after = 2, n = 0; n < 300; n++, after += 50) {
      const events = deltas(after, 50).map((event) => ({
        ...event,
        body: { type: 'text_delta' as const, delta: line },
      }))
      await store.append({
        workerId: workerId(1),
        tasks: [{ taskId: taskId(1), attempt: 1, after, events }],
      })
      largest = Math.max(largest, statSync(`${file}-wal`).size)
    }
    expect(statSync(file).size).toBeGreaterThan(50_000_000)
    expect(largest).toBeLessThan(64 * 1_024 * 1_024)
    isOver = true
    await Promise.all(readers)
    expect(reads).toBeGreaterThan(200)
    await store[Symbol.asyncDispose]()
  })
})
