import type { Task, TaskId } from '@gpu-service/tasks'
import { describe, expect, test } from 'vitest'
import { eventually, NO_GPU, oneOff, onlyTask, session, Stage } from './stage.ts'

const plain = (runMs: number, ids: readonly string[] | null = null) => {
  const spec = oneOff('plain', { timeouts: { runMs } })
  return ids === null ? spec : Object.freeze({ ...spec, gpus: { ...spec.gpus, ids: ids as Task['gpuIds'] } })
}

const ADA = { owner: 'ada', keyId: null }

describe('a task that is submitted again', () => {
  async function repeat(stage: Stage, id: TaskId): Promise<Task> {
    await stage.dispatcher.cancel(id, null)
    await stage.reached(id, 'CANCELLED')
    return onlyTask(await stage.dispatcher.retry(id, ADA))
  }

  test.each<[string, number | null, number]>([
    ['its own, where it had asked for one', 30_000, 30_000],
    ['its own, where it had asked for what the preset said then', 60_000, 60_000],
    ['the preset’s new one, where it had not', null, 120_000],
  ])('has as its timeout %s', async (_which, asked, expected) => {
    await using stage = await Stage.open({ presets: [plain(60_000)] })
    const id = await stage.submit('plain', { timeoutMs: asked })
    stage.presets.put(plain(120_000))
    const again = await repeat(stage, id)
    expect(again.spec.timeouts.runMs).toBe(expected)
    expect(again.retryOf).toBe(id)
    // And so on: what the repetition has, its own repetition gets.
    stage.presets.put(plain(240_000))
    const third = await repeat(stage, again.id)
    expect(third.spec.timeouts.runMs).toBe(asked ?? 240_000)
  })

  test.each([true, false])(
    'has the GPUs that it asked for itself (%s), else those of the preset',
    async (own) => {
      await using stage = await Stage.open({
        presets: [plain(60_000)],
        gpus: { count: 2, memoryMb: 8_192 },
      })
      const [first, second] = [stage.gpuId(0), stage.gpuId(1)]
      const id = await stage.submit('plain', { gpuIds: own ? [first] : null })
      stage.presets.put(plain(60_000, [second]))
      expect((await repeat(stage, id)).spec.gpus.ids).toEqual(own ? [first] : [second])
    },
  )

  test('has the rest of the old one, and nothing of its key', async () => {
    await using stage = await Stage.open({ presets: [plain(60_000)] })
    const asked = { input: { n: 1 }, priority: 3, labels: { team: 'red' }, affinity: 'a' }
    const id = await stage.submit('plain', { ...asked, idempotencyKey: 'once' })
    expect(await repeat(stage, id)).toMatchObject({ ...asked, idempotencyKey: null, owner: 'ada' })
  })

  test('is refused while the old one goes on, and unknown where there is none', async () => {
    await using stage = await Stage.open({ presets: [plain(60_000)] })
    const id = await stage.submit('plain')
    expect(await stage.dispatcher.retry(id, ADA)).toMatchObject({ code: 'NOT_ENDED' })
    expect(await stage.dispatcher.retry('nothing' as TaskId, ADA)).toBeNull()
  })
})

describe('another attempt', () => {
  test('follows after a wait that doubles, and not before', async () => {
    const retry = { maxAttempts: 3, backoffMs: 1_000, on: ['worker_failed'] as const }
    await using stage = await Stage.open({ presets: [oneOff('plain', { retry, gpus: NO_GPU })] })
    const id = await stage.submit('plain')
    for (const [at, waitMs] of [1_000, 2_000].entries()) {
      ;(await stage.worker(at + 1)).exit(9)
      await eventually(async () => {
        expect(await stage.task(id)).toMatchObject({ status: 'QUEUED', attempt: at + 1 })
        expect(stage.dispatcher.queuePosition(id)).toBe(1)
      })
      stage.clock.advance(waitMs - 1)
      await stage.planned()
      expect(stage.runner.starts).toHaveLength(at + 1)
      stage.clock.advance(1)
    }
    ;(await stage.worker(3)).exit(9)
    expect(await stage.reached(id, 'FAILED')).toMatchObject({ attempt: 3, exitCode: 9 })
    expect(await stage.statuses(id)).toEqual([
      ...['QUEUED', 'STARTING', 'QUEUED', 'STARTING', 'QUEUED', 'STARTING', 'FAILED'],
    ])
  })

  test('waits out its time across a restart', async () => {
    const retry = { maxAttempts: 2, backoffMs: 60_000, on: ['worker_failed'] as const }
    await using stage = await Stage.open({ presets: [oneOff('plain', { retry, gpus: NO_GPU })] })
    const id = await stage.submit('plain')
    ;(await stage.worker()).exit(9)
    await stage.reached(id, 'QUEUED')
    await stage.restart()
    stage.clock.advance(59_999)
    await stage.planned()
    expect(stage.runner.starts).toHaveLength(1)
    stage.clock.advance(1)
    expect((await stage.worker(2)).order.run?.runId).toBe(`${id}.2`)
  })

  test.each([
    oneOff('plain', { gpus: NO_GPU }),
    session('plain', { gpus: NO_GPU, retry: { maxAttempts: 1 } }),
  ])('follows a start that was lost with the engine, whatever the preset says of retries', async (preset) => {
    await using stage = await Stage.open({ presets: [preset] })
    const held = stage.runner.holdStart()
    const id = await stage.submit('plain')
    await held.reached
    held.refuse({ status: 'failed', code: 'START_LOST', message: 'It went away.', hint: '' })
    await eventually(async () => {
      expect(await stage.task(id)).toMatchObject({ status: 'STARTING', attempt: 2 })
    })
    const [first, second] = stage.runner.starts
    expect(first?.name).not.toBe(second?.name)
    const status = await stage.statuses(id)
    expect(status).toEqual(['QUEUED', 'STARTING', 'QUEUED', 'STARTING'])
  })
})
