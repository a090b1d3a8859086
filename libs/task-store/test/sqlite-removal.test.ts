import { statSync } from 'node:fs'
import { silentLogger, type TaskStore } from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openTaskStore } from '../src/index.ts'
import { endedSql, endedWithArtifactsSql, exitedSql, lastEndedSql, markSql } from '../src/removal.ts'
import {
  claimOf,
  completed,
  eventsAfter,
  newTask,
  settlement,
  START,
  taskId,
  temporaryFolder,
  workerId,
} from './fixtures.ts'

const MB = 1024 * 1024

describe('what an SQLite database forgets', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let file: string

  beforeEach(() => {
    folder = temporaryFolder()
    file = `${folder.path}/tasks.db`
  })
  afterEach(() => {
    folder[Symbol.dispose]()
  })

  const open = (): Promise<TaskStore> => openTaskStore({ url: `file:${file}`, logger: silentLogger })

  /** An ended task with so many megabytes of events. */
  async function large(store: TaskStore, n: number, megabytes: number): Promise<void> {
    await store.create([newTask(n)])
    await store.claim([claimOf(n)])
    const line = 'x'.repeat(50_000)
    let after = 2
    for (; after < 2 + megabytes * 20; after += 10) {
      const events = eventsAfter(
        after,
        ...Array.from({ length: 10 }, () => ({ type: 'text_delta' as const, delta: line })),
      )
      await store.append({ workerId: workerId(n), tasks: [{ taskId: taskId(n), attempt: 1, after, events }] })
    }
    const events = eventsAfter(after, completed)
    const settle = { ...settlement, at: START + n }
    await store.append({
      workerId: workerId(n),
      tasks: [{ taskId: taskId(n), attempt: 1, after, events, settle }],
    })
  }

  /** Removes the task; gives the largest size that the write-ahead log has had meanwhile. */
  async function remove(store: TaskStore, n: number): Promise<number> {
    let largest = 0
    await store.beginRemoval([taskId(n)])
    while ((await store.continueRemoval([taskId(n)])) === 0)
      largest = Math.max(largest, statSync(`${file}-wal`).size)
    return largest
  }

  it('is given back to the disk but for a part, and never makes the write-ahead log long', async () => {
    const store = await open()
    await large(store, 1, 100)
    await large(store, 2, 5)
    const before = await store.usage()
    expect(before.databaseBytes).toBeGreaterThan(95 * MB)
    let largest = await remove(store, 1)
    const removed = await store.usage()
    expect(removed.databaseBytes).toBeLessThan(10 * MB)
    expect(removed.fileBytes).toBe(before.fileBytes)
    while (await store.giveSpaceBack()) largest = Math.max(largest, statSync(`${file}-wal`).size)
    expect(largest).toBeLessThan(64 * MB)
    const after = await store.usage()
    expect(after.fileBytes).toBeLessThan(24 * MB)
    expect((await store.events(taskId(2), 0, 1_000)).length).toBe(103)
    await store[Symbol.asyncDispose]()
    expect(statSync(file).size).toBe(after.fileBytes)
  }, 60_000)

  it('is kept for what comes next by a database that cannot give it back', async () => {
    // As an earlier version made it.
    const early = new Database(file)
    early.exec('PRAGMA journal_mode=WAL; CREATE TABLE "x" ("a" TEXT); DROP TABLE "x"')
    early.close()
    const store = await open()
    await large(store, 1, 40)
    const { fileBytes } = await store.usage()
    await remove(store, 1)
    expect(await store.giveSpaceBack()).toBe(false)
    await large(store, 2, 38)
    expect((await store.usage()).fileBytes).toBeLessThanOrEqual(fileBytes + MB)
    await store[Symbol.asyncDispose]()
  }, 60_000)

  it('is found through indexes, and without sorting', async () => {
    await (await open())[Symbol.asyncDispose]()
    const database = new Database(file)
    const plan = ({ sql, values }: ReturnType<typeof endedSql>): string =>
      database
        .prepare<unknown[], { detail: string }>(`EXPLAIN QUERY PLAN ${sql}`)
        .all(...values)
        .map(({ detail }) => detail)
        .join('; ')
    expect(plan(endedSql(1, 1))).toBe(
      'SEARCH Task USING COVERING INDEX Task_finishedAt_id_idx (finishedAt<?)',
    )
    expect(plan(lastEndedSql(1, 1))).toBe(
      'SEARCH Task USING COVERING INDEX Task_finishedAt_id_idx (finishedAt<?)',
    )
    expect(plan(exitedSql(1, 1))).toBe(
      'SEARCH Worker USING COVERING INDEX Worker_exitedAt_id_idx (exitedAt<?)',
    )
    const ids = Array.from({ length: 50 }, (_, n) => taskId(n))
    expect(plan(markSql(ids))).toBe('SEARCH Task USING INDEX sqlite_autoindex_Task_1 (id=?)')
    const withArtifacts = plan(endedWithArtifactsSql(1, 1))
    expect(withArtifacts).toMatch(
      /^MERGE \(UNION ALL\); LEFT; SCAN a USING INDEX sqlite_autoindex_Artifact_1; SEARCH t .*; RIGHT; SCAN u USING COVERING INDEX TaskUpload_uploadId_taskId_idx; SEARCH t /,
    )
    expect(withArtifacts).not.toMatch(/TEMP B-TREE/)
    database.close()
  })
})
