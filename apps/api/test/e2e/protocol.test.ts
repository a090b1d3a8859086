import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RUNNERS, script } from './scripts.ts'
import { faultsOf, TestService, type SeenEvent, type SeenTask } from './service.ts'

const STDERR_CHARACTERS = 16 * 1024 * 1024
const STDERR_LINE_BYTES = 16 * 1024

type Line = string | Readonly<Record<string, unknown>>

/** Prints lines as they stand; of what a shell reads in them only `$TASK_ID` is meant. */
const print = (...lines: Line[]): string =>
  ['cat <<END', ...lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))), 'END'].join(
    '\n',
  )
const delta = (text: string, more: object = {}): Line => ({ event: 'text_delta', delta: text, ...more })
const finish = (status: string, more: object = {}): Line => ({ event: 'finish', status, ...more })
const BROKEN = '{"event":"text_delta","delta":"cut'
const WAIT = 'until [ -e "$OUTPUT_DIR/go" ]; do sleep 0.05; done'
const fill = (bytes: number): string => `head -c ${bytes} /dev/zero | tr '\\0' e`

const PRESETS = {
  foreign: script(
    print(
      delta('mine'),
      delta(', not mine', { task_id: 'another.1' }),
      { event: 'artifact', data: 'eA==', task_id: 'another.1' },
      finish('failed', { error: 'not yours', task_id: 'another.1' }),
      delta(', mine', { task_id: '$TASK_ID' }),
      finish('completed'),
    ),
  ),
  counted: script(
    print(delta('a', { seq: 1 }), 'not counted', delta('b', { seq: 2 }), finish('completed', { seq: 3 })),
  ),
  hole: script(
    print(
      delta('a', { seq: 1 }),
      delta('b', { seq: 2 }),
      delta('d', { seq: 5 }),
      finish('completed', { seq: 6 }),
    ),
  ),
  'hole-at-start': script(print(delta('c', { seq: 3 }), finish('completed', { seq: 4 }))),
  'hole-then-failed': script(print(delta('a', { seq: 1 }), finish('failed', { seq: 5, error: 'no model' }))),
  'hole-of-one-explained': script(
    print(delta('a', { seq: 1 }), BROKEN, delta('c', { seq: 3 }), finish('completed', { seq: 4 })),
  ),
  'hole-of-two-half-explained': script(
    print(delta('a', { seq: 1 }), BROKEN, delta('d', { seq: 4 }), finish('completed', { seq: 5 })),
  ),
  'hole-behind-a-broken-line': script(
    print(
      delta('a', { seq: 1 }),
      BROKEN,
      delta('b', { seq: 2 }),
      delta('d', { seq: 4 }),
      finish('completed', { seq: 5 }),
    ),
  ),
  'counted-over-a-restart': script(
    `${print(delta('a', { seq: 1 }), delta('b', { seq: 2 }))}\n${WAIT}\n${print(delta('c', { seq: 3 }), finish('completed', { seq: 4 }))}`,
  ),
  'hole-over-a-restart': script(
    `${print(delta('a', { seq: 1 }), delta('b', { seq: 2 }))}\n${WAIT}\n${print(delta('d', { seq: 4 }), finish('completed', { seq: 5 }))}`,
  ),
  'much-stderr': script(
    // Of 17 MiB in lines of 16 KiB, the newline counted.
    `line=$(${fill(STDERR_LINE_BYTES - 1)}); yes "$line" | head -n 1088 >&2; ${print(delta('heard'), finish('completed'))}`,
  ),
  'long-stderr-lines': script(
    [
      `{ ${fill(STDERR_LINE_BYTES)}; echo; ${fill(STDERR_LINE_BYTES + 1)}; echo; ${fill(3 * STDERR_LINE_BYTES)}; echo; echo short; } >&2`,
      print(finish('completed')),
    ].join('\n'),
  ),
  'artifact-after-finish': script(
    [
      `printf x > "$OUTPUT_DIR/late.txt"`,
      print(
        { event: 'artifact', data: 'eA==', name: 'in-time.txt' },
        finish('completed'),
        { event: 'artifact', data: 'eA==', name: 'late.bin' },
        { event: 'artifact', path: 'late.txt' },
      ),
    ].join('\n'),
  ),
  cancelled: script(print(finish('cancelled'))),
  'completed-then-failed': script(print(finish('completed'), finish('failed', { error: 'changed my mind' }))),
  'failed-then-completed': script(print(finish('failed', { error: 'no model' }), finish('completed'))),
  'said-after-finish': script(
    print(delta('in time'), finish('completed'), delta(', late'), { event: 'text', content: 'late' }, 'bye'),
  ),
  texts: script(
    print(
      delta('a'),
      { event: 'text', content: 'first' },
      { event: 'text', content: 'last' },
      delta('b'),
      finish('completed'),
    ),
  ),
  'empty-text': script(print(delta('a'), { event: 'text', content: '' }, finish('completed'))),
  usages: script(
    print(
      { event: 'usage', prompt_tokens: 3, completion_tokens: 1 },
      { event: 'usage', completion_tokens: 9, model: 'passed over' },
      { event: 'usage', audio_seconds: 0.5 },
      { event: 'result', value: 1 },
      { event: 'result', value: null },
      finish('completed'),
    ),
  ),
  'byte-by-byte': script(
    [
      '{',
      print(delta('ä€😀 '), 'a line for the log: ß', { event: 'text', content: 'Grüße, 世界' }),
      // Without a newline behind it.
      `printf '%s' '${JSON.stringify(finish('completed'))}'`,
      '} | dd bs=1 2>/dev/null',
    ].join('\n'),
  ),
}

interface Seen {
  readonly task: SeenTask
  readonly events: readonly SeenEvent[]
  readonly faults: readonly unknown[]
  readonly gaps: readonly SeenEvent[]
  readonly deltas: readonly unknown[]
}

interface Output {
  readonly result: unknown
  readonly usage: unknown
  readonly artifacts: readonly { readonly name: string }[]
}

const ofType = (events: readonly SeenEvent[], type: string): SeenEvent[] =>
  events.filter((event) => event.__typename === type)

for (const { runner, skipped } of RUNNERS) {
  describe.skipIf(skipped)(`what a worker says, with the ${runner} runner`, () => {
    let service: TestService
    beforeAll(async () => {
      service = await TestService.start({ runner, presets: PRESETS })
    })
    afterAll(() => service[Symbol.asyncDispose]())

    async function seen(id: string): Promise<Seen> {
      const events = await service.events(id)
      expect(faultsOf(events)).toEqual([])
      return {
        task: await service.task(id),
        events,
        faults: ofType(events, 'ProtocolFaultEvent').map((event) => event['kind']),
        gaps: ofType(events, 'GapEvent'),
        deltas: ofType(events, 'TextDeltaEvent').map((event) => event['delta']),
      }
    }

    const run = async (kind: keyof typeof PRESETS): Promise<Seen> => seen(await service.submit(kind))

    async function outputOf({ id }: SeenTask): Promise<Output> {
      const { task } = await service.query<{ task: Output }>(
        'query ($id: ID!) { task(id: $id) { result usage artifacts { name } } }',
        { id },
      )
      return task
    }

    test('of another task is a fault each time and changes nothing', async () => {
      const { task, events, faults, deltas } = await run('foreign')
      expect(faults).toEqual(['FOREIGN_TASK', 'FOREIGN_TASK', 'FOREIGN_TASK'])
      expect(ofType(events, 'ProtocolFaultEvent')[0]?.['detail']).toContain('another.1')
      expect(deltas).toEqual(['mine', ', mine'])
      expect(ofType(events, 'FinishEvent')).toHaveLength(1)
      expect(task).toMatchObject({ status: 'COMPLETED', text: 'mine, mine', error: null })
      expect(await outputOf(task)).toMatchObject({ artifacts: [] })
    })

    describe('in counted events', () => {
      test('has no gap where the count has none', async () => {
        const { task, gaps } = await run('counted')
        expect(gaps).toEqual([])
        expect(task).toMatchObject({ status: 'COMPLETED', text: 'ab' })
      })

      test('has a gap before the event that skips some, and fails with OUTPUT_LOST although it says completed', async () => {
        const { task, events, gaps, deltas } = await run('hole')
        expect(gaps).toHaveLength(1)
        expect(gaps[0]?.['detail']).toMatch(/from 2 to 5: 2 of its events/)
        expect(gaps[0]?.seq).toBe((events.find((event) => event['delta'] === 'd')?.seq ?? 0) - 1)
        expect(deltas).toEqual(['a', 'b', 'd'])
        expect(task).toMatchObject({ status: 'FAILED', error: { code: 'OUTPUT_LOST' }, exitCode: 0 })
        expect(task.error?.message).toContain('gap events say where')
      })

      test('has a gap where the first that arrives is not the first', async () => {
        const { task, events, gaps } = await run('hole-at-start')
        expect(gaps).toHaveLength(1)
        expect(gaps[0]?.['detail']).toMatch(/to 3: 2 of its events/)
        expect(gaps[0]?.seq).toBe((events.find((event) => event['delta'] === 'c')?.seq ?? 0) - 1)
        expect(task).toMatchObject({ status: 'FAILED', error: { code: 'OUTPUT_LOST' } })
      })

      test("keeps the worker's own error where a part is missing too", async () => {
        const { task, gaps } = await run('hole-then-failed')
        expect(gaps).toHaveLength(1)
        expect(task).toMatchObject({
          status: 'FAILED',
          error: { code: 'WORKER_FAILED', message: 'no model' },
        })
      })

      test('has no gap where a line that could not be read stands for the missing one', async () => {
        const { task, faults, gaps } = await run('hole-of-one-explained')
        expect(faults).toEqual(['INVALID_JSON'])
        expect(gaps).toEqual([])
        expect(task).toMatchObject({ status: 'COMPLETED', text: 'ac' })
      })

      test('has a gap for what a line that could not be read leaves unexplained', async () => {
        const { task, faults, gaps } = await run('hole-of-two-half-explained')
        expect(faults).toEqual(['INVALID_JSON'])
        expect(gaps).toHaveLength(1)
        expect(gaps[0]?.['detail']).toContain('1 of its events')
        expect(task).toMatchObject({ status: 'FAILED', error: { code: 'OUTPUT_LOST' } })
      })

      test('has a gap where the line that could not be read stands before a count that goes on', async () => {
        const { task, gaps } = await run('hole-behind-a-broken-line')
        expect(gaps).toHaveLength(1)
        expect(task).toMatchObject({ status: 'FAILED', error: { code: 'OUTPUT_LOST' } })
      })

      /** The worker says its first part to one process of the service and the rest to none; the next one finds it. */
      async function overARestart(kind: keyof typeof PRESETS): Promise<Seen> {
        const id = await service.submit(kind)
        await service.events(id, 0, (event) => event['delta'] === 'b')
        const { worker } = await service.task(id)
        await service.down('SIGTERM')
        const workers = join(service.dataDir, 'workers')
        const name = (await readdir(workers)).find((entry) => entry.endsWith(worker?.id ?? '-')) ?? ''
        const folder = join(workers, name, runner === 'docker' ? 'runs' : 'output', `${id}.1`)
        await writeFile(join(folder, 'go'), '')
        await service.up()
        return seen(id)
      }

      test('has no gap where the service was restarted in between', async () => {
        const { task, gaps, deltas } = await overARestart('counted-over-a-restart')
        expect(gaps).toEqual([])
        expect(deltas).toEqual(['a', 'b', 'c'])
        expect(task).toMatchObject({ status: 'COMPLETED', text: 'abc', attempt: 1 })
      })

      test('has a gap where some are missing behind a restart of the service', async () => {
        const { task, gaps } = await overARestart('hole-over-a-restart')
        expect(gaps).toHaveLength(1)
        expect(task).toMatchObject({ status: 'FAILED', error: { code: 'OUTPUT_LOST' } })
      })
    })

    describe('on stderr', () => {
      test('beyond 16 Mi characters is cut, which is said once, and stdout is read on', async () => {
        const { task, events } = await run('much-stderr')
        const logs = ofType(events, 'LogEvent')
        const cuts = logs.filter((event) => String(event['line']).startsWith('[cut:'))
        expect(cuts).toMatchObject([{ stream: 'STDERR', level: 'warning' }])
        expect(cuts[0]?.['line']).toContain(String(STDERR_CHARACTERS))
        const kept = logs
          .filter((event) => event !== cuts[0])
          .reduce((sum, event) => sum + String(event['line']).length + 1, 0)
        // The line that crosses the bound is kept whole.
        expect(kept).toBeGreaterThanOrEqual(STDERR_CHARACTERS)
        expect(kept).toBeLessThanOrEqual(STDERR_CHARACTERS + STDERR_LINE_BYTES)
        expect(task).toMatchObject({ status: 'COMPLETED', text: 'heard' })
      })

      test('in a line over 16 KiB is cut there, which the line says, and the next line is whole', async () => {
        const { task, events } = await run('long-stderr-lines')
        const full = 'e'.repeat(STDERR_LINE_BYTES)
        const lines = ofType(events, 'LogEvent').map((event) => String(event['line']))
        expect(lines.map((line) => line.replace(full, '<16 KiB>'))).toEqual([
          '<16 KiB>',
          expect.stringMatching(/^<16 KiB> \[cut: .*16384/),
          expect.stringMatching(/^<16 KiB> \[cut: .*16384/),
          'short',
        ])
        expect(task.status).toBe('COMPLETED')
      })
    })

    describe('around its finish', () => {
      test('of artifacts behind it is a fault, and no artifact', async () => {
        const { task, events, faults } = await run('artifact-after-finish')
        expect(faults).toEqual(['AFTER_FINISH', 'AFTER_FINISH'])
        expect(ofType(events, 'ArtifactEvent')).toHaveLength(1)
        expect(await outputOf(task)).toMatchObject({ artifacts: [{ name: 'in-time.txt' }] })
        expect(task.status).toBe('COMPLETED')
      })

      test('of events behind it is a fault and changes nothing; a line for the log is one', async () => {
        const { task, events, faults } = await run('said-after-finish')
        expect(faults).toEqual(['AFTER_FINISH', 'AFTER_FINISH'])
        expect(ofType(events, 'ProtocolFaultEvent')[0]?.['line']).toContain(', late')
        expect(ofType(events, 'LogEvent').map((event) => event['line'])).toEqual(['bye'])
        expect(task).toMatchObject({ status: 'COMPLETED', text: 'in time' })
      })

      test('counts once: failed behind completed does not fail the task', async () => {
        const { task, events, faults } = await run('completed-then-failed')
        expect(faults).toEqual(['AFTER_FINISH'])
        expect(ofType(events, 'FinishEvent')).toMatchObject([{ status: 'completed' }])
        expect(task).toMatchObject({ status: 'COMPLETED', error: null })
      })

      test('counts once: completed behind failed does not complete the task', async () => {
        const { task, events, faults } = await run('failed-then-completed')
        expect(faults).toEqual(['AFTER_FINISH'])
        expect(ofType(events, 'FinishEvent')).toMatchObject([{ status: 'failed' }])
        expect(task).toMatchObject({
          status: 'FAILED',
          error: { code: 'WORKER_FAILED', message: 'no model' },
        })
      })

      test('that it was cancelled, where nobody had asked for it, fails the task and says so', async () => {
        const { task, events } = await run('cancelled')
        expect(ofType(events, 'FinishEvent')).toMatchObject([{ status: 'cancelled' }])
        expect(task).toMatchObject({ status: 'FAILED', error: { code: 'WORKER_FAILED' }, exitCode: 0 })
        expect(task.error?.message).toContain('nobody had asked for it')
        expect(task.cancelRequestedAt).toBeNull()
      })
    })

    describe('as output', () => {
      test('is its last text, whatever deltas there are', async () => {
        const { task, deltas } = await run('texts')
        expect(deltas).toEqual(['a', 'b'])
        expect(task).toMatchObject({ status: 'COMPLETED', text: 'last' })
      })

      test('is an empty text where it says that it is empty', async () => {
        const { task } = await run('empty-text')
        expect(task.text).toBe('')
      })

      test('is of usage the latest number under each name, and of results the last', async () => {
        const { task } = await run('usages')
        expect(await outputOf(task)).toMatchObject({
          usage: { prompt_tokens: 3, completion_tokens: 9, audio_seconds: 0.5 },
          result: null,
        })
      })

      test('is the same where it comes byte by byte, its last line without an end', async () => {
        const { task, events, faults, deltas } = await run('byte-by-byte')
        expect(faults).toEqual([])
        expect(deltas).toEqual(['ä€😀 '])
        expect(ofType(events, 'LogEvent').map((event) => event['line'])).toEqual(['a line for the log: ß'])
        expect(task).toMatchObject({ status: 'COMPLETED', text: 'Grüße, 世界' })
      })
    })
  })
}
