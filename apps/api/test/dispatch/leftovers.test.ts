import type { WorkerName, WorkerState } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { eventually, NO_GPU, oneOff, session, Stage, turns } from './stage.ts'

const ROUND_MS = 1_000

const PHASES: readonly WorkerState[] = [
  { phase: 'created' },
  { phase: 'running', containerId: 'c1', startedAt: 0 },
  { phase: 'exited', containerId: 'c1', exit: { exitCode: 0, oomKilled: false, finishedAt: 0 } },
  { phase: 'unknown' },
]

const nameOf = (stage: Stage, id: string): WorkerName => `gpu-${stage.store.installation}-${id}` as WorkerName

/** Enough for a round that has begun: it waits for nothing but the store. */
const ROUND_TURNS = 200

async function firstRound({ runner }: Stage): Promise<void> {
  await eventually(() => {
    expect(runner.lists).toBe(1)
  })
  await turns(ROUND_TURNS)
}

/** Lets the next round come, and go. */
async function round({ runner, clock }: Stage): Promise<void> {
  const { lists } = runner
  clock.advance(ROUND_MS)
  await eventually(() => {
    expect(runner.lists).toBe(lists + 1)
  })
  await turns(ROUND_TURNS)
}

describe('a worker that nobody needs', () => {
  for (const state of PHASES)
    test(`is removed where it is ${state.phase}, two rounds after it was seen, and nothing else is`, async () => {
      await using stage = await Stage.open({
        presets: [session('warm', { gpus: NO_GPU })],
        housekeepingMs: ROUND_MS,
      })
      const warm = await stage.warm('warm')
      await firstRound(stage)
      const names = Array.from({ length: 20 }, (_, n) => nameOf(stage, `by-hand-${n}`))
      for (const name of names) stage.runner.planted.set(name, state)
      await round(stage)
      await round(stage)
      expect(stage.runner.removed.size).toBe(0)
      await round(stage)
      await eventually(() => {
        expect([...stage.runner.removed].sort()).toEqual([...names].sort())
      })
      await round(stage)
      expect(warm.isRunning).toBe(true)
    })

  test('is removed at the start where its row says that it has ended', async () => {
    await using stage = await Stage.open({ presets: [oneOff('plain')] })
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    await stage.reached(id, 'COMPLETED')
    await eventually(async () => {
      expect((await stage.store.worker(worker.order.workerId))?.status).toBe('EXITED')
    })
    await stage.dispatcher[Symbol.asyncDispose]()
    stage.runner.removed.clear()
    await stage.up()
    await eventually(() => {
      expect([...stage.runner.removed]).toEqual([worker.name])
    })
  })

  test('is left alone while it is being started, for however long that takes', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('plain', { gpus: NO_GPU })],
      housekeepingMs: ROUND_MS,
    })
    await firstRound(stage)
    const held = stage.runner.holdStart('making')
    const id = await stage.submit('plain')
    await held.reached
    const order = stage.runner.starts[0]
    if (order === undefined) throw new Error('nothing is being started')
    // The engine has it before it answers.
    stage.runner.planted.set(order.name, { phase: 'created' })
    for (let n = 0; n < 5; n++) await round(stage)
    expect(stage.runner.removed.size).toBe(0)
    stage.runner.planted.clear()
    held.release()
    const worker = await stage.worker()
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    expect(await stage.reached(id, 'COMPLETED')).toMatchObject({ attempt: 1 })
  })

  test('that cannot be removed does not keep the others, and is tried again', async () => {
    await using stage = await Stage.open({ presets: [], housekeepingMs: ROUND_MS })
    await firstRound(stage)
    const [stuck, loose] = [nameOf(stage, 'a-stuck'), nameOf(stage, 'b-loose')]
    stage.runner.stuck.add(stuck)
    for (const name of [stuck, loose]) stage.runner.planted.set(name, { phase: 'created' })
    for (let n = 0; n < 4; n++) await round(stage)
    await eventually(() => {
      expect([...stage.runner.removed]).toEqual([loose])
    })
    stage.runner.stuck.clear()
    await round(stage)
    await eventually(() => {
      expect(stage.runner.removed).toContain(stuck)
    })
  })

  test('and whose own removal takes long is left to that, and keeps the reason of its end', async () => {
    await using stage = await Stage.open({
      presets: [oneOff('plain', { gpus: NO_GPU })],
      housekeepingMs: ROUND_MS,
    })
    await firstRound(stage)
    const id = await stage.submit('plain')
    const worker = await stage.worker()
    stage.runner.stuck.add(worker.name)
    worker.say({ event: 'finish', status: 'completed' })
    worker.exit()
    await stage.reached(id, 'COMPLETED')
    await eventually(() => {
      expect(stage.dispatcher.workers()).toEqual([])
    })
    for (let n = 0; n < 4; n++) await round(stage)
    const row = await stage.store.worker(worker.order.workerId)
    expect(row?.status).not.toBe('EXITED')
    stage.runner.stuck.clear()
    await eventually(async () => {
      stage.clock.advance(100)
      expect(await stage.store.worker(worker.order.workerId)).toMatchObject({
        status: 'EXITED',
        endReason: null,
      })
    })
  })

  test('is not removed sooner by a clock that jumps', async () => {
    await using stage = await Stage.open({ presets: [], housekeepingMs: ROUND_MS })
    await firstRound(stage)
    stage.runner.planted.set(nameOf(stage, 'by-hand'), { phase: 'created' })
    await round(stage)
    stage.clock.jump(365 * 86_400_000)
    await round(stage)
    expect(stage.runner.removed.size).toBe(0)
    stage.clock.jump(-2 * 365 * 86_400_000)
    await round(stage)
    await eventually(() => {
      expect(stage.runner.removed.size).toBe(1)
    })
  })
})

test('a row that says that its worker lives is settled where nobody follows it and the runner knows nothing of it', async () => {
  await using stage = await Stage.open({
    presets: [session('warm', { gpus: NO_GPU })],
    housekeepingMs: ROUND_MS,
  })
  await stage.warm('warm')
  const other = await stage.warm('warm')
  await firstRound(stage)
  const { id, spec, specHash, presetId, claim } = (await stage.store.worker(other.order.workerId)) ?? {}
  if (id === undefined || spec === undefined || specHash === undefined || presetId === undefined || !claim)
    throw new Error('it has no row')
  const strayId = `${id.slice(0, -4)}ffff` as typeof id
  await stage.store.createWorker({
    ...{ id: strayId, name: nameOf(stage, strayId), presetId, mode: 'SESSION', spec, specHash, owner: null },
    ...{ claim, at: stage.clock.now() },
  })
  for (let n = 0; n < 4; n++) await round(stage)
  await eventually(async () => {
    expect(await stage.store.worker(strayId)).toMatchObject({
      status: 'EXITED',
      endReason: 'Nobody needed it any more.',
    })
  })
  expect(await stage.store.liveWorkers()).toHaveLength(2)
})

test('the files of a session worker are kept for the runs that it works on, and for no others', async () => {
  await using stage = await Stage.open({
    presets: [session('warm', { gpus: NO_GPU })],
    housekeepingMs: ROUND_MS,
  })
  const worker = await stage.warm('warm')
  await firstRound(stage)
  const first = await stage.submit('warm')
  const run = await stage.handed(worker)
  worker.finish(run)
  await stage.reached(first, 'COMPLETED')
  const second = await stage.submit('warm')
  const next = await stage.handed(worker, 2)
  const files = new Set([run.runId, next.runId])
  stage.runner.runFiles.set(worker.name, files)
  await round(stage)
  await eventually(() => {
    expect([...files]).toEqual([next.runId])
  })
  worker.finish(next)
  await stage.reached(second, 'COMPLETED')
})
