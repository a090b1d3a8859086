import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import fc from 'fast-check'
import { buildSchema } from 'graphql'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CONNECTED, FINISHED, say, script } from '../e2e/scripts.ts'
import { TestService } from '../e2e/service.ts'
import { operationOf, type Said } from './operations.ts'
import { ThreePaths, type Heard } from './three-paths.ts'

/** A failure prints the smallest case. `HOSTILE_RUNS` and `HOSTILE_SEED` ask for more, and for others. */
const RUNS = Number(process.env['HOSTILE_RUNS'] ?? 300)
const SEED = Number(process.env['HOSTILE_SEED'] ?? 0x6750)

/** Nothing that a client says may hold up everybody for so long, in milliseconds of the processor. */
const MAX_STALL_MS = 250

const schema = buildSchema(
  readFileSync(join(import.meta.dirname, '../../src/graphql/schema.graphql'), 'utf8'),
)
const probe = pathToFileURL(join(import.meta.dirname, 'probe.mjs')).href

/** What an error may hold of neither the program nor the machine. */
const LEAK =
  /\n\s+at |node_modules|\.[cm]?[jt]s:\d|\bSELECT\b|\bINSERT\b|SQLITE|[Pp]risma|gpu-service-e2e|[A-Z][a-z]+Error:/

let service: TestService
let paths: ThreePaths
let ids: readonly string[]

beforeAll(async () => {
  service = await TestService.start({
    runner: 'process',
    env: { GPUS: 'simulated:1x1024', SHUTDOWN: 'stop', NODE_OPTIONS: `--import=${probe}` },
    presets: {
      short: script(`${CONNECTED}; ${say('hello')}; ${FINISHED}`),
      // Nothing is started for what is submitted here while no GPU may be used.
      waiting: script(FINISHED, { gpus: { count: 1 } }),
      session: script('sleep 60', { mode: 'session', gpus: { count: 1 } }),
    },
  })
  paths = new ThreePaths(service.url)
  const { id } = await service.run('short')
  const gpu = await service.gpu()
  await service.query('mutation ($id: ID!) { drainGpu(id: $id) { __typename } }', { id: gpu.id })
  ids = [id, gpu.id, 'test/short', 'test/waiting', 'test/session', 'test', '5', '1:abc', 'read']
})
afterAll(async () => {
  await paths[Symbol.asyncDispose]()
  await service[Symbol.asyncDispose]()
})

const health = (): Promise<{ readonly longestMs: number; readonly isUnchanged: boolean }> =>
  service.ask({ ask: 'how are you?' })

/** What none may do, whatever it was asked. */
function expectDecent(path: string, { status, codes, text }: Heard): void {
  expect({ path, status: status < 500 || status >= 4_000, codes }).toEqual({ path, status: true, codes })
  expect(codes, `${path}: ${text}`).not.toContain('INTERNAL_SERVER_ERROR')
  expect(codes, `${path}: ${text}`).not.toContain('undefined')
  if (codes.length > 0) expect(text.slice(0, 5_000)).not.toMatch(LEAK)
}

const verdict = ({ codes, hasData }: Heard) => ({ codes, hasData })

/** Asks on all paths; they must agree. */
async function askEverywhere(said: Said): Promise<Heard> {
  const http = await paths.overHttp(said)
  const stream = await paths.overStream(said)
  const socket = await paths.overSocket(said)
  expectDecent('HTTP', http)
  expectDecent('stream', stream)
  expectDecent('WebSocket', socket)
  // Of what is no operation by its form a WebSocket's client has broken the protocol.
  if (socket.codes[0] === 'closed 4400')
    expect(verdict(stream)).toEqual({ codes: ['BAD_REQUEST'], hasData: false })
  else expect(verdict(socket), JSON.stringify([said, socket.text, stream.text])).toEqual(verdict(stream))
  // The one that plain HTTP does not serve.
  if (http.codes[0] !== 'BAD_REQUEST' || !http.text.includes('Subscriptions come over'))
    expect(verdict(http), JSON.stringify([said, http.text, stream.text])).toEqual(verdict(stream))
  return stream
}

test('whatever an operation says, it is answered, on each path in the same way, and nobody waits for it', async () => {
  console.log(`HOSTILE_SEED=${SEED} HOSTILE_RUNS=${RUNS}`)
  const seen = new Map<string, number>()
  // The start of the service is not meant.
  await health()
  await fc.assert(
    fc.asyncProperty(fc.gen(), async (choose) => {
      const said = operationOf(choose, schema, {
        ids,
        // What says nothing while nothing changes, and what reads the whole log.
        without: ['taskUpdated', 'workerUpdated'],
      })
      const { codes, hasData } = await askEverywhere(said)
      for (const code of hasData ? ['data', ...codes] : codes) seen.set(code, (seen.get(code) ?? 0) + 1)
    }),
    { numRuns: RUNS, seed: SEED },
  )
  const { longestMs, isUnchanged } = await health()
  console.log(`longest stall: ${longestMs.toFixed()} ms`, Object.fromEntries(seen))
  expect(isUnchanged, 'the built-in objects are as they were').toBe(true)
  expect(longestMs).toBeLessThan(MAX_STALL_MS)
  // What was asked has reached the service's own code, and has been wrong in every way.
  expect(seen.get('data')).toBeGreaterThan(RUNS / 4)
  expect([...seen.keys()]).toEqual(
    expect.arrayContaining(['BAD_USER_INPUT', 'GRAPHQL_PARSE_FAILED', 'GRAPHQL_VALIDATION_FAILED']),
  )
  expect(service.output).not.toContain('An operation failed unexpectedly')
  expect(await service.run('short')).toMatchObject({ status: 'COMPLETED' })
}, 600_000)
