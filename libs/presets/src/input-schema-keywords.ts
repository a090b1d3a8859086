import { formatNames } from 'ajv-formats/dist/formats.js'
import { suggestion } from './closest.ts'
import { keyPath, quoted } from './report.ts'
import type { Report } from './report.ts'
import { unknownKey } from './collections.ts'
import { complain } from './shape.ts'
import type { Place } from './shape.ts'
import type { Entry, Tree } from './yaml-tree.ts'

export type Draft = '2020-12' | 'draft-07'

/** What stands behind a keyword. Of subschemas: whether they speak of the same value (`here`) or of a part of it. */
type Operand = 'plain' | 'schema' | 'schema-here' | 'schemas' | 'schemas-here' | 'named' | 'named-here'

const SHARED = {
  $schema: 'plain',
  $ref: 'plain',
  $comment: 'plain',
  $defs: 'named',
  definitions: 'named',
  title: 'plain',
  description: 'plain',
  default: 'plain',
  examples: 'plain',
  deprecated: 'plain',
  readOnly: 'plain',
  writeOnly: 'plain',
  type: 'plain',
  enum: 'plain',
  const: 'plain',
  multipleOf: 'plain',
  minimum: 'plain',
  maximum: 'plain',
  exclusiveMinimum: 'plain',
  exclusiveMaximum: 'plain',
  minLength: 'plain',
  maxLength: 'plain',
  pattern: 'plain',
  format: 'plain',
  minItems: 'plain',
  maxItems: 'plain',
  uniqueItems: 'plain',
  contains: 'schema',
  minProperties: 'plain',
  maxProperties: 'plain',
  required: 'plain',
  properties: 'named',
  patternProperties: 'named',
  additionalProperties: 'schema',
  propertyNames: 'schema',
  allOf: 'schemas-here',
  anyOf: 'schemas-here',
  oneOf: 'schemas-here',
  not: 'schema-here',
  if: 'schema-here',
  then: 'schema-here',
  else: 'schema-here',
} as const satisfies Record<string, Operand>

const KEYWORDS: Record<Draft, ReadonlyMap<string, Operand>> = {
  '2020-12': new Map<string, Operand>([
    ...Object.entries(SHARED),
    ['prefixItems', 'schemas'],
    ['items', 'schema'],
    ['unevaluatedItems', 'schema'],
    ['unevaluatedProperties', 'schema'],
    ['minContains', 'plain'],
    ['maxContains', 'plain'],
    ['dependentRequired', 'plain'],
    ['dependentSchemas', 'named-here'],
  ]),
  'draft-07': new Map<string, Operand>([
    ...Object.entries(SHARED),
    ['items', 'schemas'],
    ['additionalItems', 'schema'],
    ['dependencies', 'named-here'],
  ]),
}

const TYPES = ['string', 'number', 'integer', 'boolean', 'object', 'array', 'null']
/** Without `url`, which JSON Schema does not have and whose pattern takes a time that grows with the square of the text. */
export const FORMATS = formatNames.filter((name) => name !== 'url')
const MAX_UNIQUE_ITEMS = 1_000

/**
 * Reports what a metaschema lets pass: keywords and formats that do not exist, names that are required but not described, patterns that
 * are none, references to elsewhere or to nothing, references that never arrive, and comparisons of very many items.
 */
export function checkKeywords(root: Place, draft: Draft, report: Report): void {
  /** By the place of a subschema: the subschemas that speak of the same value. */
  const here = new Map<Tree, Tree[]>()
  visit(root)
  reportEndlessSchemas()

  function visit(place: Place): void {
    const { tree } = place
    // `true` and `false` are schemas; anything else that is no mapping is the metaschema's business.
    if (tree.kind !== 'mapping' || here.has(tree)) return
    const sameValue: Tree[] = []
    here.set(tree, sameValue)
    for (const [keyword, entry] of tree.entries) {
      const operand = KEYWORDS[draft].get(keyword)
      if (operand === undefined) {
        report.add(entry.keyAt, unknownKeyword(place, keyword))
        continue
      }
      checkOperand(keyword, placeOf(place, keyword, entry))
      for (const subschema of subschemas(placeOf(place, keyword, entry), operand)) {
        if (operand.endsWith('here')) sameValue.push(subschema.tree)
        visit(subschema)
      }
    }
    checkRequired(place, tree.entries)
    checkUniqueItems(place, tree.entries)
    const target = referenceTarget(place, tree.entries)
    if (target !== null) sameValue.push(target)
  }

  function unknownKeyword(place: Place, keyword: string): string {
    if (/^\$(id|anchor|dynamic|recursive|vocabulary)/i.test(keyword))
      return `${keyPath(place.path, keyword)}: schemas here have no names of their own; refer to a part by $ref: '#/$defs/…'`
    const known = [...KEYWORDS[draft].keys()]
    const meant = suggestion(keyword, known)
    return meant === ''
      ? `${keyPath(place.path, keyword)}: not a keyword of JSON Schema ${draft}`
      : unknownKey(place.path, keyword, known)
  }

  function referenceTarget(place: Place, entries: ReadonlyMap<string, Entry>): Tree | null {
    const entry = entries.get('$ref')
    if (entry?.value.kind !== 'text') return null
    const at = placeOf(place, '$ref', entry)
    const reference = entry.value.text
    if (!/^#(\/|$)/.test(reference)) {
      complain(
        at,
        report,
        `${quoted(reference)} is outside of this schema; only references such as '#/$defs/name' are followed`,
      )
      return null
    }
    const target = locate(root.tree, fragmentSegments(reference.slice(1)))
    if (target === null) complain(at, report, `nothing stands at ${quoted(reference)}`)
    else if (target.kind === 'mapping' && !here.has(target)) visit({ ...at, tree: target })
    return target
  }

  /** A schema that leads back to itself without going into the value would be followed for ever. */
  function reportEndlessSchemas(): void {
    const settled = new Set<Tree>()
    const open = new Set<Tree>()
    const follow = (tree: Tree): boolean => {
      if (open.has(tree)) return true
      if (settled.has(tree)) return false
      open.add(tree)
      const endless = (here.get(tree) ?? []).some(follow)
      open.delete(tree)
      settled.add(tree)
      return endless
    }
    for (const tree of here.keys())
      if (follow(tree)) {
        report.add(
          tree.at,
          `${root.path}: this schema refers back to itself for the same value, without an end`,
        )
        return
      }
  }

  function checkOperand(keyword: string, place: Place): void {
    const { tree } = place
    switch (keyword) {
      case '$schema':
        if (place.path !== keyPath(root.path, '$schema'))
          complain(place, report, 'belongs to the whole schema only')
        break
      case 'type':
        for (const word of wordsOf(tree))
          if (!TYPES.includes(word))
            complain(place, report, `${quoted(word)} is not a type${suggestion(word, TYPES)}`)
        break
      case 'format':
        for (const word of wordsOf(tree))
          if (!FORMATS.some((format) => format === word))
            complain(place, report, `${quoted(word)} is not a known format${suggestion(word, FORMATS)}`)
        break
      case 'pattern':
        for (const word of wordsOf(tree)) checkPattern(word, place)
        break
      case 'patternProperties':
        if (tree.kind === 'mapping')
          for (const [pattern, entry] of tree.entries)
            checkPattern(pattern, {
              ...place,
              tree: { kind: 'nothing', at: entry.keyAt },
              keyAt: entry.keyAt,
            })
        break
      default:
    }
  }

  function checkPattern(pattern: string, place: Place): void {
    try {
      new RegExp(pattern, 'u')
    } catch (error) {
      complain(
        place,
        report,
        `not a regular expression: ${error instanceof Error ? error.message : String(error)}`,
      )
    }
  }

  function checkRequired(place: Place, entries: ReadonlyMap<string, Entry>): void {
    const properties = entries.get('properties')?.value
    const needed = entries.get('required')
    if (properties?.kind !== 'mapping' || needed === undefined || entries.has('$ref') || entries.has('allOf'))
      return
    if (entries.has('patternProperties')) return
    for (const name of wordsOf(needed.value))
      if (!properties.entries.has(name))
        complain(
          placeOf(place, 'required', needed),
          report,
          `${quoted(name)} is not among the properties${suggestion(name, properties.entries.keys())}`,
        )
  }

  function checkUniqueItems(place: Place, entries: ReadonlyMap<string, Entry>): void {
    const unique = entries.get('uniqueItems')
    if (unique?.value.kind !== 'boolean' || !unique.value.value) return
    const most = entries.get('maxItems')?.value
    if (most?.kind === 'number' && most.value <= MAX_UNIQUE_ITEMS) return
    complain(
      placeOf(place, 'uniqueItems', unique),
      report,
      `needs maxItems of at most ${MAX_UNIQUE_ITEMS} beside it, because it compares every two items`,
    )
  }
}

/** What stands at a JSON Pointer's segments, or `null`. */
export function locate(tree: Tree, segments: readonly string[]): Tree | null {
  let found: Tree | undefined = tree
  for (const segment of segments) {
    if (found.kind === 'mapping') found = found.entries.get(segment)?.value
    else if (found.kind === 'list' && /^\d{1,6}$/.test(segment)) found = found.items[Number(segment)]
    else return null
    if (found === undefined) return null
  }
  return found
}

export function pointerSegments(pointer: string): string[] {
  return pointer
    .split('/')
    .slice(1)
    .map((segment) => segment.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function fragmentSegments(fragment: string): string[] {
  try {
    return pointerSegments(decodeURIComponent(fragment))
  } catch {
    return ['%']
  }
}

function placeOf(parent: Place, key: string, entry: Entry): Place {
  return { tree: entry.value, path: keyPath(parent.path, key), keyAt: entry.keyAt }
}

function wordsOf(tree: Tree): string[] {
  if (tree.kind === 'text') return [tree.text]
  return tree.kind === 'list' ? tree.items.flatMap((item) => (item.kind === 'text' ? [item.text] : [])) : []
}

function subschemas(place: Place, operand: Operand): Place[] {
  const { tree, path, keyAt } = place
  switch (operand) {
    case 'plain':
      return []
    case 'schema':
    case 'schema-here':
      return [place]
    case 'schemas':
    case 'schemas-here':
      return tree.kind === 'list'
        ? tree.items.map((item, index) => ({ tree: item, path: `${path}[${index}]`, keyAt }))
        : [place]
    case 'named':
    case 'named-here':
      return tree.kind === 'mapping'
        ? [...tree.entries].map(([name, entry]) => placeOf(place, name, entry))
        : []
  }
}
