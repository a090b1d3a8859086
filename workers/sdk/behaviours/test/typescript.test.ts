import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { WorkerProcess } from './worker-process.ts'

describe('what only workers in JavaScript do', () => {
  const workers: WorkerProcess[] = []
  afterEach(async () => {
    for (const worker of workers.splice(0)) {
      worker.child.kill('SIGKILL')
      await worker.ended()
    }
  })

  async function startReady(): Promise<WorkerProcess> {
    const worker = new WorkerProcess(['node', 'behaviours.mjs'], {
      cwd: join(import.meta.dirname, '../workers'),
      env: { SLOTS: '2' },
    })
    workers.push(worker)
    await worker.ready()
    return worker
  }

  test('an error that nobody waits for fails what runs, and ends the worker', async () => {
    const worker = await startReady()
    worker.run('a.1', { do: 'endless' })
    worker.run('b.1', { do: 'uncaught' })
    const error = { code: 'Broken', message: 'nobody waits for this' }
    expect(await worker.ended()).toBe(1)
    for (const id of ['a.1', 'b.1'])
      expect(worker.of(id).at(-1)).toEqual({ type: 'finish', status: 'failed', error })
  })

  test('a model that never waits for anything can be cancelled', async () => {
    const worker = await startReady()
    worker.run('a.1', { do: 'busy' })
    await worker.until(({ type }) => type === 'text_delta')
    worker.send({ command: 'cancel', task_id: 'a.1' })
    expect(await worker.finished('a.1')).toMatchObject({ status: 'cancelled' })
  })

  test('the signal that has killed it is told', async () => {
    const worker = await startReady()
    worker.run('a.1', { do: 'die' })
    expect(await worker.ended()).toBe('SIGKILL')
  })
})
