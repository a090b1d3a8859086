import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createEventParser, type FaultKind, type WorkerEvent } from '../src/index.ts'
import { byteByByte, cutAt, linesOf, outlineOf, transcriptOf, type Call } from './transcript.ts'

// Every failure prints its seed and its smallest case. The seed is fixed so that two runs of one commit test the same.
const SEED = 0x6750

interface Written {
  readonly bytes: Uint8Array
  readonly calls: readonly Call[]
}

function call(event: WorkerEvent, taskId: string | null = null, seq: number | null = null): Call {
  return { event, taskId, seq }
}

function fault(kind: FaultKind, line: string, detail: string): Call {
  return { fault: { kind, line, detail }, taskId: null, seq: null }
}

/** A text that any store can keep: no NUL, no half of a pair. */
const text = fc
  .string({ unit: 'binary', maxLength: 12 })
  .map((it) => it.replaceAll('\0', '').replaceAll(/\p{Surrogate}/gu, ''))

/** The text as a JSON writer may put it: as it is, or with other characters than ASCII escaped. */
const written = (value: unknown, ascii: boolean): string => {
  const json = JSON.stringify(value)
  if (!ascii) return json
  return json.replaceAll(/[^\0-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

const envelope = fc.record({
  taskId: fc.option(text),
  seq: fc.option(fc.integer({ min: 1, max: 2 ** 31 })),
  ascii: fc.boolean(),
  carriageReturn: fc.boolean(),
})

const event = fc.oneof(
  text.map(
    (delta) =>
      [
        { event: 'text_delta', delta },
        { type: 'text_delta', delta },
      ] as const,
  ),
  text.map(
    (content) =>
      [
        { event: 'text', content, extra: [content] },
        { type: 'text', content },
      ] as const,
  ),
  text.map(
    (status) =>
      [
        { event: 'connection', status },
        { type: 'connection', status },
      ] as const,
  ),
  fc
    .record({
      status: text,
      message: fc.option(text),
      progress: fc.option(fc.double({ min: 0, max: 1, noNaN: true })),
    })
    .map(
      (fields) =>
        [
          { event: 'worker', ...fields },
          { type: 'worker', ...fields },
        ] as const,
    ),
  fc.tuple(text, text).map(
    ([code, message]) =>
      [
        { event: 'finish', status: 'failed', error: { code, message } },
        { type: 'finish', status: 'failed', error: { code, message } },
      ] as const,
  ),
  fc.array(text, { maxLength: 3 }).map(
    (value) =>
      [
        { event: 'result', value },
        { type: 'result', value },
      ] as const,
  ),
  fc.tuple(text, text).map(([name, value]) => {
    const payload = { event: `x${name}`, value }
    return [payload, { type: 'custom', name: `x${name}`, payload }] as const
  }),
)

const line: fc.Arbitrary<Written> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.tuple(event, envelope).map(([[object, read], { taskId, seq, ascii, carriageReturn }]) => {
      const whole = {
        ...object,
        ...(taskId === null ? {} : { task_id: taskId }),
        ...(seq === null ? {} : { seq }),
      }
      const bytes = Buffer.from(written(whole, ascii) + (carriageReturn ? '\r' : ''))
      return { bytes, calls: [call(read, taskId, seq)] }
    }),
  },
  text.map((it) => {
    const log = `> ${it.replaceAll(/[\n\r]/g, ' ')}`
    return { bytes: Buffer.from(log), calls: [{ log }] }
  }),
  fc.constantFrom('', ' \t', '\r').map((blank) => ({ bytes: Buffer.from(blank), calls: [] })),
  fc.constantFrom('{"event":"text"', '{"event"', ' {"event":1,}').map((it) => ({
    bytes: Buffer.from(it),
    calls: [fault('INVALID_JSON', it, 'begins like an event, but is not valid JSON')],
  })),
  fc.constant({
    bytes: Buffer.from([0x3e, 0xff]),
    calls: [fault('INVALID_UTF8', '>\ufffd', 'bytes that are not UTF-8 were replaced'), { log: '>\ufffd' }],
  }),
)

const cuts = fc.array(fc.nat(2 ** 20), { maxLength: 8 })

test('what was written is what is read, wherever the stream is cut', () => {
  fc.assert(
    fc.property(fc.array(line, { maxLength: 6 }), fc.boolean(), cuts, (lines, endsInNewline, places) => {
      const bytes = Buffer.concat(
        lines.flatMap(({ bytes }, at) => (at > 0 ? [Buffer.from('\n'), bytes] : [bytes])),
      )
      const stream = endsInNewline ? Buffer.concat([bytes, Buffer.from('\n')]) : bytes
      expect(transcriptOf(cutAt(stream, places))).toEqual(lines.flatMap(({ calls }) => calls))
    }),
    { seed: SEED, numRuns: 40_000 },
  )
}, 60_000)

/** Bytes that come near to events: pieces of them, of characters, of what breaks them. */
const debris = fc
  .array(
    fc.oneof(
      fc
        .constantFrom(
          '{"event":"text_delta","delta":"',
          '{"event":"result","value":',
          '{"event"',
          '"}',
          '}',
          '[[[[',
          '{"a":',
          '"',
          '\\u0000',
          '\\ud83d',
          '\\',
          '\n',
          '\n',
          '\r\n',
          '\0',
          '\ufeff',
          'é€🚀',
          '1e400',
          '__proto__',
          ' ',
        )
        .map((it) => Buffer.from(it)),
      fc.uint8Array({ maxLength: 4 }),
    ),
    { maxLength: 14 },
  )
  .map((pieces) => Buffer.concat(pieces))

test('any bytes give the same calls in one piece, in pieces and byte by byte, and none of them throws', () => {
  fc.assert(
    fc.property(debris, cuts, fc.integer({ min: 1, max: 60 }), (bytes, places, maxLineBytes) => {
      const whole = transcriptOf([bytes], { maxLineBytes })
      expect(transcriptOf(cutAt(bytes, places), { maxLineBytes })).toEqual(whole)
      expect(transcriptOf(byteByByte(bytes), { maxLineBytes })).toEqual(whole)
    }),
    { seed: SEED, numRuns: 30_000 },
  )
}, 60_000)

test('nothing that is handed on holds NUL or a lone surrogate, and the start of a faulty line is short', () => {
  fc.assert(
    fc.property(debris, (bytes) => {
      for (const said of transcriptOf([bytes])) {
        const json = JSON.stringify(said)
        // JSON.stringify writes NUL and lone surrogates, and nothing else that is tested here, as these escapes.
        expect(json.replaceAll('\\\\', '')).not.toMatch(/\\u(?:0000|d[89a-f])/)
        if ('fault' in said) expect(said.fault.line.length).toBeLessThanOrEqual(1_000)
      }
    }),
    { seed: SEED, numRuns: 15_000 },
  )
}, 60_000)

test('the lines of any bytes are those that splitting the whole gives', () => {
  fc.assert(
    fc.property(debris, cuts, (bytes, places) => {
      const split = bytes.toString('latin1').split('\n')
      if (split.at(-1) === '') split.pop()
      const expected = split.map((it) => {
        const decoded = new TextDecoder('utf-8', { ignoreBOM: true }).decode(
          Buffer.from(it.replace(/\r$/, ''), 'latin1'),
        )
        return [decoded.replaceAll('\0', '\ufffd'), false]
      })
      expect(linesOf(cutAt(bytes, places), 1_000)).toEqual(expected)
    }),
    { seed: SEED, numRuns: 15_000 },
  )
}, 60_000)

test('a character of four bytes may be cut anywhere', () => {
  const event = Buffer.from('{"event":"text_delta","delta":"a🚀b","task_id":"🚀"}\n')
  for (let place = 0; place <= event.length; place += 1) {
    expect(transcriptOf(cutAt(event, [place]))).toEqual([call({ type: 'text_delta', delta: 'a🚀b' }, '🚀')])
  }
})

test('a stream may come byte by byte', () => {
  const stream = Buffer.from('{"event":"text_delta","delta":"größer 🚀"}\r\nlog\n'.repeat(1_000))
  expect(outlineOf(transcriptOf(byteByByte(stream)))).toEqual(
    Array.from({ length: 1_000 }, () => ['text_delta', 'log']).flat(),
  )
})

test('a stretch that is longer than a line may be, in one piece, is read like others', () => {
  const stream = Buffer.from('{"event":"text_delta","delta":"größer 🚀"}\nlog\n'.repeat(40_000))
  const counts = { events: 0, logs: 0, faults: 0 }
  const parser = createEventParser({
    event: () => (counts.events += 1),
    log: () => (counts.logs += 1),
    fault: () => (counts.faults += 1),
  })
  parser.feed(stream)
  expect(counts).toEqual({ events: 40_000, logs: 40_000, faults: 0 })
})
