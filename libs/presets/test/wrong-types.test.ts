import { expect, it } from 'vitest'
import { presetsFolder } from './presets-folder.ts'

/** Something of everything that a preset may say. */
const PRESET = {
  docker_image: 'worker:latest',
  command: ['python', 'worker.py'],
  env_vars: { A: 'b' },
  description: 'for people',
  mode: 'session',
  gpus: { count: 1, ids: ['GPU-1'], names: ['H100'], share: 'shared', memory: '1GiB' },
  model_path: 'llama/7b',
  model_name: 'llama',
  input: {
    type: 'object',
    properties: { p: { type: 'string', pattern: '^a', default: 'a' } },
    required: ['p'],
  },
  timeouts: { queue: '1h', start: 60, run: '1h30m', silence: '5m', acknowledge: '5s', stop_grace: 0 },
  retry: { max_attempts: 2, backoff: '1s', on: ['engine'] },
  session: { max_concurrency: 2, idle: '1m', max_tasks: 10, pinned: false, prewarm: 1, isolation: 'shared' },
  resources: { memory: '1GiB', cpus: 1.5, processes: 64, shared_memory: '64MiB', tmp: '64MiB' },
  network: 'none',
  volumes: [{ source: '/tmp', target: '/sets', read_only: true }],
  secrets: { token: 'env:WORKER_SECRET_A' },
  local: ['python3', 'worker.py'],
  pull: 'missing',
  allow: { user: '1000:1000', writable_root: true, capabilities: ['KILL'] },
}

const WRONG: readonly string[] = [
  ...['null', '~', '7', '-1', '0.1', '1e999', '.nan', '.inf', '-.inf', 'true', '""', '"\\0"', '"\\ud800"'],
  ...['"x"', `"${'x'.repeat(3_000)}"`, '[]', '{}', '[[]]', '[null]', '[{}]', '{a: b}', '{__proto__: {a: 1}}'],
  ...[
    '{constructor: {prototype: {a: 1}}}',
    '!!binary aGk=',
    '!x y',
    '*none',
    '&a [*a]',
    '2026-11-26',
    '0x7fffffffffffffff',
  ],
  ...['"../../x"', '"${HOME}"', '["", ""]', '{"": ""}', '{1: 2}', '{[a]: b}', '[1, 2, 3]'],
]

/** The value, and each that lies in it, replaced by another text. */
function* replaced(value: unknown, by: string): Generator<string, void> {
  yield by
  if (Array.isArray(value)) {
    const items = value as readonly unknown[]
    for (const [at, item] of items.entries())
      for (const other of replaced(item, by))
        yield `[${items.map((each, index) => (index === at ? other : JSON.stringify(each))).join(', ')}]`
  } else if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value) as readonly (readonly [string, unknown])[]
    for (const [name, item] of entries)
      for (const other of replaced(item, by))
        yield `{${entries.map(([key, each]) => `${JSON.stringify(key)}: ${key === name ? other : JSON.stringify(each)}`).join(', ')}}`
  }
}

it('a value of any other kind, at any place, is taken or told with its place, and what was in force stays', async () => {
  await using folder = await presetsFolder(`models: {m: {k: ${JSON.stringify(PRESET)}}}`)
  const catalog = await folder.open({ volumeRoots: ['/tmp'] })
  expect(catalog.issues()).toEqual([])
  const before = Reflect.ownKeys(Object.prototype)
  let told = 0
  let last = catalog.presets()
  for (const by of WRONG)
    for (const preset of replaced(PRESET, by)) {
      await folder.write(`models: {m: {k: ${preset}}}`)
      const result = await catalog.reload()
      if (result.status === 'reloaded') last = catalog.presets()
      else {
        told++
        expect(result.issues.length).toBeGreaterThan(0)
        for (const { line, column, message } of result.issues) {
          expect({ line, isThere: column >= 1 }).toEqual({ line: 1, isThere: true })
          expect(message).not.toMatch(/undefined|\[object|TypeError|at .*\.ts/)
          expect(message.length).toBeLessThan(700)
        }
        expect(catalog.presets()).toEqual(last)
      }
    }
  expect(told).toBeGreaterThan(1_000)
  expect(Reflect.ownKeys(Object.prototype)).toEqual(before)
}, 120_000)
