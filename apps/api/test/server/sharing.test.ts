import { expect, test } from 'vitest'
import { RawSocket, startWorld, stream, until, type World } from './harness.ts'

/** Subscribes once per query, pushes one tick, and gives what each got for it. */
async function deliver(
  world: World,
  queries: readonly string[],
  variables: Record<string, unknown> = {},
): Promise<unknown[]> {
  const socket = await new RawSocket(world.server).ready()
  const readers = world.topic.readers + queries.length
  for (const [index, query] of queries.entries()) socket.subscribe(String(index), query, variables)
  await until(() => world.topic.readers === readers)
  world.topic.push('one')
  const messages = await Promise.all(
    queries.map((_, index) => socket.message(({ id, type }) => id === String(index) && type === 'next')),
  )
  socket.socket.terminate()
  return messages.map(({ payload }) => payload)
}

const SHARED = 'subscription ($topic: String) { ticks(topic: $topic) { n text } }'
const ONE = { data: { ticks: { n: 1, text: 'one' } } }

test('executes once for many subscribers of one document who get the same object', async () => {
  await using world = await startWorld()
  const results = await deliver(
    world,
    Array.from({ length: 50 }, () => SHARED),
  )
  expect(results).toEqual(results.map(() => ONE))
  expect(world.resolved()).toBe(1)
})

test('shares with event streams, whatever the arguments of the root field are', async () => {
  await using world = await startWorld()
  const response = await stream(world.server, { query: SHARED, variables: { topic: 'another' } })
  await until(() => world.topic.readers === 1)
  const results = await deliver(world, [SHARED], { topic: 'one' })
  world.topic.end()
  expect(await response.text()).toContain(`data: ${JSON.stringify(ONE)}`)
  expect(results).toEqual([ONE])
  expect(world.resolved()).toBe(1)
})

test('does not share between documents, nor between operations of one document', async () => {
  await using world = await startWorld()
  const results = await deliver(world, [
    'subscription { ticks { text } }',
    'subscription { ticks { text n } }',
  ])
  expect(results).toEqual([{ data: { ticks: { text: 'one' } } }, { data: { ticks: { text: 'one', n: 1 } } }])
  expect(world.resolved()).toBe(2)
})

test.each([
  'subscription ($s: String) { ticks { text(suffix: $s) } }',
  'subscription ($s: String) { ticks { ...T } } fragment T on Tick { text(suffix: $s) }',
])('does not share where variables reach below the root field: %s', async (query) => {
  await using world = await startWorld()
  const socket = await new RawSocket(world.server).ready()
  socket.subscribe('a', query, { s: ' for a' })
  socket.subscribe('b', query, { s: ' for b' })
  await until(() => world.topic.readers === 2)
  world.topic.push('one')
  expect(await socket.message(({ id }) => id === 'a')).toMatchObject({
    payload: { data: { ticks: { text: 'one for a' } } },
  })
  expect(await socket.message(({ id }) => id === 'b')).toMatchObject({
    payload: { data: { ticks: { text: 'one for b' } } },
  })
  socket.socket.terminate()
})

test('does not share a field that is not declared to depend on its value alone', async () => {
  await using world = await startWorld()
  const query = 'subscription { unshared { text } }'
  await deliver(world, [query, query, query])
  expect(world.resolved()).toBe(3)
})
