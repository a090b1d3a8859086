import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openArtifactFiles, type ArtifactFolder } from '@gpu-service/artifacts'
import type { RetentionLimits, TaskId } from '@gpu-service/tasks'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { eventually, NO_GPU, oneOff, Stage, turns } from './stage.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const NONE: RetentionLimits = {
  ...{ maxAgeMs: null, maxArtifactBytes: null, maxDatabaseBytes: null, maxAuditAgeMs: null },
}

let root: string
let artifactFiles: ArtifactFolder
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'retention-'))
  await openFiles()
})
afterEach(() => rm(root, { recursive: true }))

async function openFiles(): Promise<ArtifactFolder> {
  artifactFiles = await openArtifactFiles({ folder: join(root, 'artifacts'), maxBytes: 1_000_000 })
  return artifactFiles
}

const files = (): Promise<string[]> => readdir(join(root, 'artifacts'))

function open(retention: Partial<RetentionLimits>): Promise<Stage> {
  return Stage.open({
    presets: [oneOff('plain', { gpus: NO_GPU, timeouts: { runMs: 1_000 * DAY, startMs: 1_000 * DAY } })],
    artifactFiles,
    // The others that this one follows are not of interest here.
    housekeepingMs: MINUTE,
    retention: { ...NONE, ...retention },
  })
}

/** Lets so much time pass, with a round in every minute of it. */
async function pass(stage: Stage, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= MINUTE) {
    const before = stage.dispatcher.housekeeping.lastRoundAt
    stage.clock.advance(MINUTE)
    await eventually(() => {
      expect(stage.dispatcher.housekeeping.lastRoundAt).not.toBe(before)
    })
    await turns(2)
  }
}

async function settled(stage: Stage): Promise<void> {
  await eventually(() => {
    expect(stage.dispatcher.housekeeping.lastRoundAt).not.toBeNull()
  })
  await turns(2)
}

/** Runs a task to its end, with an artifact of so many bytes. */
async function ended(stage: Stage, bytes = 0): Promise<TaskId> {
  const n = stage.runner.workers.length + 1
  const id = await stage.submit('plain', { idempotencyKey: `key ${n}` })
  const worker = await stage.worker(n)
  const data = Buffer.alloc(bytes, 'x').toString('base64')
  if (bytes > 0) worker.say({ event: 'artifact', data, name: 'a.bin' })
  worker.say({ event: 'text_delta', delta: 'Hello' }, { event: 'finish', status: 'completed' })
  worker.exit()
  await stage.reached(id, 'COMPLETED')
  await eventually(async () => {
    expect((await stage.store.worker(worker.order.workerId))?.status).toBe('EXITED')
  })
  return id
}

async function there(stage: Stage, ids: readonly TaskId[]): Promise<boolean[]> {
  return Promise.all(ids.map(async (id) => (await stage.store.task(id)) !== null))
}

describe('tasks that were kept long enough', () => {
  test('are removed with their events, files and workers, and those that are younger or go on are not', async () => {
    await using stage = await open({ maxAgeMs: HOUR })
    await settled(stage)
    const old = await ended(stage, 10)
    const { workerId } = await stage.task(old)
    const running = await stage.submit('plain')
    await stage.worker(2)
    await pass(stage, 40 * MINUTE)
    const young = await ended(stage, 10)
    await pass(stage, 25 * MINUTE)
    expect(await there(stage, [old, running, young])).toEqual([false, true, true])
    expect(await stage.events(old)).toEqual([])
    expect(await files()).toEqual((await stage.store.artifacts(young)).map(({ id }) => id))
    expect(workerId === null ? null : await stage.store.worker(workerId)).toBeNull()
    expect(stage.dispatcher.housekeeping).toMatchObject({ removedTasks: 1 })
    await stage.dispatcher.cancel(running, null)
    await stage.reached(running, 'CANCELLED')
  })

  test('are not removed by a clock that jumps ahead, nor by one that jumps back', async () => {
    await using stage = await open({ maxAgeMs: 30 * DAY })
    await settled(stage)
    const id = await ended(stage)
    await pass(stage, 5 * MINUTE)
    stage.clock.jump(365 * DAY)
    await pass(stage, 30 * MINUTE)
    expect(await there(stage, [id])).toEqual([true])
    stage.clock.jump(-365 * DAY)
    await pass(stage, 90 * MINUTE)
    expect(await there(stage, [id])).toEqual([true])
  })

  test('are not removed at once by a process that starts with a clock that is ahead', async () => {
    await using stage = await open({ maxAgeMs: 30 * DAY })
    await settled(stage)
    const id = await ended(stage)
    await stage.dispatcher[Symbol.asyncDispose]()
    stage.clock.jump(365 * DAY)
    await stage.up()
    await settled(stage)
    // Also where another process begins when something has ended since.
    await ended(stage)
    await stage.restart()
    await settled(stage)
    await pass(stage, 50 * MINUTE)
    expect(await there(stage, [id])).toEqual([true])
    // It has stayed so: this is the time then.
    await pass(stage, 15 * MINUTE)
    expect(await there(stage, [id])).toEqual([false])
  })
})

describe('a limit of size', () => {
  test('of artifacts is held by removing the oldest tasks that have any, but none that ended just now', async () => {
    await using stage = await open({ maxArtifactBytes: 2_500 })
    await settled(stage)
    const ids: TaskId[] = []
    for (const bytes of [0, 1_000, 1_000, 1_000]) {
      ids.push(await ended(stage, bytes))
      await pass(stage, MINUTE)
    }
    await pass(stage, 5 * MINUTE)
    expect(await there(stage, ids)).toEqual([true, true, true, true])
    expect(await files()).toHaveLength(3)
    await pass(stage, 5 * MINUTE)
    expect(await there(stage, ids)).toEqual([true, false, true, true])
    expect(await files()).toHaveLength(2)
    expect((await stage.store.usage()).artifactBytes).toBe(2_000)
  })

  test('of the database removes what has ended, and never what goes on', async () => {
    await using stage = await open({ maxDatabaseBytes: 1 })
    await settled(stage)
    const old = await ended(stage)
    const running = await stage.submit('plain')
    await stage.worker(2)
    await pass(stage, 12 * MINUTE)
    expect(await there(stage, [old, running])).toEqual([false, true])
    await stage.dispatcher.cancel(running, null)
    await stage.reached(running, 'CANCELLED')
  })
})

test('entries of the audit log go when they were kept long enough, and are looked at once an hour', async () => {
  await using stage = await open({ maxAuditAgeMs: HOUR })
  await settled(stage)
  await ended(stage)
  const told = async (): Promise<readonly string[]> => {
    const { entries } = await stage.store.auditLog({ filter: {}, first: 100, before: null })
    return entries.map(({ seq, action }) => `${seq} ${action}`)
  }
  expect(await told()).toEqual(['4 task.end', '3 task.run', '2 task.start', '1 task.submit'])
  // Entries bear the time of the machine, which is ahead of the scripted one by a day.
  stage.clock.advance(26 * HOUR)
  await eventually(async () => {
    expect(await told()).toEqual(['5 audit.remove'])
  })
  await pass(stage, 10 * MINUTE)
  expect(await told()).toEqual(['5 audit.remove'])
  stage.clock.advance(HOUR)
  await eventually(async () => {
    expect(await told()).toEqual(['6 audit.remove'])
  })
  expect(await stage.store.verifyAudit({ after: 0, first: null, kept: null })).toMatchObject({ fault: null })
})

describe('deleting a task', () => {
  test('removes it with its files, and frees its key; what goes on is refused', async () => {
    await using stage = await open({})
    await settled(stage)
    const id = await ended(stage, 10)
    const { idempotencyKey } = await stage.task(id)
    expect(await files()).toHaveLength(1)
    expect(await stage.dispatcher.deleteTask(id)).toEqual({ status: 'deleted' })
    expect(await there(stage, [id])).toEqual([false])
    expect(await files()).toEqual([])
    expect(await stage.dispatcher.deleteTask(id)).toBeNull()
    const again = await stage.submit('plain', { idempotencyKey })
    expect(again).not.toBe(id)
    expect(await stage.dispatcher.deleteTask(again)).toMatchObject({ status: 'refused', code: 'NOT_ENDED' })
    await stage.dispatcher.cancel(again, null)
    await stage.reached(again, 'CANCELLED')
  })

  test('twice at once deletes it once', async () => {
    await using stage = await open({})
    await settled(stage)
    const id = await ended(stage, 10)
    const answers = await Promise.all([stage.dispatcher.deleteTask(id), stage.dispatcher.deleteTask(id)])
    expect(answers.filter((answer) => answer !== null)).toEqual([{ status: 'deleted' }])
    expect(await files()).toEqual([])
  })

  test('ends a feed that has not come to its end, with a reason', async () => {
    await using stage = await open({})
    await settled(stage)
    const id = await ended(stage)
    const feed = await stage.dispatcher.feeds.open(id, { after: 1 })
    await stage.dispatcher.deleteTask(id)
    await expect(feed.next()).rejects.toMatchObject({ code: 'HISTORY_REMOVED' })
    await expect(stage.dispatcher.feeds.open(id, { after: 0 })).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })
})

describe('a removal that a crash cuts off', () => {
  for (const step of ['files', 'rows'] as const)
    test(`before the ${step} are gone is gone on with by the next process, and leaves nothing`, async () => {
      await using stage = await open({})
      await settled(stage)
      const id = await ended(stage, 10)
      if (step === 'rows') stage.storeFails('continueRemoval', 1)
      else
        stage.onceStored('beginRemoval', () => {
          throw new Error('the database is locked')
        })
      await expect(stage.dispatcher.deleteTask(id)).rejects.toThrow('locked')
      expect(await files()).toHaveLength(step === 'rows' ? 0 : 1)
      expect(await there(stage, [id])).toEqual([false])
      expect(await stage.store.removals(10)).toHaveLength(1)
      await stage.restart()
      await settled(stage)
      await eventually(async () => {
        expect(await stage.store.removals(10)).toEqual([])
      })
      expect(await files()).toEqual([])
    })
})

test('a file that an earlier process has taken and nobody has announced is removed at the start', async () => {
  await using stage = await open({})
  await settled(stage)
  const id = await ended(stage, 10)
  await stage.dispatcher[Symbol.asyncDispose]()
  const [kept] = await files()
  await writeFile(join(root, 'artifacts', 'stray'), 'x')
  await writeFile(join(root, 'artifacts', 'stray.partial'), 'x')
  await stage.up({ artifactFiles: await openFiles() })
  await settled(stage)
  expect(await files()).toEqual([kept])
  expect((await stage.store.artifacts(id)).map((artifact) => artifact.id)).toEqual([kept])
})

test('a compaction that a crash cut off is made up for', async () => {
  await using stage = await open({})
  await settled(stage)
  stage.storeFails('compact', 1_000_000)
  const id = await stage.submit('plain')
  const worker = await stage.worker()
  for (let n = 0; n < 20; n++) {
    worker.say({ event: 'text_delta', delta: `${n}` })
    await eventually(async () => {
      expect(await stage.said(id, 'text_delta')).toHaveLength(n + 1)
    })
  }
  worker.say({ event: 'finish', status: 'completed' })
  worker.exit()
  await stage.reached(id, 'COMPLETED')
  const before = await stage.events(id)
  await stage.dispatcher[Symbol.asyncDispose]()
  const compacted: unknown[] = []
  stage.onceStored('compact', () => {
    compacted.push(id)
  })
  stage.storeFails('compact', 0)
  await stage.up()
  await settled(stage)
  expect(compacted).toEqual([id])
  expect(await stage.events(id)).toEqual(before)
})
