import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Kind, parse, visit } from 'graphql'
import { expect, test } from 'vitest'

/** Whatever a caller can say: every argument of a field, and every field of an input type. */
async function sayable(): Promise<readonly string[]> {
  const schema = parse(await readFile(join(import.meta.dirname, '../../src/graphql/schema.graphql'), 'utf8'))
  const found: string[] = []
  visit(schema, {
    InputValueDefinition(node, _key, _parent, _path, ancestors) {
      const above = ancestors.filter((ancestor) => 'kind' in ancestor)
      if (above.some(({ kind }) => kind === Kind.DIRECTIVE_DEFINITION)) return
      const owners = above.flatMap((ancestor) => ('name' in ancestor ? [ancestor.name.value] : []))
      found.push([...owners, node.name.value].join('.'))
    },
  })
  return found
}

test('a task can say which preset it wants, and nothing of how its worker is kept from the host', async () => {
  const all = await sayable()
  expect(all.filter((name) => name.startsWith('SubmitTaskInput.')).map((name) => name.split('.')[1])).toEqual(
    [
      ...['presetId', 'input', 'priority', 'labels', 'idempotencyKey', 'affinity', 'timeoutMs', 'gpuIds'],
      ...['files', 'privacy'],
    ],
  )
})

test('nothing that can be said anywhere is an image, a mount, a device or the like', async () => {
  const reserved = [
    ...[
      'image',
      'command',
      'entrypoint',
      'env',
      'environment',
      'mount',
      'volume',
      'bind',
      'tmpfs',
      'device',
      'uid',
      'gid',
    ],
    ...[
      'network',
      'capability',
      'privileged',
      'seccomp',
      'apparmor',
      'ulimit',
      'sysctl',
      'runtime',
      'container',
    ],
  ]
  const wordsOf = (name: string): string[] =>
    name.split(/(?=[A-Z])/).map((word) => word.toLowerCase().replace(/ies$/, 'y').replace(/s$/, ''))
  const all = await sayable()
  expect(all).toContain('Mutation.submitTask.input')
  const found = all.filter((name) =>
    wordsOf(name.split('.').at(-1) ?? '').some((word) => reserved.includes(word)),
  )
  expect(found).toEqual([])
})
