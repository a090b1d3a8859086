import type { JsonObject } from '@gpu-service/tasks'
import { suggestion } from './closest.ts'
import { keyPath } from './report.ts'
import type { Report } from './report.ts'
import { complain, mismatch } from './shape.ts'
import type { Field, Place, Shape } from './shape.ts'
import type { Tree } from './yaml-tree.ts'

export interface ListRules {
  readonly expected: string
  readonly min?: number
  readonly max: number
  /** What to say where a text stands in the list's place. */
  readonly insteadOf?: (text: string) => string
  /** Refuses a value that is there already; `null`: any may come again. */
  readonly distinct?: true
}

export function list<T>(item: Shape<T>, rules: ListRules): Shape<readonly T[]> {
  const { expected, min = 0, max } = rules
  return {
    expected,
    schema: {
      type: 'array',
      items: item.schema,
      ...(min > 0 && { minItems: min }),
      maxItems: max,
      ...(rules.distinct && { uniqueItems: true }),
    },
    read(place, report) {
      const { tree } = place
      if (tree.kind !== 'list') {
        const hint = tree.kind === 'text' && rules.insteadOf ? `; ${rules.insteadOf(tree.text)}` : ''
        mismatch(place, report, expected, hint)
        return undefined
      }
      if (tree.items.length < min || tree.items.length > max) {
        complain(
          place,
          report,
          `expected ${expected} with ${min} to ${max} entries, found ${tree.items.length}`,
        )
        return undefined
      }
      const values: T[] = []
      const before = report.count
      tree.items.forEach((itemTree, index) => {
        const at: Place = { tree: itemTree, path: `${place.path}[${index}]`, keyAt: itemTree.at }
        const value = item.read(at, report)
        if (value === undefined) return
        if (rules.distinct && values.includes(value)) complain(at, report, 'is in the list already')
        values.push(value)
      })
      return report.count === before ? values : undefined
    },
  }
}

export interface NameRules {
  readonly pattern: string
  /** Names that match this are refused although they match `pattern`. */
  readonly refused?: string
  /** What is wrong with a name; `null`: nothing. */
  readonly refuse: (name: string) => string | null
}

export interface NamedValue<T> {
  readonly name: string
  readonly value: T
}

/** A mapping whose keys are names of the writer's own choice. Nothing counts as an empty one. */
export function record<T>(
  value: Shape<T>,
  rules: { expected: string; names: NameRules; min?: number },
): Shape<readonly NamedValue<T>[]> {
  const { expected, names, min = 0 } = rules
  const { pattern, refused } = names
  return {
    expected,
    schema: {
      type: min > 0 ? 'object' : ['object', 'null'],
      propertyNames: { pattern, ...(refused !== undefined && { not: { pattern: refused } }) },
      additionalProperties: value.schema,
      ...(min > 0 && { minProperties: min }),
    },
    read(place, report) {
      const entries = entriesOf(place, report, expected)
      if (entries === undefined) return undefined
      if (entries.size < min) {
        mismatch(place, report, expected)
        return undefined
      }
      const before = report.count
      const values: NamedValue<T>[] = []
      for (const [name, entry] of entries) {
        const path = keyPath(place.path, name)
        const refusal = names.refuse(name)
        if (refusal !== null) report.add(entry.keyAt, `${path}: ${refusal}`)
        const read = value.read({ tree: entry.value, path, keyAt: entry.keyAt }, report)
        if (read !== undefined) values.push({ name, value: read })
      }
      return report.count === before ? values : undefined
    },
  }
}

export type Fields = Readonly<Record<string, Field<unknown>>>
export type Values<F extends Fields> = {
  readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never
}

/** A mapping with known keys. Nothing counts as an empty one. */
export function mapping<F extends Fields>(expected: string, fields: F): Shape<Values<F>> {
  const names = Object.keys(fields)
  const needed = names.filter((name) => fields[name]?.required)
  return {
    expected,
    schema: {
      type: needed.length > 0 ? 'object' : ['object', 'null'],
      properties: Object.fromEntries(
        Object.entries(fields).map(([name, field]) => [name, fieldSchema(field)]),
      ),
      ...(needed.length > 0 && { required: needed }),
      additionalProperties: false,
    },
    read(place, report) {
      const entries = entriesOf(place, report, expected)
      if (entries === undefined) return undefined
      const before = report.count
      const values: Record<string, unknown> = {}
      for (const [name, field] of Object.entries(fields)) {
        const entry = entries.get(name)
        const path = keyPath(place.path, name)
        if (entry) values[name] = field.shape.read({ tree: entry.value, path, keyAt: entry.keyAt }, report)
        else if (field.required)
          report.add(place.keyAt, `${path} is missing: expected ${field.shape.expected}`)
        else values[name] = field.fallback
      }
      for (const [name, entry] of entries)
        if (!names.includes(name)) report.add(entry.keyAt, unknownKey(place.path, name, names))
      // Without a new issue every key of `fields` has its value by now.
      return report.count === before ? (values as Values<F>) : undefined
    },
  }
}

function fieldSchema(field: Field<unknown>): JsonObject {
  const { description, written } = field
  return { description, ...field.shape.schema, ...(written !== undefined && { default: written }) }
}

export function unknownKey(path: string, name: string, known: readonly string[]): string {
  const meant = suggestion(name, known)
  return `${keyPath(path, name)}: unknown key${meant || `; the keys here are ${known.join(', ')}`}`
}

function entriesOf(
  place: Place,
  report: Report,
  expected: string,
): Extract<Tree, { kind: 'mapping' }>['entries'] | undefined {
  if (place.tree.kind === 'mapping') return place.tree.entries
  if (place.tree.kind === 'nothing') return new Map()
  mismatch(place, report, expected)
  return undefined
}
