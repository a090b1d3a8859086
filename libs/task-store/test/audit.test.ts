import { createHash } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import {
  AUDIT_START,
  silentLogger,
  type Actor,
  type AuditEntry,
  type AuditFilter,
  type AuditHead,
  type AuditVerification,
  type NewAuditEntry,
  type TaskStore,
} from '@gpu-service/tasks'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openAuditFile, openTaskStore } from '../src/index.ts'
import {
  claimOf,
  completed,
  eventsAfter,
  failure,
  gpuId,
  newTask,
  newWorker,
  requeued,
  running,
  settlement,
  START,
  taskId,
  temporaryFolder,
  workerId,
} from './fixtures.ts'

const ANN: Actor = { kind: 'key', id: 'key-1', name: 'Ann', address: '127.0.0.1' }

let folder: ReturnType<typeof temporaryFolder>
let file: string
let store: TaskStore

beforeEach(async () => {
  folder = temporaryFolder()
  file = `${folder.path}/tasks.db`
  store = await open()
})
afterEach(async () => {
  await store[Symbol.asyncDispose]()
  folder[Symbol.dispose]()
})

function open(): Promise<TaskStore> {
  return openTaskStore({ url: `file:${file}`, logger: silentLogger })
}

async function reopen(): Promise<void> {
  await store[Symbol.asyncDispose]()
  store = await open()
}

async function log(filter: AuditFilter = {}): Promise<readonly AuditEntry[]> {
  const { entries } = await store.auditLog({ filter, first: 100_000, before: null })
  return [...entries].reverse()
}

function verify(kept: AuditHead | null = null): Promise<AuditVerification> {
  return store.verifyAudit({ after: 0, first: null, kept })
}

async function told(filter: AuditFilter = {}): Promise<readonly string[]> {
  return (await log(filter)).map(({ action, target, result, status }) =>
    [action, target.id?.slice(-2), result, status].join(' '),
  )
}

/** What is written from now on is later. */
async function nextMillisecond(): Promise<void> {
  for (const now = Date.now(); Date.now() <= now;) await nextTurn()
}

function note(n: number, changes: Partial<NewAuditEntry> = {}): NewAuditEntry {
  return {
    ...{
      actor: ANN,
      action: 'test.note',
      target: { kind: 'worker', id: `w${n}` },
      result: 'OK',
      status: null,
    },
    ...{ reason: `the ${n}th`, details: { n: String(n) }, ...changes },
  }
}

async function runs(n: number, status: 'RUNNING' = 'RUNNING'): Promise<void> {
  await store.create([newTask(n)], ANN)
  await store.claim([claimOf(n)])
  const events = eventsAfter(2, running)
  await store.append({
    workerId: workerId(n),
    tasks: [{ taskId: taskId(n), attempt: 1, after: 2, events, changes: { status } }],
  })
}

async function ends(n: number): Promise<void> {
  await runs(n)
  const settle = {
    taskId: taskId(n),
    attempt: 1,
    after: 3,
    events: eventsAfter(3, completed),
    settle: settlement,
  }
  await store.append({ workerId: workerId(n), tasks: [settle] })
}

describe('the audit log tells', () => {
  it('of every change of a task, in order, and who asked for it', async () => {
    await ends(1)
    await store.beginRemoval([taskId(1)], ANN, null)
    expect(await told()).toEqual([
      'task.submit 01 OK QUEUED',
      'task.start 01 OK STARTING',
      'task.run 01 OK RUNNING',
      'task.end 01 OK COMPLETED',
      'task.remove 01 OK REMOVED',
    ])
    const entries = await log()
    expect(entries.map(({ actor }) => actor.name)).toEqual(['Ann', 'service', 'service', 'service', 'Ann'])
    expect(entries[0]).toMatchObject({ actor: ANN, details: { presetId: 'test/inference', owner: 'ann' } })
    expect(entries[1]).toMatchObject({
      reason: 'GPU-0 is free',
      details: { attempt: '1', workerId: workerId(1), gpuIds: gpuId(0) },
    })
    expect(entries.map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5])
  })

  it('of attempts that are tried again, of deadlines and of cancels, with the codes of what failed', async () => {
    await runs(1)
    await store.append({ workerId: workerId(1), tasks: [requeued(1, 3)] })
    await store.endQueued(taskId(1), {
      ...{ at: START, status: 'TIMED_OUT', error: { code: 'QUEUE_TIMEOUT', message: 'It waited.' } },
    })
    await store.requestCancel(taskId(1), { at: START, reason: 'too late' }, ANN)
    await runs(2)
    await store.requestCancel(taskId(2), { at: START, reason: 'no more' }, ANN)
    await store.create([newTask(3, { retryOf: taskId(1) })], ANN)
    await store.requestCancel(taskId(3), { at: START, reason: null })
    await store.recordStop(taskId(2), 1, 'timeout')
    expect(await told({ targetId: taskId(1) })).toEqual([
      'task.submit 01 OK QUEUED',
      'task.start 01 OK STARTING',
      'task.run 01 OK RUNNING',
      `task.requeue 01 ${failure.error?.code ?? ''} QUEUED`,
      'task.end 01 QUEUE_TIMEOUT TIMED_OUT',
      'task.cancel 01 ENDED_BEFORE ',
    ])
    expect((await told({ targetId: taskId(2) })).slice(3)).toEqual(['task.cancel 02 OK '])
    expect(await told({ targetId: taskId(3) })).toEqual([
      'task.retry 03 OK QUEUED',
      'task.cancel 03 OK CANCELLED',
    ])
    expect((await log({ targetId: taskId(3), actorKind: 'service' })).map(({ action }) => action)).toEqual([
      'task.cancel',
    ])
  })

  it('of sessions that are started and of GPUs that are drained', async () => {
    await store.createWorker(newWorker(1), ANN)
    await store.setDrain(gpuId(1), { at: START, reason: 'dust' }, ANN)
    await store.setDrain(gpuId(1), null, ANN)
    expect((await log()).map(({ action, target, reason }) => [action, target, reason])).toEqual([
      ['worker.start', { kind: 'worker', id: workerId(1) }, null],
      ['gpu.drain', { kind: 'gpu', id: gpuId(1) }, 'dust'],
      ['gpu.enable', { kind: 'gpu', id: gpuId(1) }, null],
    ])
  })

  it('nothing of what was not written, though others were in the same commit', async () => {
    await runs(1)
    const stale = {
      taskId: taskId(1),
      attempt: 1,
      after: 7,
      events: eventsAfter(7, completed),
      settle: settlement,
    }
    const results = await Promise.allSettled([
      store.create([newTask(2)], ANN),
      store.append({ workerId: workerId(1), tasks: [stale] }),
      store.create([newTask(3)], ANN),
    ])
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect((await told()).slice(3)).toEqual(['task.submit 02 OK QUEUED', 'task.submit 03 OK QUEUED'])
    expect(await verify()).toMatchObject({ entries: 5, fault: null })
  })

  it('what the columns can hold of any text, and verifies it', async () => {
    const reason = `\0 \u2028 \uD800 "\\\n\u007f é 漢 🂡 ${'x'.repeat(2_000)}`
    await store.recordAudit([note(1, { reason, details: { b: reason, a: '' } })])
    expect(await verify()).toMatchObject({ entries: 1, fault: null })
    const [entry] = await log()
    expect(entry?.reason).toHaveLength(1_000)
    expect(entry?.details['b']).toBe(entry?.reason)
  })

  it('its entries a page at a time, newest first, by whatever is asked for', async () => {
    await store.recordAudit(
      Array.from({ length: 25 }, (_, n) => note(n, { result: n % 5 === 0 ? 'NO' : 'OK' })),
    )
    const seqs: number[][] = []
    for (let before: number | null = null, more = true; more;) {
      const { entries, hasNextPage } = await store.auditLog({ filter: { result: 'NO' }, first: 2, before })
      seqs.push(entries.map(({ seq }) => seq))
      before = entries.at(-1)?.seq ?? null
      more = hasNextPage
    }
    expect(seqs).toEqual([[21, 16], [11, 6], [1]])
    const [first] = await log()
    const at = first?.at ?? 0
    expect(await log({ before: at })).toEqual([])
    expect(await log({ after: at - 1 })).toHaveLength(25)
    expect(
      await log({ targetId: 'w7', actorId: 'key-1', actorName: 'Ann', action: 'test.note' }),
    ).toHaveLength(1)
    expect(await log({ targetKind: 'task' })).toEqual([])
  })
})

describe('the chain of the audit log', () => {
  it('is one over all that happens at the same time, and over restarts', async () => {
    await Promise.all(Array.from({ length: 60 }, (_, n) => ends(n + 1)))
    await reopen()
    await Promise.all(Array.from({ length: 20 }, (_, n) => ends(n + 101)))
    const entries = await log()
    expect(entries.map(({ seq }) => seq)).toEqual(Array.from({ length: 320 }, (_, n) => n + 1))
    expect(await verify()).toMatchObject({
      ...{ entries: 320, fault: null, anchor: AUDIT_START },
      head: { seq: 320, hash: entries.at(-1)?.hash },
    })
  })

  it('can be verified by whoever has read how', async () => {
    await ends(1)
    await store.recordAudit([note(1, { reason: 'a "quoted" \\ line\n', details: { z: '1', a: 'é' } })])
    let previous = '0'.repeat(64)
    for (const entry of await log()) {
      const { seq, at, actor, action, target, result, status, reason } = entry
      const details = Object.fromEntries(Object.entries(entry.details).sort(([a], [b]) => (a < b ? -1 : 1)))
      const who = [actor.kind, actor.id, actor.name, actor.address]
      const text = JSON.stringify([
        seq,
        at,
        ...who,
        action,
        target.kind,
        target.id,
        result,
        status,
        reason,
        details,
      ])
      expect(entry.previousHash).toBe(previous)
      previous = createHash('sha256').update(previous).update('\n').update(text, 'utf8').digest('hex')
      expect(entry.hash).toBe(previous)
    }
  })

  it('can be verified a stretch at a time', async () => {
    await store.recordAudit(Array.from({ length: 700 }, (_, n) => note(n)))
    const part = await store.verifyAudit({ after: 100, first: 300, kept: null })
    expect(part).toMatchObject({ entries: 300, head: { seq: 400 }, fault: null })
    const rest = await store.verifyAudit({ after: part.head.seq, first: null, kept: part.head })
    expect(rest).toMatchObject({ entries: 300, head: { seq: 700 }, fault: null })
    expect((await store.verifyAudit({ after: 701, first: null, kept: null })).fault?.seq).toBe(701)
    const given = AbortSignal.abort()
    expect(await store.verifyAudit({ after: 0, first: null, kept: null }, given)).toMatchObject({
      entries: 0,
    })
  })

  it('goes on from its anchor where entries were kept long enough', async () => {
    await store.recordAudit([note(1), note(2), note(3)])
    const kept = (await log())[1]
    await nextMillisecond()
    await store.recordAudit([note(4)])
    const last = (await log()).at(-1)
    expect(await store.removeAudit(last?.at ?? 0)).toBe(true)
    await reopen()
    await store.recordAudit([note(6)])
    const entries = await log()
    expect(entries.map(({ seq, action }) => [seq, action])).toEqual([
      [4, 'test.note'],
      [5, 'audit.remove'],
      [6, 'test.note'],
    ])
    expect(entries[1]?.details).toEqual({ seq: '3', hash: entries[0]?.previousHash })
    expect(await verify()).toMatchObject({ entries: 3, anchor: { seq: 3 }, head: { seq: 6 }, fault: null })
    // Of what is gone a head proves nothing.
    expect(await verify({ seq: kept?.seq ?? 0, hash: kept?.hash ?? '' })).toMatchObject({ fault: null })
    expect(await store.removeAudit(Date.now() + 1_000)).toBe(true)
    expect(await verify()).toMatchObject({ entries: 1, anchor: { seq: 6 }, head: { seq: 7 }, fault: null })
  })

  it('holds while it is added to and removed from', async () => {
    const added = { all: false }
    const adding = (async () => {
      for (let n = 0; n < 60; n++) {
        await store.recordAudit(Array.from({ length: 50 }, (_, at) => note(at)))
        if (n % 6 === 5) await store.removeAudit(Date.now() - 5)
      }
      added.all = true
    })()
    let looks = 0
    for (; !added.all; looks++) expect((await verify()).fault).toBeNull()
    await adding
    expect(looks).toBeGreaterThan(1)
    expect(await verify()).toMatchObject({ fault: null })
  })
})

describe('a log that was tampered with', () => {
  let head: AuditHead

  beforeEach(async () => {
    await store.recordAudit(Array.from({ length: 9 }, (_, n) => note(n, { status: 'DONE' })))
    const last = (await log()).at(-1)
    head = { seq: 9, hash: last?.hash ?? '' }
    await store[Symbol.asyncDispose]()
  })

  /** Changes the database of a stopped service; what the look from outside finds then, and the service's own. */
  async function found(sql: string, kept: AuditHead | null = null): Promise<number | null> {
    const database = new Database(file)
    database.exec(sql)
    database.close()
    using audit = openAuditFile(file)
    const { fault } = audit.verify(kept)
    store = await open()
    expect((await verify(kept)).fault).toEqual(fault)
    await store[Symbol.asyncDispose]()
    return fault?.seq ?? null
  }

  it('is not one that was left alone', async () => {
    expect(await found('SELECT 1', head)).toBeNull()
  })

  it('is found where any field of an entry was changed', () => {
    const database = new Database(file)
    const columns = database.prepare<[], { name: string }>(
      `SELECT "name" FROM pragma_table_info('AuditEntry')`,
    )
    const names = columns.all().map(({ name }) => name)
    expect(names).toHaveLength(14)
    using audit = openAuditFile(file)
    for (const name of names.filter((column) => column !== 'seq')) {
      const old: unknown = database
        .prepare(`SELECT "${name}" FROM "AuditEntry" WHERE "seq" = 5`)
        .pluck()
        .get()
      const changed =
        typeof old === 'number' ? old + 1 : name === 'details' ? '{"n":"44"}' : `${String(old)}x`
      const set = database.prepare(`UPDATE "AuditEntry" SET "${name}" = ? WHERE "seq" = 5`)
      set.run(changed)
      expect(audit.verify(null).fault?.seq, name).toBe(5)
      set.run(old)
    }
    database.close()
    expect(audit.verify(null).fault).toBeNull()
  })

  it('is found where a text was taken away, or written otherwise', async () => {
    expect(await found(`UPDATE "AuditEntry" SET "details" = '{ "n":"7"}' WHERE "seq" = 8`)).toBe(8)
    expect(await found(`UPDATE "AuditEntry" SET "reason" = NULL WHERE "seq" = 5`)).toBe(5)
    expect(await found(`UPDATE "AuditEntry" SET "reason" = '', "status" = 'the 1th' WHERE "seq" = 2`)).toBe(2)
  })

  it('is found where an entry was removed, at the front, within, and with the rest moved up', async () => {
    expect(await found(`DELETE FROM "AuditEntry" WHERE "seq" IN (6, 7)`)).toBe(6)
    expect(await found(`UPDATE "AuditEntry" SET "seq" = "seq" - 2 WHERE "seq" > 7`)).toBe(6)
    expect(await found(`DELETE FROM "AuditEntry" WHERE "seq" = 1`)).toBe(1)
  })

  it('is found where two entries were swapped', async () => {
    const swap = ['targetId', 'reason', 'details', 'hash']
      .map((name) => `"${name}" = (SELECT "${name}" FROM o WHERE o."seq" = 9 - "AuditEntry"."seq")`)
      .join(', ')
    expect(
      await found(`CREATE TEMP TABLE o AS SELECT * FROM "AuditEntry";
        UPDATE "AuditEntry" SET ${swap} WHERE "seq" IN (4, 5)`),
    ).toBe(4)
  })

  it('is found where an entry was inserted', async () => {
    const move = `UPDATE "AuditEntry" SET "seq" = -"seq" - 1 WHERE "seq" > 3; UPDATE "AuditEntry" SET "seq" = -"seq" WHERE "seq" < 0`
    const columns = `"at", "actorKind", "actorName", "action", "targetKind", "result", "details", "hash"`
    expect(
      await found(
        `${move}; INSERT INTO "AuditEntry" ("seq", ${columns}) SELECT 4, ${columns} FROM "AuditEntry" WHERE "seq" = 3`,
      ),
    ).toBe(4)
  })

  it('is found where its end was cut off, but only with a head that was kept', async () => {
    expect(await found(`DELETE FROM "AuditEntry" WHERE "seq" > 7`)).toBeNull()
    expect(await found('SELECT 1', head)).toBe(8)
    expect(await found(`DELETE FROM "AuditEntry"`, head)).toBe(1)
  })

  it('is found with a kept head where all of it was made anew', async () => {
    store = await open()
    const entries = await log()
    await store[Symbol.asyncDispose]()
    using other = temporaryFolder()
    const forged = await openTaskStore({ url: `file:${other.path}/forged.db`, logger: silentLogger })
    await forged.recordAudit(entries.map((entry) => ({ ...entry, actor: { ...ANN, name: 'Bob' } })))
    await forged[Symbol.asyncDispose]()
    const sql = `ATTACH '${other.path}/forged.db' AS forged; DELETE FROM main."AuditEntry";
      INSERT INTO main."AuditEntry" SELECT * FROM forged."AuditEntry"; DETACH forged`
    expect(await found(sql)).toBeNull()
    expect(await found('SELECT 1', head)).toBe(9)
  })

  it('is found where its anchor was edited', async () => {
    store = await open()
    const hashOf = new Map((await log()).map(({ seq, hash }) => [seq, hash]))
    await nextMillisecond()
    await store.recordAudit([note(10)])
    await store.removeAudit((await log()).at(-1)?.at ?? 0)
    await store[Symbol.asyncDispose]()
    expect(await found('SELECT 1', { seq: 9, hash: hashOf.get(9) ?? '' })).toBeNull()
    const anchor = (hash: string, seq = 9) =>
      `UPDATE "Installation" SET "auditAnchorHash" = '${hash}', "auditAnchorSeq" = ${seq}`
    expect(await found(anchor('0'.repeat(64)))).toBe(10)
    expect(await found(anchor(hashOf.get(9) ?? '', 8))).toBe(9)
    // One that fits an entry, to hide that those before it were taken away.
    const database = new Database(file)
    const tenth = database
      .prepare<[], AuditHead>('SELECT "seq", "hash" FROM "AuditEntry" WHERE "seq" = 10')
      .get()
    database.close()
    expect(await found(`DELETE FROM "AuditEntry" WHERE "seq" = 10; ${anchor(tenth?.hash ?? '', 10)}`)).toBe(
      10,
    )
  })
})
