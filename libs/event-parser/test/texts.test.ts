import { describe, expect, test } from 'vitest'
import { eventsOf, outlineOf, read, transcriptOf } from './transcript.ts'

describe('texts', () => {
  test.each([
    ['\\u0000', '\ufffd'],
    ['\0', '\ufffd'],
    ['a\\u0000b\\u0000', 'a\ufffdb\ufffd'],
    ['\\ud800', '\ufffd'],
    ['\\uDC00\\uD800', '\ufffd\ufffd'],
    ['\\ud83d\\ude80\\ud83d', '🚀\ufffd'],
    ['\\\\u0000', '\\u0000'],
    ['\\u00e9\\u2028\\uffff', 'é\u2028\uffff'],
  ])('%j is kept as %j', (json, text) => {
    const plain = [
      [`{"event":"text_delta","delta":"${json}"}`, { type: 'text_delta', delta: text }],
      [`{"event":"connection","status":"${json}"}`, { type: 'connection', status: text }],
      [
        `{"event":"worker","status":"${json}","message":"${json}"}`,
        { type: 'worker', status: text, message: text, progress: null },
      ],
      [
        `{"event":"finish","status":"failed","error":"${json}"}`,
        { type: 'finish', status: 'failed', error: { code: null, message: text } },
      ],
      [
        `{"event":"finish","status":"failed","error":{"code":"${json}","message":"${json}"}}`,
        { type: 'finish', status: 'failed', error: { code: text, message: text } },
      ],
      [`{"event":"usage","${json}":1}`, { type: 'usage', values: { [text]: 1 } }],
      [
        `{"event":"result","value":{"${json}":["${json}",{"k":"${json}"}]}}`,
        { type: 'result', value: { [text]: [text, { k: text }] } },
      ],
      [
        `{"event":"x${json}","${json}":["${json}"]}`,
        { type: 'custom', name: `x${text}`, payload: { event: `x${text}`, [text]: [text] } },
      ],
    ] as const
    for (const [line, event] of plain) expect(read(line)).toEqual([{ event, taskId: null, seq: null }])
    expect(read(`{"event":"text","content":"a","task_id":"${json}"}`)).toMatchObject([{ taskId: text }])
  })

  test('NUL in a log line and in the line of a fault is replaced', () => {
    expect(read('a\0b\n{"event"\0\n')).toMatchObject([
      { log: 'a\ufffdb' },
      { fault: { line: '{"event"\ufffd' } },
    ])
  })

  test('a key that becomes equal to another by the replacement takes its place', () => {
    expect(eventsOf('{"event":"result","value":{"\\u0000":1,"\\ud800":2}}')).toEqual([
      { type: 'result', value: { '\ufffd': 2 } },
    ])
  })

  test('keys that mean something to JavaScript are data and change no prototype', () => {
    const json = '{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}},"toJSON":1}'
    const [result, custom] = eventsOf(
      `{"event":"result","value":${json}}\n{"event":"constructor","__proto__":${json},"hasOwnProperty":1}`,
    )
    if (result?.type !== 'result' || custom?.type !== 'custom') throw new Error('not read')
    expect(JSON.stringify(result.value)).toBe(json)
    expect(Object.getPrototypeOf(result.value)).toBe(Object.prototype)
    expect(JSON.stringify(custom.payload)).toBe(
      `{"event":"constructor","__proto__":${json},"hasOwnProperty":1}`,
    )
    expect(Object.getPrototypeOf(custom.payload)).toBe(Object.prototype)
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined()
  })

  test('a usage named __proto__ is a usage like others', () => {
    const [event] = eventsOf('{"event":"usage","__proto__":1,"toString":2}')
    expect(JSON.stringify(event)).toBe('{"type":"usage","values":{"__proto__":1,"toString":2}}')
  })

  test.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty', ''])(
    'an event named %j is a custom one',
    (name) => {
      expect(eventsOf(`{"event":"${name}"}`)).toEqual([{ type: 'custom', name, payload: { event: name } }])
    },
  )

  test('a number too large for a double is null in a result and in a custom event', () => {
    expect(
      eventsOf('{"event":"result","value":[1e400,-1e400,{"a":1e308}]}\n{"event":"x","y":1e999}'),
    ).toEqual([
      { type: 'result', value: [null, null, { a: 1e308 }] },
      { type: 'custom', name: 'x', payload: { event: 'x', y: null } },
    ])
  })
})

describe('bytes that are not UTF-8', () => {
  test.each([
    ['a lone continuation', [0x80], '\ufffd'],
    ['FF FE', [0xff, 0xfe], '\ufffd\ufffd'],
    ['an overlong slash', [0xc0, 0xaf], '\ufffd\ufffd'],
    ['a surrogate half', [0xed, 0xa0, 0x80], '\ufffd\ufffd\ufffd'],
    ['a character cut short', [0xf0, 0x9f, 0x9a], '\ufffd'],
    ['a code point above U+10FFFF', [0xf4, 0x90, 0x80, 0x80], '\ufffd\ufffd\ufffd\ufffd'],
    ['Latin-1', [0xe9], '\ufffd'],
  ])('%s is replaced, the event kept, and a fault comes before it', (_name, bytes, text) => {
    const line = [
      Buffer.from('{"event":"text","content":"'),
      Buffer.from(bytes),
      Buffer.from('","task_id":"t","seq":1}'),
    ]
    expect(transcriptOf([Buffer.concat([...line, Buffer.from('\nnext é\n')])])).toEqual([
      {
        fault: {
          kind: 'INVALID_UTF8',
          line: `{"event":"text","content":"${text}","task_id":"t","seq":1}`,
          detail: 'bytes that are not UTF-8 were replaced',
        },
        taskId: 't',
        seq: null,
      },
      { event: { type: 'text', content: text }, taskId: 't', seq: 1 },
      { log: 'next é' },
    ])
  })

  test('in a log line they are replaced, and a fault comes before it', () => {
    expect(transcriptOf([Buffer.from([0x61, 0xff, 0x0a])])).toMatchObject([
      { fault: { kind: 'INVALID_UTF8', line: 'a\ufffd' } },
      { log: 'a\ufffd' },
    ])
  })

  test('a replacement character that the worker itself wrote is no fault', () => {
    expect(outlineOf(read('a\ufffd\n'))).toEqual(['log'])
  })

  test('a broken event is one fault, not two', () => {
    expect(outlineOf(transcriptOf([Buffer.from('{"event":"\xff', 'latin1')]))).toEqual(['INVALID_JSON'])
  })
})
