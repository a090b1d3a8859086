import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { WorkerEvent } from '@gpu-service/event-parser'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { noPython, type Said, WorkerProcess } from './worker-process.ts'

const SDKS = [
  ...(noPython ? [] : [{ sdk: 'Python', command: ['python3', 'behaviours.py'] }]),
  { sdk: 'TypeScript', command: ['node', 'behaviours.mjs'] },
]

const ENDLESS = { do: 'endless' }

/** As in "worker ready", "text_delta"; a run of equal ones counts once. */
function outline(events: readonly WorkerEvent[]): string[] {
  const names = events.map((event) => ('status' in event ? `${event.type} ${event.status}` : event.type))
  return names.filter((name, index) => name !== names[index - 1])
}

function textOf(events: readonly WorkerEvent[]): string {
  return events.map((event) => (event.type === 'text_delta' ? event.delta : '')).join('')
}

describe.each(SDKS)('a worker made with the SDK for $sdk', ({ sdk, command }) => {
  let folder: string
  const workers: WorkerProcess[] = []

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'worker-behaviours-'))
  })
  afterEach(async () => {
    for (const worker of workers.splice(0)) {
      worker.child.kill('SIGKILL')
      await worker.ended()
    }
    await rm(folder, { recursive: true })
  })

  function start(env: Readonly<Record<string, string>> = {}): WorkerProcess {
    const worker = new WorkerProcess(command, { cwd: join(import.meta.dirname, '../workers'), env })
    workers.push(worker)
    return worker
  }

  async function startReady(env: Readonly<Record<string, string>> = {}): Promise<WorkerProcess> {
    const worker = start(env)
    await worker.ready()
    return worker
  }

  async function startOneOff(input: unknown, env: Readonly<Record<string, string>> = {}) {
    const file = join(folder, 'input.json')
    await writeFile(file, JSON.stringify(input))
    return start({ TASK_ID: 'a.1', INPUT_FILE: file, OUTPUT_DIR: folder, ...env })
  }

  /** A folder with a file in it, what the service tells of that, and what the worker then says. */
  async function giveFile() {
    const inputs = join(folder, 'given')
    const name = 'a clip \u00fc.txt'
    await mkdir(inputs)
    await writeFile(join(inputs, name), 'heard')
    const sha256 = createHash('sha256').update('heard').digest('hex')
    return {
      folder: inputs,
      told: { name, media_type: 'text/plain', bytes: 5, sha256 },
      expected: {
        name,
        mediaType: 'text/plain',
        bytes: 5,
        sha256,
        path: join(inputs, name),
        content: 'heard',
      },
    }
  }

  /** Runs it to its end; nothing but whole, counted events may have come. */
  async function end(worker: WorkerProcess) {
    const exitCode = await worker.ended()
    expect(worker.strays).toEqual([])
    expect(worker.seqs).toEqual(worker.seqs.map((_, index) => index + 1))
    return { exitCode, said: worker.said, events: worker.of('a.1'), stderr: worker.stderr }
  }

  const oneOff = async (input: unknown, env?: Readonly<Record<string, string>>) =>
    end(await startOneOff(input, env))

  describe('started for one task', () => {
    test('loads, streams the text, gives the result and exits with 0', async () => {
      const { said, exitCode } = await oneOff({
        do: 'stream',
        pieces: ['Hello ', '', 'Wörld 🐎'],
        value: [1],
      })
      expect(said).toEqual<Said[]>([
        { type: 'connection', status: 'connected', taskId: null },
        { type: 'worker', status: 'loading', progress: 0, message: null, taskId: 'a.1' },
        { type: 'worker', status: 'loading', progress: 0.5, message: 'Halfway', taskId: 'a.1' },
        { type: 'worker', status: 'working', progress: null, message: null, taskId: 'a.1' },
        { type: 'text_delta', delta: 'Hello ', taskId: 'a.1' },
        { type: 'text_delta', delta: 'Wörld 🐎', taskId: 'a.1' },
        { type: 'result', value: [1], taskId: 'a.1' },
        { type: 'finish', status: 'completed', error: null, taskId: 'a.1' },
      ])
      expect(exitCode).toBe(0)
    })

    test.each<[string, unknown, WorkerEvent[]]>([
      ['a text is the output text', { do: 'text', text: 'said' }, [{ type: 'text', content: 'said' }]],
      [
        'other JSON is the result',
        { do: 'result', value: { a: [1, null] } },
        [{ type: 'result', value: { a: [1, null] } }],
      ],
      ['nothing is nothing', { do: 'nothing' }, []],
      ['the model is what was loaded', { do: 'model' }, [{ type: 'text', content: 'the model' }]],
    ])('what it returns: %s', async (_name, input, expected) => {
      const { events } = await oneOff(input)
      const from = events.findIndex((event) => event.type === 'worker' && event.status === 'working') + 1
      expect(events.slice(from, -1)).toEqual(expected)
    })

    test('takes its input from TASK_INPUT where there is no file, and needs no task', async () => {
      const { said } = await end(start({ TASK_INPUT: '"by hand"' }))
      expect(said.at(-2)).toEqual({ type: 'result', value: { input: 'by hand' }, taskId: null })
    })

    test('has the files that it was told of, or by hand those of the folder', async () => {
      const { folder: inputs, told, expected } = await giveFile()
      const TASK_FILES = JSON.stringify([told, { name: 'nameless' }])
      const { said } = await end(await startOneOff({ do: 'files' }, { INPUT_DIR: inputs, TASK_FILES }))
      expect(said.at(-2)).toMatchObject({ type: 'result', value: [expected] })
      const byHand = await end(start({ TASK_INPUT: '{"do":"files"}', INPUT_DIR: inputs }))
      const value = [{ ...expected, mediaType: 'application/octet-stream' }]
      expect(byHand.said.at(-2)).toMatchObject({ type: 'result', value })
    })

    test('has what earlier attempts have left', async () => {
      const { folder: PREVIOUS_DIR, told, expected } = await giveFile()
      const left = { PREVIOUS_DIR, PREVIOUS_FILES: JSON.stringify([told]) }
      const { said } = await end(await startOneOff({ do: 'previous' }, left))
      expect(said.at(-2)).toMatchObject({ type: 'result', value: [expected] })
      const first = await end(await startOneOff({ do: 'previous' }))
      expect(first.said.at(-2)).toMatchObject({ type: 'result', value: [] })
    })

    test('fails where its files cannot be read', async () => {
      const { events } = await oneOff({ do: 'files' }, { INPUT_DIR: join(folder, 'missing') })
      expect(events.at(-1)).toMatchObject({ status: 'failed', error: { code: 'INVALID_INPUT' } })
    })

    test('says every event of the protocol', async () => {
      const { events } = await oneOff({ do: 'everything' })
      expect(events.slice(3)).toEqual([
        { type: 'worker', status: 'decoding', message: 'Latents', progress: 0.25 },
        { type: 'progress', completed: 3, total: 4, unit: 'steps', message: 'Nearly' },
        { type: 'log', level: 'warning', message: 'careful' },
        { type: 'custom', name: 'metrics', payload: { event: 'metrics', step: 1, loss: null } },
        { type: 'usage', values: { prompt_tokens: 3, gpu_memory_mb: 10 } },
        {
          type: 'artifact',
          source: { kind: 'path', path: 'notes/a.txt' },
          name: 'notes/a.txt',
          mediaType: 'text/plain',
        },
        { type: 'artifact', source: { kind: 'path', path: 'b.bin' }, name: 'Second', mediaType: null },
        { type: 'custom', name: 'sampled', payload: { event: 'sampled', temperature: 0.5 } },
        { type: 'finish', status: 'completed', error: null },
      ])
      expect(await readFile(join(folder, 'notes/a.txt'), 'utf8')).toBe('héllo')
    })

    test('keeps what others print off the event stream, native code and other programs too', async () => {
      const { events, stderr } = await oneOff({ do: 'noisy' })
      expect(textOf(events)).toBe('before after')
      for (const noise of ['printed', 'without a newline', 'to the descriptor', 'by another program'])
        expect(stderr).toContain(noise)
      expect(stderr).toMatch(sdk === 'Python' ? /by native code/ : /Mark-Compact/)
    })

    test('cuts large texts into lines that the protocol allows', async () => {
      const text = 'ä🐎'
      const { events } = await oneOff({ do: 'repeated', text, times: 500_000 })
      expect(textOf(events)).toBe(text.repeat(500_000))
      expect(events.length).toBeGreaterThan(20)
    })

    test.each([
      ['refuse', 'INVALID_INPUT', 'the prompt is missing', ''],
      ['fail with code', 'CUDA_OUT_OF_MEMORY', 'it does not fit', ''],
      ['crash', 'Broken', 'a tensor is missing', 'a tensor is missing'],
      ['escape', expect.any(String) as string, expect.stringContaining('etc/passwd') as string, ''],
      [
        'overwrite',
        expect.any(String) as string,
        expect.stringContaining('outside.txt is not in') as string,
        '',
      ],
      ['number', 'TypeError', expect.stringContaining('a worker yields pieces of text') as string, ''],
      ['long result', expect.any(String) as string, expect.stringContaining('is too long') as string, ''],
    ])('fails with class and message: %s', async (what, code, message, onStderr) => {
      const { events, exitCode, stderr } = await oneOff({ do: what })
      expect(existsSync(join(folder, '../outside.txt'))).toBe(false)
      expect(events.at(-1)).toEqual({ type: 'finish', status: 'failed', error: { code, message } })
      expect(exitCode).toBe(1)
      expect(stderr).toContain(onStderr)
    })

    test('fails where the model cannot be loaded', async () => {
      const { events, exitCode } = await oneOff({}, { LOAD: 'fail' })
      const error = { code: 'Broken', message: 'no such weights' }
      expect(events).toContainEqual({ type: 'finish', status: 'failed', error })
      expect(exitCode).toBe(1)
    })

    test('fails where its input cannot be read', async () => {
      const { events } = await end(start({ TASK_ID: 'a.1', INPUT_FILE: join(folder, 'missing.json') }))
      expect(events.at(-1)).toMatchObject({ status: 'failed', error: { code: 'INVALID_INPUT' } })
    })

    test('SIGTERM cancels the task, and the worker cleans up and exits with 0', async () => {
      const worker = await startOneOff(ENDLESS)
      await worker.until((event) => event.type === 'text_delta')
      worker.child.kill('SIGTERM')
      const { events, said, exitCode } = await end(worker)
      expect(outline(events).slice(-3)).toEqual(['text_delta', 'log', 'finish cancelled'])
      expect(outline(said)).toContain('worker cleaning_up')
      expect(exitCode).toBe(0)
    })

    test('SIGTERM ends it while it loads', async () => {
      const worker = await startOneOff({}, { LOAD: 'hang' })
      await worker.until((event) => event.type === 'worker' && event.progress === 0.5)
      worker.child.kill('SIGTERM')
      const { said, exitCode } = await end(worker)
      expect(outline(said).slice(-2)).toEqual(['worker cleaning_up', 'finish cancelled'])
      expect(exitCode).toBe(143)
    })

    test('is ended where nobody reads it any more', async () => {
      const worker = await startOneOff(ENDLESS)
      await worker.until((event) => event.type === 'text_delta')
      worker.child.stdout.destroy()
      expect(await worker.ended()).toBe(1)
      expect(worker.stderr).toContain('nobody reads')
    })
  })

  describe('started as a session', () => {
    test('loads once, serves one task after the other, and ends with its stdin when all is done', async () => {
      const worker = await startReady()
      worker.run('a.1', { do: 'stream', pieces: ['one'] })
      await worker.finished('a.1')
      worker.run('b.1', { do: 'model' })
      worker.child.stdin.end()
      const { said, exitCode } = await end(worker)
      expect(outline(worker.of(null))).toEqual(['connection connected', 'worker loading', 'worker ready'])
      expect(outline(worker.of('a.1'))).toEqual(['worker working', 'text_delta', 'finish completed'])
      expect(said.slice(-2)).toEqual([
        { type: 'text', content: 'the model', taskId: 'b.1' },
        { type: 'finish', status: 'completed', error: null, taskId: 'b.1' },
      ])
      expect(exitCode).toBe(0)
    })

    test('each task has the files that it was given, and none where it was given none', async () => {
      const worker = await startReady()
      const { folder: input_dir, told, expected } = await giveFile()
      for (const [task_id, files] of Object.entries({ 'a.1': { input_dir, files: [told] }, 'b.1': {} })) {
        worker.send({ command: 'run', task_id, attempt: 1, input: { do: 'files' }, ...files })
        await worker.finished(task_id)
      }
      expect(worker.of('a.1').at(-2)).toEqual({ type: 'result', value: [expected] })
      expect(worker.of('b.1').at(-2)).toEqual({ type: 'result', value: [] })
    })

    test('each task has what earlier attempts at it have left', async () => {
      const worker = await startReady()
      const { folder: previous_dir, told, expected } = await giveFile()
      for (const [task_id, left] of Object.entries({
        'a.2': { previous_dir, previous_files: [told] },
        'b.1': {},
      })) {
        worker.send({ command: 'run', task_id, attempt: 2, input: { do: 'previous' }, ...left })
        await worker.finished(task_id)
      }
      expect(worker.of('a.2').at(-2)).toEqual({ type: 'result', value: [expected] })
      expect(worker.of('b.1').at(-2)).toEqual({ type: 'result', value: [] })
    })

    test('passes over what it does not know', async () => {
      const worker = await startReady()
      worker.send('', '   ', 'not JSON', '[1]', '"run"', '{"command":"dance"}', '{"command":"run"}')
      worker.send({ command: 'cancel', task_id: 'never.1' }, { command: 7 })
      worker.send({ command: 'run', task_id: 'a.1', input: { do: 'text', text: 'hi' }, colour: 'blue' })
      await worker.finished('a.1')
      worker.send({ command: 'shutdown' })
      const { events, exitCode } = await end(worker)
      expect(outline(events)).toEqual(['worker working', 'text', 'finish completed'])
      expect(exitCode).toBe(0)
    })

    test('a failed task leaves it warm', async () => {
      const worker = await startReady()
      for (const what of ['crash', 'refuse', 'long result']) {
        worker.run(`${what}.1`, { do: what })
        expect(await worker.finished(`${what}.1`)).toMatchObject({ status: 'failed' })
      }
      worker.run('a.1', { do: 'text', text: 'fine' })
      expect(await worker.finished('a.1')).toMatchObject({ status: 'completed' })
    })

    test.each(['endless', 'patient'])(
      'a cancelled task is cancelled and leaves it warm: %s',
      async (what) => {
        const worker = await startReady()
        worker.run('a.1', { do: what })
        await worker.until((event) => event.type === 'text_delta' || event.type === 'progress')
        worker.send({ command: 'cancel', task_id: 'a.1' })
        expect(await worker.finished('a.1')).toMatchObject({ status: 'cancelled', error: null })
        worker.run('b.1', { do: 'text', text: 'fine' })
        expect(await worker.finished('b.1')).toMatchObject({ status: 'completed' })
        expect(worker.of('a.1').some((event) => event.type === 'text')).toBe(false)
      },
    )

    test('works on as many tasks as it has slots, and the next one waits', async () => {
      const worker = await startReady({ SLOTS: '2' })
      for (const id of ['a.1', 'b.1', 'c.1', 'd.1']) worker.run(id, ENDLESS)
      for (const id of ['a.1', 'b.1'])
        await worker.until(({ type, taskId }) => type === 'text_delta' && taskId === id)
      await worker.until(({ taskId }) => taskId === 'd.1')
      worker.send({ command: 'cancel', task_id: 'd.1' }, { command: 'cancel', task_id: 'b.1' })
      await worker.until(({ type, taskId }) => type === 'text_delta' && taskId === 'c.1')
      worker.send({ command: 'shutdown' })
      const { said } = await end(worker)
      expect(outline(worker.of('c.1')).slice(0, 3)).toEqual([
        'worker waiting',
        'worker working',
        'text_delta',
      ])
      expect(outline(worker.of('d.1'))).toEqual(['worker waiting', 'finish cancelled'])
      expect(said.filter(({ type }) => type === 'finish')).toHaveLength(4)
    })

    test.each(['shutdown', 'SIGTERM'])('%s cancels its tasks and ends it with 0', async (how) => {
      const worker = await startReady()
      worker.run('a.1', ENDLESS)
      await worker.until((event) => event.type === 'text_delta')
      if (how === 'SIGTERM') worker.child.kill('SIGTERM')
      else worker.send({ command: 'shutdown' })
      const { said, exitCode } = await end(worker)
      expect(outline(said)).toContain('worker cleaning_up')
      expect(said.at(-1)).toMatchObject({ type: 'finish', status: 'cancelled', taskId: 'a.1' })
      expect(exitCode).toBe(0)
    })

    test('says nothing of a task after its finish', async () => {
      const worker = await startReady()
      worker.run('a.1', { do: 'late' })
      await worker.finished('a.1')
      await worker.untilStderr('a.1 has ended')
      worker.send({ command: 'shutdown' })
      const { events } = await end(worker)
      expect(outline(events)).toEqual(['worker working', 'finish completed'])
    })

    test('says why the model cannot be loaded, and exits with 1', async () => {
      const { said, exitCode } = await end(start({ LOAD: 'fail' }))
      expect(said.at(-1)).toMatchObject({
        type: 'log',
        level: 'error',
        message: 'The model could not be loaded: no such weights',
      })
      expect(exitCode).toBe(1)
    })
  })
})
