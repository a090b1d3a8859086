import { afterAll, beforeAll, expect, test } from 'vitest'
import type { GpuClient, TextPiece } from '../src/index.ts'
import { openProxy } from './proxy.ts'
import { eventsOf, submit } from './reading.ts'
import { connect, flooding, Service, worker } from './service.ts'

const say = (delta: string): string => `echo '{"event":"text_delta","delta":"${delta}"}'`
const state = (content: string): string => `echo '{"event":"text","content":"${content}"}'`

const FLOOD_LINES = 20_000

let service: Service
let client: GpuClient
beforeAll(async () => {
  service = await Service.start({
    pieces: worker([say('Hello '), say('World')].join('; ')),
    confirmed: worker([say('Hello '), say('World'), state('Hello World')].join('; ')),
    replaced: worker([say('Hello '), 'sleep 0.3', state('Good day'), say('ignored')].join('; ')),
    twice: worker([state('one'), 'sleep 0.3', state('one, two'), 'sleep 0.3', state('three')].join('; ')),
    silent: worker('true'),
    retried: {
      script: worker(`case "$TASK_ID" in *.2) ${say('second')};; *) ${say('first')}; exit 3;; esac`),
      retry: { max_attempts: 2, on: ['worker_failed'], backoff: '100ms' },
    },
    flood: flooding(FLOOD_LINES, 1_000),
  })
  client = connect(service.url)
})
afterAll(async () => {
  client.close()
  await service[Symbol.asyncDispose]()
})

async function read(pieces: AsyncIterable<TextPiece>): Promise<{ text: string; replacements: number }> {
  let parts: string[] = []
  let replacements = 0
  for await (const { text, replaces } of pieces) {
    if (replaces) {
      parts = []
      replacements++
    }
    parts.push(text)
  }
  return { text: parts.join(''), replacements }
}

test.each([
  ['pieces', 'Hello World', 0],
  ['confirmed', 'Hello World', 0],
  ['replaced', 'Good day', 1],
  ['twice', 'three', 1],
  ['silent', '', 0],
  ['retried', 'second', 1],
])('puts the text of a task together that is %s', async (kind, text, replacements) => {
  const id = await submit(client, kind)
  expect(await read(client.followText(id))).toEqual({ text, replacements })
  const task = await client.task(id)
  expect(task).toMatchObject({ status: 'COMPLETED', text: text === '' ? null : text })
  // What comes in one piece afterwards is the same.
  expect((await read(client.followText(id))).text).toBe(text)
})

test('holds little for a consumer that stops, and gives it everything when it goes on', async () => {
  await using proxy = await openProxy(service)
  await using slow = connect(proxy.url)
  const id = await submit(client, 'flood')
  const following = slow.followText(id)
  const first = await following.next()
  const others = await eventsOf(client.followTask(id))
  expect(others.length).toBeGreaterThan(FLOOD_LINES)
  // Nothing comes any more, though more than four times as much is there.
  await expect.poll(() => proxy.open, { timeout: 5_000 }).toBe(0)
  expect(proxy.bytes).toBeLessThan(6_000_000)
  let parts = first.done === true ? [] : [first.value.text]
  for await (const { text, replaces } of following) parts = replaces ? [text] : [...parts, text]
  const task = await client.task(id)
  expect(task?.text?.length).toBe(16 * 1024 * 1024)
  expect(parts.join('') === task?.text).toBe(true)
  // Far fewer pieces than lines: a reader that is behind gets more at a time.
  expect(parts.length).toBeLessThan(200)
})
