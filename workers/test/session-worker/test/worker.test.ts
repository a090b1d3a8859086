import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from 'vitest'

type Event = Readonly<Record<string, unknown>>

const folder = join(import.meta.dirname, '..')

function hasPython(): boolean {
  try {
    execFileSync('python3', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** The worker as a process, spoken to as the service speaks to it. */
class Session {
  readonly child: ChildProcess
  readonly events: Event[] = []
  readonly strayLines: string[] = []
  readonly stderr: Promise<string>
  readonly #closed: Promise<unknown>
  #wake: () => void = () => undefined

  constructor(program: string, env: Readonly<Record<string, string>>) {
    const child = spawn('python3', [program], {
      cwd: folder,
      env: { PATH: process.env['PATH'], LOAD_SECONDS: '0', ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    this.child = child
    child.stdin.on('error', () => undefined)
    this.stderr = text(child.stderr)
    this.#closed = once(child, 'close').then(() => {
      this.#wake()
    })
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (/^\{.*\}$/.test(line)) this.events.push(JSON.parse(line) as Event)
      else this.strayLines.push(line)
      this.#wake()
    })
  }

  send(...commands: readonly unknown[]): void {
    this.child.stdin?.write(commands.map((command) => `${JSON.stringify(command)}\n`).join(''))
  }

  run(taskId: string, input: unknown, attempt = 1): void {
    this.send({ command: 'run', task_id: taskId, attempt, input, output_dir: '/tmp' })
  }

  async until(what: string, holds: (event: Event) => boolean): Promise<Event> {
    for (;;) {
      const found = this.events.find(holds)
      if (found) return found
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        throw new Error(`the worker ended before ${what}: ${await this.stderr}`)
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  ready(): Promise<Event> {
    return this.until('it was ready', ({ status }) => status === 'ready')
  }

  finished(taskId: string): Promise<Event> {
    return this.until(
      `the end of ${taskId}`,
      ({ event, task_id }) => event === 'finish' && task_id === taskId,
    )
  }

  of(taskId: string): Event[] {
    return this.events.filter((event) => event['task_id'] === taskId)
  }

  async ended(): Promise<number | null> {
    await this.#closed
    return this.child.exitCode
  }
}

/** By name and status; a run of equal ones counts once. */
function outline(events: readonly Event[]): string[] {
  const names = events.map(({ event, status }) =>
    typeof status === 'string' ? `${String(event)} ${status}` : String(event),
  )
  return names.filter((name, index) => name !== names[index - 1])
}

const LOADED = ['connection connected', 'worker loading', 'worker ready']
const ANSWERED = ['worker working', 'text_delta', 'text', 'usage', 'finish completed']
/** Of a task that runs until it is stopped. */
const ENDLESS = { text: 'on and on', tokens: 1_000_000, interval_ms: 5 }

describe.skipIf(!hasPython())('session-worker', () => {
  const sessions: Session[] = []
  const start = (env: Readonly<Record<string, string>> = {}, program = 'worker.py'): Session => {
    const session = new Session(program, env)
    sessions.push(session)
    return session
  }
  afterEach(async () => {
    for (const session of sessions.splice(0)) {
      session.child.kill('SIGKILL')
      await session.ended()
    }
  })

  test('loads once, serves one task after the other, and exits with 0 when it is told to', async () => {
    const session = start({ GPU_MEMORY_MB: '2048', MODEL_NAME: 'tiny' })
    expect(await session.ready()).not.toHaveProperty('task_id')
    const loading = session.events.filter(({ status }) => status === 'loading')
    expect(loading.map(({ progress }) => progress)).toEqual(
      Array.from({ length: 11 }, (_, step) => step / 10),
    )
    for (const id of ['a.1', 'b.1']) {
      session.run(id, { text: ` said  to ${id}\n` })
      await session.finished(id)
      expect(outline(session.of(id))).toEqual(ANSWERED)
      const deltas = session.of(id).filter(({ event }) => event === 'text_delta')
      expect(deltas.map(({ delta }) => delta).join('')).toBe(` said  to ${id}\n`)
      expect(session.of(id).find(({ event }) => event === 'usage')).toMatchObject({ gpu_memory_mb: 2_048 })
    }
    session.send({ command: 'shutdown' })
    expect(await session.ended()).toBe(0)
    expect(outline(session.events.filter((event) => !('task_id' in event)))).toEqual([
      ...LOADED.slice(0, 2),
      'usage',
      'worker ready',
      'worker cleaning_up',
    ])
    expect(session.events.map(({ seq }) => seq)).toEqual(session.events.map((_, index) => index + 1))
    expect(await session.stderr).toBe('')
  })

  test('works on several tasks at a time and tells them apart', async () => {
    const session = start()
    await session.ready()
    session.run('slow.1', { text: 'slow', tokens: 100, interval_ms: 2 })
    session.run('endless.1', ENDLESS)
    session.run('quick.1', { prompt: 'quick', tokens: 3 })
    await session.finished('quick.1')
    expect(outline(session.of('slow.1'))).not.toContain('finish completed')
    await session.finished('slow.1')
    expect(session.of('slow.1').find(({ event }) => event === 'text')).toMatchObject({
      content: Array.from({ length: 100 }, () => 'slow').join(' '),
    })
    expect(outline(session.of('endless.1'))).toEqual(['worker working', 'text_delta'])
    expect(session.events.map(({ seq }) => seq)).toEqual(session.events.map((_, index) => index + 1))
  })

  test('a cancelled task stops within a token; the others and the worker go on', async () => {
    const session = start()
    await session.ready()
    session.run('stop.1', { ...ENDLESS, interval_ms: 3_600_000 })
    session.run('go-on.1', ENDLESS)
    await session.until('it began', ({ task_id }) => task_id === 'stop.1')
    session.send({ command: 'cancel', task_id: 'stop.1' }, { command: 'cancel', task_id: 'unknown.1' })
    expect(await session.finished('stop.1')).toMatchObject({ status: 'cancelled' })
    const before = session.of('go-on.1').length
    await session.until('the other goes on', () => session.of('go-on.1').length > before + 3)
    session.run('next.1', 'next')
    expect(await session.finished('next.1')).toMatchObject({ status: 'completed' })
  })

  test.each(['SIGTERM', 'SIGINT'] as const)(
    '%s ends its tasks as cancelled and the worker with 0',
    async (signal) => {
      const session = start()
      await session.ready()
      session.run('a.1', ENDLESS)
      await session.until('it began', ({ task_id }) => task_id === 'a.1')
      session.child.kill(signal)
      expect(await session.ended()).toBe(0)
      expect(outline(session.events).slice(-2)).toEqual(['worker cleaning_up', 'finish cancelled'])
    },
  )

  test('SIGTERM while it loads ends it at once', async () => {
    const session = start({ LOAD_SECONDS: '600' })
    await session.until('it loads', ({ status }) => status === 'loading')
    session.child.kill('SIGTERM')
    expect(await session.ended()).toBe(143)
  })

  test('does the tasks that it has when its input ends, and exits with 0', async () => {
    const session = start()
    session.run('a.1', { text: 'a', tokens: 20, interval_ms: 2 })
    session.child.stdin?.end()
    expect(await session.ended()).toBe(0)
    expect(outline(session.of('a.1'))).toEqual(ANSWERED)
  })

  test('passes over what is no command, and over commands that it does not know', async () => {
    const session = start()
    session.child.stdin?.write('nonsense\n[]\n{"command":"run"}\n\n')
    session.send({ command: 'praise' }, { command: 'run', task_id: 'a.1', input: 'still here', mood: 'good' })
    expect(await session.finished('a.1')).toMatchObject({ status: 'completed' })
    session.child.kill('SIGTERM')
    expect((await session.stderr).match(/not a command/g)).toHaveLength(4)
  })

  test.each([
    [{ text: 7 }, '"text"'],
    [{ tokens: -1 }, '"tokens"'],
    [{ tokens: true }, '"tokens"'],
    [{ interval_ms: 1.5 }, '"interval_ms"'],
  ])('fails a task whose input is %j, and goes on', async (input, named) => {
    const session = start()
    session.run('bad.1', input)
    expect(await session.finished('bad.1')).toMatchObject({
      status: 'failed',
      error: { code: 'INVALID_INPUT', message: expect.stringContaining(named) as string },
    })
    session.run('good.1', 'good')
    expect(await session.finished('good.1')).toMatchObject({ status: 'completed' })
  })

  test('refuses a setting that cannot be used, and names it', async () => {
    const session = start({ LOAD_SECONDS: 'soon' })
    expect(await session.ended()).toBe(1)
    expect(await session.stderr).toMatch(/LOAD_SECONDS .*'soon'/)
  })

  test('does one task and exits where it is started for one', async () => {
    const scratch = await mkdtemp(join(tmpdir(), 'session-worker-'))
    try {
      const path = join(scratch, 'input.json')
      await writeFile(path, JSON.stringify({ prompt: 'just once' }))
      const session = start({ INPUT_FILE: path, TASK_ID: 'once.1' })
      expect(await session.ended()).toBe(0)
      expect(outline(session.events)).toEqual([...LOADED.slice(0, 2), ...ANSWERED])
      await writeFile(path, JSON.stringify({ text: 7 }))
      expect(await start({ INPUT_FILE: path, TASK_ID: 'once.2' }).ended()).toBe(1)
    } finally {
      await rm(scratch, { recursive: true })
    }
  })

  test('keeps no memory of the 3,000 tasks that it has served', async () => {
    const session = start()
    await session.ready()
    const serve = async (from: number, to: number): Promise<number> => {
      for (let n = from; n < to; n++) {
        session.run(`t${n}.1`, { text: 'some words to say' })
        await session.until('the end', () =>
          session.events.some((e) => e['task_id'] === `t${n}.1` && e['event'] === 'finish'),
        )
        session.events.length = 0
      }
      const status = execFileSync('grep', ['VmRSS', `/proc/${String(session.child.pid)}/status`], {
        encoding: 'utf8',
      })
      return Number(/(\d+) kB/.exec(status)?.[1])
    }
    const before = await serve(0, 500)
    expect(await serve(500, 3_000)).toBeLessThan(before + 1_024)
  })
})

describe.skipIf(!hasPython())('the faults of session-worker', () => {
  let session: Session
  const start = async (faults = ''): Promise<Session> => {
    session = new Session('faults.py', { FAULTS: faults })
    await session.ready()
    return session
  }
  afterEach(async () => {
    session.child.kill('SIGKILL')
    await session.ended()
  })

  test('without a fault it is the worker', async () => {
    await start()
    session.run('a.1', { text: 'a b', fault: null })
    await session.finished('a.1')
    expect(outline(session.of('a.1'))).toEqual(ANSWERED)
  })

  test('a fault can be for the first attempts only', async () => {
    await start()
    const input = { text: 'a b c', fault: 'fail', until_attempt: 1 }
    session.run('a.1', input, 1)
    expect(await session.finished('a.1')).toMatchObject({
      status: 'failed',
      error: { code: 'FAILED_AS_ASKED' },
    })
    session.run('a.2', input, 2)
    expect(await session.finished('a.2')).toMatchObject({ status: 'completed' })
  })

  test('silent and foreign tasks never get an event of their own', async () => {
    await start()
    session.run('silent.1', { fault: 'silent' })
    session.run('foreign.1', { fault: 'foreign' })
    session.run('good.1', 'good')
    await session.finished('good.1')
    await session.finished('another-foreign.1')
    expect([...session.of('silent.1'), ...session.of('foreign.1')]).toEqual([])
  })

  test.each([
    [{ fault: 'exit', exit_code: 7 }, 7, null],
    [{ fault: 'signal' }, null, 'SIGKILL'],
    [{ fault: 'signal', signal: 11 }, null, 'SIGSEGV'],
  ])('%j ends the process in the middle of the task', async (input, exitCode, signal) => {
    await start()
    session.run('a.1', { text: 'a b c', after_tokens: 2, ...input })
    expect(await session.ended()).toBe(exitCode)
    expect(session.child.signalCode).toBe(signal)
    expect(outline(session.of('a.1'))).toEqual(['worker working', 'text_delta'])
  })

  test('fail says what the input asks for', async () => {
    await start()
    const error = { code: 'CUDA_ERROR', message: 'CUDA error: an illegal memory access was encountered' }
    session.run('a.1', { text: 'a b', fault: 'fail', error })
    expect(await session.finished('a.1')).toMatchObject({ status: 'failed', error })
  })

  test('ignore_cancel goes on to the end', async () => {
    await start()
    session.run('a.1', { text: 'a', tokens: 50, interval_ms: 2, fault: 'ignore_cancel' })
    await session.until('it began', ({ task_id }) => task_id === 'a.1')
    session.send({ command: 'cancel', task_id: 'a.1' })
    expect(await session.finished('a.1')).toMatchObject({ status: 'completed' })
  })

  test('ignore_shutdown outlives a shutdown and SIGTERM', async () => {
    await start('ignore_shutdown')
    session.child.kill('SIGTERM')
    session.run('a.1', 'still here')
    await session.finished('a.1')
    session.run('b.1', ENDLESS)
    session.send({ command: 'shutdown' })
    const before = session.of('b.1').length
    await session.until('it goes on', () => session.of('b.1').length > before + 20)
    expect(outline(session.events)).not.toContain('worker cleaning_up')
  })

  test('deaf reads nothing of its input, and ends on SIGTERM', async () => {
    session = new Session('faults.py', { FAULTS: 'deaf' })
    session.run('a.1', ENDLESS)
    await session.ready()
    session.child.kill('SIGTERM')
    expect(await session.ended()).toBe(0)
    expect(session.of('a.1')).toEqual([])
  })

  test('late, stray, broken and seq_hole spoil the output', async () => {
    await start()
    session.run('a.1', { text: 'a b c', fault: 'stray, broken, seq_hole, late' })
    await session.until('the second finish', ({ error }) => error === 'too late')
    expect(outline(session.of('a.1')).slice(-3)).toEqual(['finish completed', 'text_delta', 'finish failed'])
    expect(session.strayLines).toEqual(['a library printed this', expect.stringContaining('{"event"')])
    expect(
      session.events.filter((event) => event['event'] === 'text_delta' && !('task_id' in event)),
    ).toHaveLength(1)
    const numbers = session.events.map(({ seq }) => Number(seq))
    expect(numbers.at(-1)).toBe(numbers.length + 1)
  })

  test('hang says nothing more until it is cancelled', async () => {
    await start()
    session.run('a.1', { text: 'a b', fault: 'hang' })
    await session.until('a token', ({ event }) => event === 'text_delta')
    session.send({ command: 'cancel', task_id: 'a.1' })
    expect(await session.finished('a.1')).toMatchObject({ status: 'cancelled' })
  })

  test('hang_loading never becomes ready', async () => {
    session = new Session('faults.py', { FAULTS: 'hang_loading' })
    await session.until('it loads', ({ status }) => status === 'loading')
    session.child.kill('SIGTERM')
    expect(await session.ended()).toBe(143)
    expect(outline(session.events)).toEqual(LOADED.slice(0, 2))
  })
})
