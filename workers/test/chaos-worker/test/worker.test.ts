import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

type Event = Readonly<Record<string, unknown>>

const RUN = '01a217f7-a751-75d4-995a-734e054868e9.1'

function hasPython(): boolean {
  try {
    execFileSync('python3', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

describe.skipIf(!hasPython())('chaos-worker', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'chaos-worker-'))
  })
  afterEach(() => rm(folder, { recursive: true }))

  /** Runs it to its end: one task from a file, or a session with these commands. */
  async function run(how: { input: Event } | { commands: readonly Event[] }) {
    const inputFile = join(folder, 'input.json')
    if ('input' in how) await writeFile(inputFile, JSON.stringify(how.input))
    const child = spawn('python3', ['worker.py'], {
      cwd: join(import.meta.dirname, '..'),
      env: {
        PATH: process.env['PATH'],
        MARKERS_DIR: folder,
        ...('input' in how && { INPUT_FILE: inputFile, TASK_ID: RUN, OUTPUT_DIR: folder }),
      },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    const said = Promise.all([text(child.stdout), text(child.stderr), once(child, 'exit')])
    child.stdin.end(
      'commands' in how ? how.commands.map((command) => `${JSON.stringify(command)}\n`).join('') : '',
    )
    const [stdout, stderr] = await said
    const { exitCode, signalCode: signal } = child
    const lines = stdout.trimEnd().split('\n')
    const events = lines.flatMap((line) => (/^\{.*\}$/.test(line) ? [JSON.parse(line) as Event] : []))
    return { stdout, lines, events, stderr, exitCode, signal }
  }

  const order = (run: string, input: Event): Event => ({
    command: 'run',
    task_id: run,
    attempt: 1,
    input,
    output_dir: null,
  })

  function marks(output: string, stream: 'o' | 'e', run = RUN): number[] {
    return [...output.matchAll(/\[([oe])(\d+) (\S+?)\]/g)]
      .filter(([, found, , whose]) => found === stream && whose === run)
      .map(([, , number]) => Number(number))
  }
  const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1)

  test('marks every line of both streams, and tells the totals at its end', async () => {
    const garbage = ['stray', 'broken', 'fields', 'unknown', 'deep', 'text', 'long']
    const { stdout, stderr, events, exitCode } = await run({
      input: { lines: 20, interval_ms: 0, garbage, artifacts: 2 },
    })
    expect(exitCode).toBe(0)
    expect(marks(stdout, 'o').filter((number, index, all) => number !== all[index - 1])).toEqual(upTo(30))
    expect(marks(stderr, 'e')).toEqual(upTo(20))
    expect(events.slice(-2)).toMatchObject([
      { event: 'result', value: { stdout: 30, stderr: 20 } },
      { event: 'finish', status: 'completed' },
    ])
    expect(await readFile(join(folder, RUN), 'utf8')).toMatch(/^\S+ \d+\n$/)
    expect(await readFile(join(folder, 'part-0.txt'), 'utf8')).toMatch(/^\[o29 /)
  })

  test('numbers its events without a hole, faulty ones too', async () => {
    const { lines } = await run({
      input: { lines: 10, interval_ms: 0, garbage: ['broken', 'deep', 'fields'] },
    })
    const numbers = lines.map((line) => Number(/"seq": (\d+)?/.exec(line)?.[1]))
    // The one that is cut short has lost its number.
    expect(numbers.filter((number) => !Number.isNaN(number))).toEqual(
      upTo(lines.length).filter((n) => !Number.isNaN(numbers[n - 1])),
    )
    expect(numbers.filter((number) => Number.isNaN(number))).toHaveLength(1)
  })

  test.each<[Event, object]>([
    [{ end: 'failed' }, { exitCode: 0, last: 'failed' }],
    [{ end: 'cancelled' }, { exitCode: 0, last: 'cancelled' }],
    [{ exit_code: 7 }, { exitCode: 7, last: 'completed' }],
    [
      { end: 'exit', exit_code: 3 },
      { exitCode: 3, last: undefined },
    ],
    [
      { end: 'signal', signal: 11 },
      { exitCode: null, signal: 'SIGSEGV', last: undefined },
    ],
    [{ end: 'no_finish' }, { exitCode: 0, last: undefined }],
    [
      { end: 'exit', until_attempt: 0 },
      { exitCode: 0, last: 'completed' },
    ],
  ])('ends as its input says: %j', async (input, expected) => {
    const { events, exitCode, signal } = await run({ input: { lines: 1, interval_ms: 0, ...input } })
    const last = events.find(({ event }) => event === 'finish')?.['status']
    expect({ exitCode, signal, last }).toMatchObject(expected)
  })

  test('serves tasks at the same time, each line under its own name', async () => {
    const runs = [RUN, '01a217f7-a751-75d4-995a-734e054868e9.2']
    const { stdout, stderr, events, exitCode } = await run({
      commands: runs.map((id) => order(id, { lines: 30, interval_ms: 1 })),
    })
    expect(exitCode).toBe(0)
    for (const id of runs) {
      expect(marks(stdout, 'o', id)).toEqual(upTo(31))
      expect(marks(stderr, 'e', id)).toEqual(upTo(30))
    }
    expect(events.map(({ seq }) => seq)).toEqual(upTo(events.length))
  })

  test('stops a task that is cancelled, and says nothing of one that it is not to acknowledge', async () => {
    const { events } = await run({
      commands: [
        order('silent.1', { acknowledge: false }),
        order('hung.1', { lines: 1, end: 'silent' }),
        { command: 'cancel', task_id: 'hung.1' },
      ],
    })
    const of = (id: string): unknown[] =>
      events.filter((event) => event['task_id'] === id).map(({ status }) => status)
    expect(of('silent.1')).toEqual([])
    expect(of('hung.1').at(-1)).toBe('cancelled')
  })
})
