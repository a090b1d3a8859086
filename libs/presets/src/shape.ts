import type { JsonObject, JsonValue } from '@gpu-service/tasks'
import { keyPath, quoted } from './report.ts'
import type { Position, Report } from './report.ts'
import type { Tree } from './yaml-tree.ts'

/** A value of the file with its key path, such as `models.llama.inference.gpus`. */
export interface Place {
  readonly tree: Tree
  readonly path: string
  /** Where its key stands, to point at where the value itself is nothing. */
  readonly keyAt: Position
}

/**
 * What may stand at a place of the file: the one description from which the file is read, and from which the JSON Schema for editors is
 * written.
 */
export interface Shape<T> {
  /** For messages: `a whole number from 0 to 64`. */
  readonly expected: string
  readonly schema: JsonObject
  /** The value, or `undefined` after at least one issue has been reported. */
  read(place: Place, report: Report): T | undefined
}

/** A key of a mapping. */
export interface Field<T> {
  readonly shape: Shape<T>
  readonly description: string
  readonly required: boolean
  /** What counts where the key is absent, in the file's own notation; `undefined`: nothing to show. */
  readonly written: JsonValue | undefined
  readonly fallback: T | undefined
}

export function required<T>(shape: Shape<T>, description: string): Field<T> {
  return { shape, description, required: true, written: undefined, fallback: undefined }
}

/** `written` is the default as somebody would write it into the file. */
export function optional<T>(shape: Shape<T>, written: JsonValue, description: string): Field<T> {
  const fallback = shape.read({ tree: plantJson(written), path: '', keyAt: NOWHERE }, DEFAULTS)
  return { shape, description, required: false, written, fallback }
}

/** An absent key gives `null`. */
export function absentable<T>(shape: Shape<T>, description: string): Field<T | null> {
  return { shape, description, required: false, written: undefined, fallback: null }
}

const NOWHERE: Position = { line: 0, column: 0 }
const DEFAULTS: Report = {
  count: 0,
  has: () => false,
  lookFor() {
    throw new Error('a default of the format names a path of the host')
  },
  lookForSecret() {
    throw new Error('a default of the format names a secret')
  },
  add(_at, message) {
    throw new Error(`a default of the format breaks the format: ${message}`)
  },
}

function plantJson(value: JsonValue): Tree {
  const at = NOWHERE
  if (value === null) return { kind: 'nothing', at }
  if (typeof value === 'string') return { kind: 'text', at, text: value }
  if (typeof value === 'number') return { kind: 'number', at, value, written: String(value) }
  if (typeof value === 'boolean') return { kind: 'boolean', at, value, written: String(value) }
  if (value instanceof Array) return { kind: 'list', at, items: value.map(plantJson) }
  const entries = Object.entries(value).map(
    ([key, inner]) => [key, { keyAt: at, value: plantJson(inner) }] as const,
  )
  return { kind: 'mapping', at, entries: new Map(entries) }
}

/** Reports at a place, its path in front. */
export function complain(place: Place, report: Report, message: string): void {
  if (place.tree.kind === 'broken') {
    report.add(place.tree.at, place.tree.message)
    return
  }
  const at = place.tree.kind === 'nothing' ? place.keyAt : place.tree.at
  report.add(at, place.path === '' ? message : `${place.path}: ${message}`)
}

/** Whether a key stands in the mapping of a place, whatever its value is. */
export function hasKey({ tree }: Place, key: string): boolean {
  return tree.kind === 'mapping' && tree.entries.has(key)
}

/** Reports at a key of the mapping of a place, or at the place itself where the key is absent. */
export function complainOfKey(place: Place, key: string, report: Report, message: string): void {
  const entry = place.tree.kind === 'mapping' ? place.tree.entries.get(key) : undefined
  if (entry === undefined) complain(place, report, message)
  else report.add(entry.keyAt, `${keyPath(place.path, key)}: ${message}`)
}

/** `expected …, found …`, with what might help. */
export function mismatch(place: Place, report: Report, expected: string, hint = ''): void {
  complain(place, report, `expected ${expected}, found ${described(place.tree)}${hint}`)
}

function described(tree: Tree): string {
  switch (tree.kind) {
    case 'broken':
    case 'nothing':
      return 'nothing'
    case 'text':
      return quoted(tree.text)
    case 'number':
    case 'boolean':
      return tree.written
    case 'list':
      return tree.items.length === 0 ? 'an empty list' : 'a list'
    case 'mapping':
      return tree.entries.size === 0 ? 'an empty mapping' : 'a mapping'
  }
}

/** A shape whose values must also satisfy `check`, which reports what is wrong. */
export function checked<T>(
  shape: Shape<T>,
  check: (value: T, place: Place, report: Report) => void,
): Shape<T> {
  return {
    ...shape,
    read(place, report) {
      const value = shape.read(place, report)
      if (value === undefined) return undefined
      const before = report.count
      check(value, place, report)
      return report.count === before ? value : undefined
    },
  }
}

/** A shape whose values are turned into something else. */
export function mapped<T, U>(shape: Shape<T>, turn: (value: T, place: Place) => U): Shape<U> {
  return {
    ...shape,
    read(place, report) {
      const value = shape.read(place, report)
      return value === undefined ? undefined : turn(value, place)
    },
  }
}
