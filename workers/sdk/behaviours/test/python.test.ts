import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { noPython, WorkerProcess } from './worker-process.ts'

describe.skipIf(noPython)('what only workers in Python do', () => {
  const workers: WorkerProcess[] = []
  afterEach(async () => {
    for (const worker of workers.splice(0)) {
      worker.child.kill('SIGKILL')
      await worker.ended()
    }
  })

  function start(env: Readonly<Record<string, string>> = {}): WorkerProcess {
    const worker = new WorkerProcess(['python3', 'behaviours.py'], {
      cwd: join(import.meta.dirname, '../workers'),
      env,
    })
    workers.push(worker)
    return worker
  }

  test('an async generator streams, several share one loop, and one is cancelled where it awaits', async () => {
    const worker = start({ SLOTS: '2' })
    await worker.ready()
    worker.run('a.1', { do: 'converse' })
    worker.run('b.1', { do: 'converse', count: 3 })
    expect(await worker.finished('b.1')).toMatchObject({ status: 'completed' })
    worker.run('c.1', { do: 'answer' })
    await worker.finished('c.1')
    expect(worker.of('c.1')[1]).toEqual({ type: 'text', content: 'answered' })
    worker.send({ command: 'cancel', task_id: 'a.1' })
    expect(await worker.finished('a.1')).toMatchObject({ status: 'cancelled' })
    expect(worker.of('a.1').at(-2)).toEqual({ type: 'log', level: 'info', message: 'cleaned up' })
    expect(worker.of('b.1').filter(({ type }) => type === 'text_delta')).toHaveLength(3)
  })

  test('sys.exit in a task fails that task alone', async () => {
    const worker = start()
    await worker.ready()
    worker.run('a.1', { do: 'exit' })
    const error = { code: 'SystemExit', message: 'no more' }
    expect(await worker.finished('a.1')).toMatchObject({ status: 'failed', error })
    worker.run('b.1', { do: 'nothing' })
    expect(await worker.finished('b.1')).toMatchObject({ status: 'completed' })
  })

  test('a model that reads its standard input gets no commands', async () => {
    const worker = start()
    await worker.ready()
    worker.run('a.1', { do: 'read stdin' })
    await worker.finished('a.1')
    expect(worker.of('a.1')[1]).toEqual({ type: 'text', content: "''" })
  })

  test('SIGTERM ends it also while native code holds its main thread', async () => {
    const worker = start({ LOAD: 'native' })
    await worker.until((event) => event.type === 'worker' && event.progress === 0.5)
    worker.child.kill('SIGTERM')
    expect(await worker.ended()).toBe(143)
  })
})
