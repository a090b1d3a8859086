import { describe, expect, test } from 'vitest'
import { createOutlook, plan } from '../../src/planner/index.ts'
import { facts, gpu, gpuId, need, NOW, session, situation, task, taskId, worker } from './situation.ts'

const HOUR_MS = 3_600_000

describe('an API key that may have so many tasks running', () => {
  const two = { maxRunning: 2, spent: null }
  const ofKey = (id: string, at: number) => task(id, { keyId: 'k', queuedAt: NOW - 1_000 + at })

  test('has so many started, and what is left is free for others', () => {
    const queue = [ofKey('a', 0), ofKey('b', 1), ofKey('c', 2), task('other')]
    const gpus = [0, 1, 2, 3].map((index) => gpu(index))
    const { actions, waiting } = plan(situation({ queue, gpus, keys: new Map([['k', two]]) }))
    expect(actions.map((action) => action.kind === 'start' && action.taskId)).toEqual(
      ['a', 'b', 'other'].map(taskId),
    )
    expect(waiting.get(taskId('c'))).toEqual({
      kind: 'limit',
      reason: 'API key k may have 2 tasks running at a time, and has.',
    })
  })

  test('has those counted that are running', () => {
    const workers = [worker('w', { runningKeys: ['k'] })]
    const input = situation({ queue: [ofKey('a', 0), ofKey('b', 1)], workers, keys: new Map([['k', two]]) })
    expect(plan(input).actions).toMatchObject([{ taskId: taskId('a') }])
  })

  test('has no GPU held back for the tasks that it may not start', () => {
    const due = task('due', { keyId: 'k', queuedAt: NOW - HOUR_MS, gpus: need({ count: 2 }) })
    const workers = [worker('w', { claim: { gpuIds: [gpuId(0)], memoryMb: null }, runningKeys: ['k'] })]
    const keys = new Map([['k', { maxRunning: 1, spent: null }]])
    expect(plan(situation({ queue: [due, task('later')], workers, keys })).actions).toMatchObject([
      { taskId: taskId('later'), claim: { gpuIds: [gpuId(1)] } },
    ])
  })

  test('takes no more slots of a warm session than that', () => {
    const preset = { preset: 'chat', session: session({ maxConcurrency: 4 }) }
    const workers = [worker('w', { ...preset, runningSince: [] })]
    const queue = ['a', 'b', 'c'].map((id) => task(id, { ...preset, keyId: 'k' }))
    const { actions } = plan(situation({ queue, workers, keys: new Map([['k', two]]) }))
    expect(actions.map(({ kind }) => kind)).toEqual(['assign', 'assign'])
  })

  test('has the start of what waits estimated by its own pace', () => {
    const known = { facts: { 'one-off': facts({ loadMs: 0, runMs: 1_000 }) } }
    const queue = [ofKey('a', 0), ofKey('b', 1), task('other', { queuedAt: NOW })]
    const keys = new Map([['k', { maxRunning: 1, spent: null }]])
    const outlook = createOutlook(situation({ ...known, queue, keys }))
    expect(outlook.estimate(taskId('other'))?.at).toBe(NOW)
    expect(outlook.estimate(taskId('b'))?.at).toBeGreaterThanOrEqual(NOW + 1_000)
  })
})

describe('an API key whose GPU time is spent', () => {
  const until = NOW + HOUR_MS
  const keys = new Map([['k', { maxRunning: null, spent: { gpuSeconds: 3_600, until } }]])

  test('has its tasks wait until it gets more, and is planned again then', () => {
    const { actions, waiting, wakeAt } = plan(situation({ queue: [task('a', { keyId: 'k' })], keys }))
    expect(actions).toEqual([])
    expect(waiting.get(taskId('a'))?.reason).toBe(
      `API key k has used its 3,600 GPU-seconds of the day; it gets more at ${new Date(until).toISOString()}.`,
    )
    expect(wakeAt).toBe(until)
  })

  test('has those started that need no GPU', () => {
    const queue = [task('a', { keyId: 'k', gpus: need({ count: 0 }) })]
    expect(plan(situation({ queue, keys })).actions).toMatchObject([{ kind: 'start', taskId: taskId('a') }])
  })

  test('has them started once the day is over', () => {
    const queue = [task('a', { keyId: 'k' })]
    expect(plan(situation({ now: until, queue, keys })).actions).toMatchObject([{ taskId: taskId('a') }])
  })
})
