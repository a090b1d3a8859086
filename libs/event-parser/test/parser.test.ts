import { describe, expect, test } from 'vitest'
import { createEventParser, type EventParser } from '../src/index.ts'
import { outlineOf, read, transcriptOf } from './transcript.ts'

describe('lines that are no events', () => {
  test.each([
    'Loading checkpoint shards: 100%',
    'null',
    '42',
    '"{\\"event\\":\\"finish\\"}"',
    '[{"event":"finish","status":"completed"}]',
    '[1, 2',
    '{}',
    '{"status":"completed"}',
    '{"event":5}',
    '{"event":null,"status":"completed"}',
    '{"Event":"finish"}',
    '{"__proto__":{"event":"finish","status":"completed"}}',
    "{'event': 'finish'}",
    '{"ev',
    '{"loss": NaN}',
    'x {"event":"finish","status":"completed"}',
    'data: {"event":"finish","status":"completed"}',
    '10%|█         |\r20%|██        |',
    '\u001b[31mred\u001b[0m \u2028',
  ])('%j is a log line, as it stands', (line) => {
    expect(read(`${line}\n`)).toEqual([{ log: line }])
  })

  test.each(['', ' ', '\t \t', '\r', ' \r', '\u00a0\u3000', '\v\f', '\ufeff'])(
    'the blank line %j is ignored',
    (line) => {
      expect(read(`a\n${line}\nb\n${line}`)).toEqual([{ log: 'a' }, { log: 'b' }])
    },
  )

  test.each([
    '{"event"',
    '{"event":',
    '{"event":"finish"',
    '{"event":"finish","status":"completed"',
    '{"event":"finish","status":"completed"}}',
    '{"event":"finish","status":"completed"} done',
    '{"event":"finish",}',
    '{"event":\'finish\'}',
    ' \t{ "event" : "finish"',
    '{"event":"text","content":"a\tb"}',
    '{"event":"progress","completed":NaN}',
  ])('%j begins like an event and is a fault', (line) => {
    expect(read(`${line}\n`)).toEqual([
      {
        fault: { kind: 'INVALID_JSON', line, detail: 'begins like an event, but is not valid JSON' },
        taskId: null,
        seq: null,
      },
    ])
  })

  test('an event that is cut at any byte is never taken for one, and the next line is', () => {
    const event = '{"event":"text","content":"größer 🚀"}'
    const bytes = Buffer.from(event)
    for (let length = 1; length < bytes.length; length += 1) {
      const cut = bytes.subarray(0, length)
      const calls = transcriptOf([cut, Buffer.from(`\n${event}`)])
      expect(outlineOf(calls).slice(-1)).toEqual(['text'])
      expect(outlineOf(calls).slice(0, -1)).not.toContain('text')
      expect(calls.length).toBeGreaterThan(1)
      if (length >= '{"event"'.length) expect(outlineOf(calls)[0]).toBe('INVALID_JSON')
      else expect(calls[0]).toEqual({ log: cut.toString() })
    }
  })

  test('a fault keeps the first 1,000 characters of its line', () => {
    expect(read(`{"event":${'x'.repeat(5_000)}`)).toMatchObject([
      { fault: { line: `{"event":${'x'.repeat(991)}` } },
    ])
  })

  test('a character that does not fit into the 1,000 is not cut in halves', () => {
    const [call] = read(`{"event":${'x'.repeat(990)}🚀`)
    expect(call).toMatchObject({ fault: { line: `{"event":${'x'.repeat(990)}\ufffd` } })
  })

  test('two writers that interleave in the middle of a line break this line only', () => {
    const calls = read(
      '{"event":"text_delta","delta":"a"}\n{"event":"text_{"event":"text_delta","delta":"b"}\ndelta","delta":"c"}\n' +
        '{"event":"text_delta","delta":"d"}\n',
    )
    expect(calls).toMatchObject([
      { event: { delta: 'a' } },
      { fault: { kind: 'INVALID_JSON' } },
      { log: 'delta","delta":"c"}' },
      { event: { delta: 'd' } },
    ])
  })
})

describe('the stream', () => {
  test('a byte order mark before an event is skipped', () => {
    expect(outlineOf(read('\ufeff{"event":"text","content":"a"}\n'))).toEqual(['text'])
  })

  test('a \\r before the newline is dropped, one only', () => {
    expect(read('a\r\n{"event":"text","content":"b"}\r\nc\r\r\nd\r')).toEqual([
      { log: 'a' },
      { event: { type: 'text', content: 'b' }, taskId: null, seq: null },
      { log: 'c\r' },
      { log: 'd' },
    ])
  })

  test('a last line without a newline is a line, and the end says it once', () => {
    expect(read('{"event":"finish","status":"completed"}')).toHaveLength(1)
    expect(read('{"event":"finish","status":"completed"}\n')).toHaveLength(1)
    expect(read('')).toEqual([])
  })

  test('nothing is said of a line before its newline', () => {
    const said: string[] = []
    const parser = parserInto(said)
    parser.feed(Buffer.from('{"event":"text","content":"a"}'))
    expect(said).toEqual([])
    parser.feed(Buffer.from('\nb'))
    expect(said).toEqual(['text'])
    parser.end()
    expect(said).toEqual(['text', 'log'])
  })

  test('after its end a parser begins a new stream', () => {
    const said: string[] = []
    const parser = parserInto(said)
    parser.feed(Buffer.from('{"event":"te'))
    parser.end()
    parser.feed(Buffer.from('{"event":"text","content":"a"}\n'))
    parser.end()
    parser.end()
    expect(said).toEqual(['INVALID_JSON', 'text'])
  })
})

describe('nesting', () => {
  const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth)

  test('64 deep is an event, 65 deep a fault', () => {
    expect(outlineOf(read(`{"event":"result","value":${nested(63)}}`))).toEqual(['result'])
    expect(read(`{"event":"result","value":${nested(64)},"task_id":"t"}`)).toMatchObject([
      { fault: { kind: 'TOO_DEEP', detail: 'nested deeper than 64' }, taskId: null, seq: null },
    ])
  })

  test.each([
    ['an array', nested(65)],
    ['objects', '{"a":'.repeat(65) + '1' + '}'.repeat(65)],
    ['an array without its end', '['.repeat(65)],
    ['an event without its end', '{"event":"x","a":' + '[{"b":'.repeat(40)],
    ['an extra field of a known event', `{"event":"finish","status":"completed","x":${nested(64)}}`],
    ['a field that stands twice', `{"event":"x","a":${nested(64)},"a":1}`],
    ['an object that is no event', `{"a":${nested(64)}}`],
  ])('%s nested deeper is the same fault', (_name, line) => {
    expect(outlineOf(read(`${line}\na\n`))).toEqual(['TOO_DEEP', 'log'])
  })

  test('brackets in texts, beside each other or after the end do not nest', () => {
    expect(outlineOf(read(`{"event":"text","content":"${'[{'.repeat(500)}"}`))).toEqual(['text'])
    expect(outlineOf(read(`{"event":"text","content":"\\"${'['.repeat(500)}\\\\"}`))).toEqual(['text'])
    expect(outlineOf(read(`{"event":"result","value":[${'[],'.repeat(500)}{}]}`))).toEqual(['result'])
    expect(outlineOf(read(`[1] ${'['.repeat(500)}`))).toEqual(['log'])
    expect(outlineOf(read(`]]]${'['.repeat(500)}`))).toEqual(['log'])
  })

  test('a million open brackets are a fault like others', () => {
    expect(
      outlineOf(read(`${'['.repeat(1_000_000)}\n{"event":"x","a":${'{"a":'.repeat(200_000)}\n`)),
    ).toEqual(['TOO_DEEP', 'TOO_DEEP'])
  })
})

function parserInto(said: string[]): EventParser {
  return createEventParser({
    event: (event) => said.push(event.type),
    log: () => said.push('log'),
    fault: (fault) => said.push(fault.kind),
  })
}
