import { describe, expect, test } from 'vitest'
import { eventsOf, read } from './transcript.ts'

describe('the events', () => {
  test.each([
    ['{"event":"connection","status":"connected"}', { type: 'connection', status: 'connected' }],
    [
      '{"event":"worker","status":"loading","message":"Loading model..."}',
      { type: 'worker', status: 'loading', message: 'Loading model...', progress: null },
    ],
    [
      '{"event":"worker","status":"warming up","progress":0.25}',
      { type: 'worker', status: 'warming up', message: null, progress: 0.25 },
    ],
    ['{"event":"text_delta","delta":"Hello "}', { type: 'text_delta', delta: 'Hello ' }],
    ['{"event":"text_delta","delta":""}', { type: 'text_delta', delta: '' }],
    ['{"event":"text","content":"Hello World!"}', { type: 'text', content: 'Hello World!' }],
    ['{"event":"finish","status":"completed"}', { type: 'finish', status: 'completed', error: null }],
    ['{"event":"finish","status":"cancelled"}', { type: 'finish', status: 'cancelled', error: null }],
    [
      '{"event":"finish","status":"failed","error":"no space"}',
      { type: 'finish', status: 'failed', error: { code: null, message: 'no space' } },
    ],
    [
      '{"event":"finish","status":"failed","error":{"code":"DISK","message":"no space","more":1}}',
      { type: 'finish', status: 'failed', error: { code: 'DISK', message: 'no space' } },
    ],
    [
      '{"event":"progress","completed":3,"total":20,"unit":"steps","message":"denoising"}',
      { type: 'progress', completed: 3, total: 20, unit: 'steps', message: 'denoising' },
    ],
    [
      '{"event":"progress","completed":0}',
      { type: 'progress', completed: 0, total: null, unit: null, message: null },
    ],
    ['{"event":"result","value":[1,{"a":null}]}', { type: 'result', value: [1, { a: null }] }],
    ['{"event":"result","value":null}', { type: 'result', value: null }],
    [
      '{"event":"artifact","path":"out/a.png","name":"a","media_type":"image/png"}',
      { type: 'artifact', source: { kind: 'path', path: 'out/a.png' }, name: 'a', mediaType: 'image/png' },
    ],
    [
      '{"event":"artifact","data":"aGk="}',
      { type: 'artifact', source: { kind: 'data', data: 'aGk=' }, name: null, mediaType: null },
    ],
    [
      '{"event":"usage","prompt_tokens":12,"audio_seconds":1.5}',
      { type: 'usage', values: { prompt_tokens: 12, audio_seconds: 1.5 } },
    ],
    [
      '{"event":"log","level":"warning","message":"slow"}',
      { type: 'log', level: 'warning', message: 'slow' },
    ],
    [
      '{"event":"epoch","number":2,"losses":[0.5,{"aux":0.25}]}',
      {
        type: 'custom',
        name: 'epoch',
        payload: { event: 'epoch', number: 2, losses: [0.5, { aux: 0.25 }] },
      },
    ],
  ])('%s is read', (line, event) => {
    expect(read(`${line}\n`)).toEqual([{ event, taskId: null, seq: null }])
  })

  test('an unknown field of a known event is dropped', () => {
    expect(eventsOf('{"event":"text","content":"a","content_type":"b","type":"finish"}')).toEqual([
      { type: 'text', content: 'a' },
    ])
  })

  test('an optional field that is null counts as absent, without a fault', () => {
    expect(
      read('{"event":"worker","status":"ready","message":null,"progress":null,"task_id":null,"seq":null}'),
    ).toEqual([
      { event: { type: 'worker', status: 'ready', message: null, progress: null }, taskId: null, seq: null },
    ])
  })

  test('usage keeps its finite numbers only, and never the seq', () => {
    expect(read('{"event":"usage","a":1,"b":"2","c":1e400,"d":null,"seq":7,"task_id":"t"}')).toEqual([
      { event: { type: 'usage', values: { a: 1 } }, taskId: 't', seq: 7 },
    ])
  })

  test('the event may stand anywhere in its object, its name may be written with escapes', () => {
    expect(eventsOf(' { "delta" : "a" ,\t"event" : "text\\u005fdelta" } ')).toEqual([
      { type: 'text_delta', delta: 'a' },
    ])
  })

  test('of a key that stands twice the last counts', () => {
    expect(
      eventsOf('{"event":"finish","status":"failed","event":"text","content":"a","content":"b"}'),
    ).toEqual([{ type: 'text', content: 'b' }])
  })
})

describe('the envelope', () => {
  test('task_id and seq are handed on beside the event and are no part of it', () => {
    expect(
      read('{"event":"text","content":"a","task_id":"t.1","seq":4}\n{"event":"x","task_id":"t.2","seq":5}'),
    ).toEqual([
      { event: { type: 'text', content: 'a' }, taskId: 't.1', seq: 4 },
      { event: { type: 'custom', name: 'x', payload: { event: 'x' } }, taskId: 't.2', seq: 5 },
    ])
  })

  test.each(['7', 'false', '["t"]', '{"id":"t"}'])(
    'a task_id of %s costs the event, whatever it is',
    (taskId) => {
      for (const event of ['"text","content":"a"', '"unheard-of"']) {
        expect(read(`{"event":${event},"task_id":${taskId},"seq":3}`)).toMatchObject([
          { fault: { kind: 'INVALID_FIELDS', detail: '`task_id` must be a text' }, taskId: null, seq: 3 },
        ])
      }
    },
  )

  test.each(['0', '-1', '1.5', '1e400', '9007199254740992', '"1"', 'true', '[1]'])(
    'a seq of %s costs the event, and the task is still told',
    (seq) => {
      expect(read(`{"event":"text","content":"a","task_id":"t","seq":${seq}}`)).toMatchObject([
        {
          fault: { kind: 'INVALID_FIELDS', detail: '`seq` must be a positive integer' },
          taskId: 't',
          seq: null,
        },
      ])
    },
  )
})

describe('fields that are not what they should be', () => {
  test.each([
    ['"connection"', '`status` must be a text'],
    ['"connection","status":1', '`status` must be a text'],
    ['"worker","message":"a"', '`status` must be a text'],
    ['"worker","status":null', '`status` must be a text'],
    ['"text_delta"', '`delta` must be a text'],
    ['"text_delta","delta":null', '`delta` must be a text'],
    ['"text_delta","delta":["a"]', '`delta` must be a text'],
    ['"text","delta":"a"', '`content` must be a text'],
    ['"finish"', '`status` must be "completed", "failed" or "cancelled"'],
    ['"finish","status":"done"', '`status` must be "completed", "failed" or "cancelled"'],
    ['"finish","status":"COMPLETED"', '`status` must be "completed", "failed" or "cancelled"'],
    ['"finish","status":true', '`status` must be "completed", "failed" or "cancelled"'],
    ['"progress","total":3', '`completed` must be a number'],
    ['"progress","completed":"3"', '`completed` must be a number'],
    ['"progress","completed":1e400', '`completed` must be a number'],
    ['"result"', '`value` is missing'],
    ['"artifact","name":"a"', 'either `path` or `data` must be there'],
    ['"artifact","path":"a","data":"b"', 'either `path` or `data` must be there'],
    ['"artifact","path":1', '`path` must be a text; either `path` or `data` must be there'],
    ['"usage"', 'at least one number must be there'],
    ['"usage","tokens":"12"', 'at least one number must be there'],
    ['"log","level":"info"', '`message` must be a text'],
    ['"log"', '`level` must be a text; `message` must be a text'],
  ])('{"event":%s} is a fault that says which field and what it must be', (fields, detail) => {
    const line = `{"event":${fields}}`
    expect(read(`${line}\n`)).toEqual([
      { fault: { kind: 'INVALID_FIELDS', line, detail }, taskId: null, seq: null },
    ])
  })

  test('a fault that costs the event tells its task and its seq', () => {
    expect(read('{"event":"finish","status":"done","task_id":"t","seq":9}')).toMatchObject([
      { fault: { kind: 'INVALID_FIELDS' }, taskId: 't', seq: 9 },
    ])
  })

  test.each([
    [
      '"worker","status":"ready","progress":37',
      '`progress` must be a number from 0 to 1',
      { type: 'worker', status: 'ready', message: null, progress: null },
    ],
    [
      '"worker","status":"ready","progress":-0.1,"message":["a"]',
      '`message` must be a text; `progress` must be a number from 0 to 1',
      { type: 'worker', status: 'ready', message: null, progress: null },
    ],
    [
      '"progress","completed":1,"total":1e400,"unit":5',
      '`total` must be a number; `unit` must be a text',
      { type: 'progress', completed: 1, total: null, unit: null, message: null },
    ],
    [
      '"finish","status":"completed","error":false',
      '`error` must be a text or an object with the text `message`',
      { type: 'finish', status: 'completed', error: null },
    ],
    [
      '"finish","status":"failed","error":{"code":"X"}',
      '`error` must be a text or an object with the text `message`',
      { type: 'finish', status: 'failed', error: null },
    ],
    [
      '"finish","status":"failed","error":{"code":137,"message":"killed"}',
      '`error.code` must be a text',
      { type: 'finish', status: 'failed', error: { code: null, message: 'killed' } },
    ],
    [
      '"artifact","path":"a","name":1,"media_type":2',
      '`media_type` must be a text; `name` must be a text',
      { type: 'artifact', source: { kind: 'path', path: 'a' }, name: null, mediaType: null },
    ],
  ])(
    '{"event":%s} loses the optional field and says so in a fault before the event',
    (fields, detail, event) => {
      const line = `{"event":${fields},"task_id":"t","seq":2}`
      expect(read(line)).toEqual([
        { fault: { kind: 'INVALID_FIELDS', line, detail }, taskId: 't', seq: null },
        { event, taskId: 't', seq: 2 },
      ])
    },
  )
})
