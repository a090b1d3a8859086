import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

type Event = Record<string, unknown>

interface Run {
  readonly lines: readonly string[]
  readonly events: readonly Event[]
  readonly stderr: string
  readonly exitCode: number | null
  readonly signal: string | null
}

const folder = join(import.meta.dirname, '..')
const FAST = { INIT_SECONDS: '0', LOAD_SECONDS: '0', TOKEN_DELAY_SECONDS: '0', CLEANUP_SECONDS: '0' }

function hasPython(): boolean {
  try {
    execFileSync('python3', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** Runs the worker to its end; `onLine` sees each line of its stdout as it comes. */
async function run(
  env: Record<string, string>,
  onLine: (line: string, child: ChildProcess) => void = () => undefined,
): Promise<Run> {
  const child = spawn('python3', ['worker.py'], {
    cwd: folder,
    env: { PATH: process.env['PATH'], ...FAST, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const closed = once(child, 'close')
  const stderr = text(child.stderr)
  const lines: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line)
    onLine(line, child)
  }
  await closed
  return {
    lines,
    events: lines.filter((line) => line.endsWith('}')).map((line) => JSON.parse(line) as Event),
    stderr: await stderr,
    exitCode: child.exitCode,
    signal: child.signalCode,
  }
}

/** The events by name and status; a run of equal ones counts once. */
function outline(events: readonly Event[]): string[] {
  const names = events.map(({ event, status }) =>
    typeof status === 'string' ? `${String(event)} ${status}` : String(event),
  )
  return names.filter((name, index) => name !== names[index - 1])
}

const WHOLE = [
  'connection connected',
  'worker initializing',
  'worker loading',
  'text_delta',
  'text',
  'worker cleaning_up',
  'finish completed',
]

describe.skipIf(!hasPython())('loading-worker', () => {
  let scratch: string
  beforeAll(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'loading-worker-'))
  })
  afterAll(async () => {
    await rm(scratch, { recursive: true })
  })

  test('says everything that a worker says, in order, and exits with 0', async () => {
    const { events, exitCode } = await run({})
    expect(outline(events)).toEqual(WHOLE)
    expect(exitCode).toBe(0)
    const loading = events.filter((event) => event['status'] === 'loading')
    expect(loading.map((event) => event['progress'])).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1])
    expect(loading.every((event) => typeof event['message'] === 'string')).toBe(true)
  })

  test('its deltas joined are its whole text, white space and other scripts included', async () => {
    const spoken = ' Zwölf  Boxkämpfer\n\tjagen 🐎 über\u00a0den Deich '
    const { events } = await run({ TASK_INPUT: JSON.stringify({ text: spoken }) })
    const deltas = events.filter((event) => event['event'] === 'text_delta').map((event) => event['delta'])
    expect(deltas.length).toBeGreaterThan(5)
    expect(deltas.join('')).toBe(spoken)
    expect(events.find((event) => event['event'] === 'text')).toEqual({ event: 'text', content: spoken })
  })

  test.each([
    ['an object with a text', { text: 'said in text' }, 'said in text'],
    ['an object with a prompt', { prompt: 'said in prompt' }, 'said in prompt'],
    ['a plain text', 'just said', 'just said'],
    ['an object with neither', { other: 1 }, 'from the preset'],
    ['null', null, 'from the preset'],
  ])('takes its text from the input file: %s', async (_name, input, expected) => {
    const path = join(scratch, 'input.json')
    await writeFile(path, JSON.stringify(input))
    const { events } = await run({ INPUT_FILE: path, TASK_INPUT: '"not this"', TEXT: 'from the preset' })
    expect(events.find((event) => event['event'] === 'text')?.['content']).toBe(expected)
  })

  test.each([
    ['LOAD_SECONDS', 'soon'],
    ['LOAD_SECONDS', '-1'],
    ['LOAD_SECONDS', 'nan'],
    ['TOKEN_DELAY_SECONDS', 'inf'],
    ['LOAD_STEPS', '0'],
    ['LOAD_STEPS', '1.5'],
    ['REPEAT', '70000'],
    ['EXIT_CODE', '256'],
    ['NO_FINISH', 'maybe'],
    ['FAIL_AT', 'nowhere'],
    ['CRASH_AT', 'finish'],
    ['HANG_AT', 'Loading'],
    ['TASK_INPUT', '{"text": 7}'],
    ['TASK_INPUT', '{'],
    ['INPUT_FILE', '/does/not/exist.json'],
  ])('fails with a clear message and exit code 2 where %s is %j', async (name, value) => {
    const { events, exitCode, stderr } = await run({ [name]: value })
    expect(outline(events)).toEqual(['connection connected', 'finish failed'])
    expect(events.at(-1)).toMatchObject({ error: { code: 'INVALID_SETTING' } })
    expect(JSON.stringify(events.at(-1))).toContain(name)
    expect(exitCode).toBe(2)
    expect(stderr).toBe('')
  })

  test.each([
    ['initializing', WHOLE.slice(0, 1)],
    ['loading', WHOLE.slice(0, 3)],
    ['streaming', WHOLE.slice(0, 4)],
    ['cleaning_up', WHOLE.slice(0, 6)],
  ])('fails at %s where FAIL_AT says so', async (phase, before) => {
    const { events, exitCode } = await run({ FAIL_AT: phase, FAIL_MESSAGE: 'CUDA says no' })
    expect(outline(events)).toEqual([...before, 'finish failed'])
    expect(events.at(-1)?.['error']).toEqual({ code: 'FAILED_AS_ASKED', message: 'CUDA says no' })
    expect(exitCode).toBe(1)
  })

  test('dies of an exception, without a finish, where CRASH_AT says so', async () => {
    const { events, exitCode, stderr } = await run({ CRASH_AT: 'streaming' })
    expect(outline(events)).toEqual(WHOLE.slice(0, 4))
    expect(stderr).toContain('RuntimeError: Crashed while streaming')
    expect(exitCode).toBe(1)
  })

  test('leaves its finish out and exits with the asked code', async () => {
    const { events, exitCode } = await run({ NO_FINISH: 'true', EXIT_CODE: '7' })
    expect(outline(events)).toEqual(WHOLE.slice(0, -1))
    expect(exitCode).toBe(7)
  })

  test('SIGTERM in the middle of the text ends it with cleaning_up and finish cancelled', async () => {
    const { events, exitCode } = await run({ TOKEN_DELAY_SECONDS: '3600' }, (line, child) => {
      if (line.includes('text_delta')) child.kill('SIGTERM')
    })
    expect(outline(events)).toEqual([...WHOLE.slice(0, 4), 'worker cleaning_up', 'finish cancelled'])
    expect(exitCode).toBe(0)
  })

  test('a worker that hangs while loading still ends on SIGTERM', async () => {
    const { events } = await run({ HANG_AT: 'loading' }, (line, child) => {
      if (line.includes('"progress": 0.0')) child.kill('SIGTERM')
    })
    expect(outline(events)).toEqual([...WHOLE.slice(0, 3), 'worker cleaning_up', 'finish cancelled'])
  })

  test('a worker that hangs after its finish says nothing more when SIGTERM comes', async () => {
    const { events, exitCode } = await run({ HANG_AT: 'finish' }, (line, child) => {
      if (line.includes('finish')) child.kill('SIGTERM')
    })
    expect(outline(events)).toEqual(WHOLE)
    expect(exitCode).toBe(0)
  })

  test('a worker that ignores SIGTERM goes on to its end', async () => {
    const { events } = await run({ IGNORE_SIGTERM: '1' }, (line, child) => {
      if (line.includes('"progress": 0.0')) child.kill('SIGTERM')
    })
    expect(outline(events)).toEqual(WHOLE)
  })

  test('SIGKILL ends also a worker that ignores SIGTERM and hangs', async () => {
    const { signal } = await run({ IGNORE_SIGTERM: '1', HANG_AT: 'loading' }, (line, child) => {
      if (line.includes('"progress": 0.0')) child.kill('SIGKILL')
    })
    expect(signal).toBe('SIGKILL')
  })

  test('prints the asked noise between its events', async () => {
    const { lines, stderr } = await run({ STDERR_LINES: '3', STRAY_LINES: '2', BROKEN_EVENTS: '1' })
    expect(stderr.match(/debug line \d/g)).toEqual(['debug line 1', 'debug line 2', 'debug line 3'])
    const noise = lines.filter((line) => !line.endsWith('}'))
    expect(noise).toEqual([
      'a library printed this, line 1',
      'a library printed this, line 2',
      '{"event": "text_delta", "delta": "broken 1',
    ])
  })

  test('announces a result, its usage and a file where extra events are asked for', async () => {
    const { events } = await run({ EXTRA_EVENTS: 'yes', OUTPUT_DIR: scratch, TEXT: 'two words' })
    expect(outline(events)).toEqual([
      ...WHOLE.slice(0, 5),
      ...['progress', 'result', 'usage', 'log', 'artifact'],
      ...WHOLE.slice(5),
    ])
    expect(events.find((event) => event['event'] === 'result')?.['value']).toEqual({
      words: 2,
      characters: 9,
    })
    expect(events.find((event) => event['event'] === 'artifact')).toMatchObject({ path: 'text.txt' })
    expect(await readFile(join(scratch, 'text.txt'), 'utf8')).toBe('two words')
  })

  test.runIf(process.platform === 'linux')('holds the asked memory until its end', async () => {
    let residentMb = 0
    const { events } = await run({ ALLOCATE_MB: '64', HANG_AT: 'cleaning_up' }, (line, child) => {
      if (!line.includes('cleaning_up') || residentMb > 0) return
      const status = readFileSync(`/proc/${String(child.pid)}/status`, 'utf8')
      residentMb = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024
      child.kill('SIGTERM')
    })
    expect(residentMb).toBeGreaterThan(64)
    expect(outline(events).at(-1)).toBe('finish cancelled')
  })
})
