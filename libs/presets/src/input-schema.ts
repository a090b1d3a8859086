import type { InputIssue, JsonObject, JsonValue } from '@gpu-service/tasks'
import { Ajv } from 'ajv'
import type { ErrorObject, Options } from 'ajv'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { fullFormats } from 'ajv-formats/dist/formats.js'
import { suggestion } from './closest.ts'
import { checkKeywords, FORMATS, locate, pointerSegments } from './input-schema-keywords.ts'
import type { Draft } from './input-schema-keywords.ts'
import { keyPath, quoted } from './report.ts'
import type { Report } from './report.ts'
import { complain, mismatch } from './shape.ts'
import type { Place, Shape } from './shape.ts'
import { within } from './time-limit.ts'
import type { Tree } from './yaml-tree.ts'

/** A task's input that fits, defaults filled in, or what is wrong with it. */
export type InputCheck =
  | { readonly status: 'valid'; readonly input: JsonValue }
  | { readonly status: 'invalid'; readonly issues: readonly InputIssue[] }

/** A preset's JSON Schema for the inputs of its tasks. */
export interface InputSchema {
  readonly schema: JsonObject
  /**
   * Checks a copy of the input. `null` counts as absent and is checked as `{}`, so that defaults apply and missing members are named.
   * Numbers and texts are not converted into each other. At most 20 issues. An input that takes too long to check is not valid.
   */
  check(input: JsonValue): InputCheck
}

export const MAX_INPUT_BYTES = 262_144
export const MAX_INPUT_DEPTH = 64
const MAX_INPUT_ISSUES = 20
/** Only inputs up to this size are searched for every issue: a large one can have very many, each with its own text. */
const MAX_THOROUGH_BYTES = 16_384
const MAX_SCHEMA_VALUES = 5_000
/** Nothing else is done meanwhile. Most take a thousandth of it. */
const MAX_CHECK_MS = 100
const OVERDUE: InputCheck = {
  status: 'invalid',
  issues: [{ path: '', message: 'takes too long to check against the patterns of its schema' }],
}

const DRAFTS: Readonly<Record<string, Draft>> = {
  'https://json-schema.org/draft/2020-12/schema': '2020-12',
  'http://json-schema.org/draft-07/schema': 'draft-07',
}

/** The inputs' schema as it stands in the file: checked for slips, then compiled. */
export const inputSchema: Shape<InputSchema> = {
  expected: 'a mapping with a JSON Schema, such as {type: object, properties: {…}}',
  schema: { type: 'object' },
  read(place, report) {
    if (place.tree.kind !== 'mapping') {
      mismatch(place, report, inputSchema.expected)
      return undefined
    }
    const before = report.count
    const draft = draftOf(place, report)
    const schema = jsonObjectOf(place, report)
    if (report.count > before || draft === null || schema === null) return undefined
    checkKeywords(place, draft, report)
    checkMetaschema(place, schema, draft, report)
    if (report.count > before) return undefined
    try {
      return compiled(schema, draft)
    } catch (error) {
      complain(
        place,
        report,
        `not a usable JSON Schema: ${error instanceof Error ? error.message : String(error)}`,
      )
      return undefined
    }
  },
}

function draftOf(place: Place, report: Report): Draft | null {
  const entry = place.tree.kind === 'mapping' ? place.tree.entries.get('$schema') : undefined
  if (entry === undefined) return '2020-12'
  const draft = entry.value.kind === 'text' ? DRAFTS[entry.value.text.replace(/#$/, '')] : undefined
  if (draft !== undefined) return draft
  const known = Object.keys(DRAFTS).join(' or ')
  mismatch({ tree: entry.value, path: `${place.path}.$schema`, keyAt: entry.keyAt }, report, known)
  return null
}

/** The value as JSON; numbers that JSON does not have are reported. */
function jsonObjectOf(place: Place, report: Report): JsonObject | null {
  let values = 0
  const before = report.count
  const convert = (tree: Tree): JsonValue => {
    values++
    switch (tree.kind) {
      case 'broken':
        report.add(tree.at, tree.message)
        return null
      case 'nothing':
        return null
      case 'text':
        return tree.text
      case 'boolean':
        return tree.value
      case 'number':
        if (!Number.isFinite(tree.value))
          report.add(tree.at, `${place.path}: JSON has no number ${tree.written}`)
        return tree.value
      case 'list':
        return tree.items.map(convert)
      case 'mapping':
        return convertMapping(tree)
    }
  }
  const convertMapping = (tree: Extract<Tree, { kind: 'mapping' }>): JsonObject =>
    Object.fromEntries([...tree.entries].map(([key, entry]) => [key, convert(entry.value)]))
  const json = place.tree.kind === 'mapping' ? convertMapping(place.tree) : null
  if (values > MAX_SCHEMA_VALUES)
    complain(place, report, `the schema has more than ${MAX_SCHEMA_VALUES} values`)
  return report.count > before ? null : json
}

const METASCHEMAS: Partial<Record<Draft, Pick<Ajv, 'validateSchema' | 'errors'>>> = {}

function checkMetaschema(place: Place, schema: JsonObject, draft: Draft, report: Report): void {
  // One for the whole process: compiling a metaschema takes as long as many schemas.
  const ajv = (METASCHEMAS[draft] ??=
    draft === '2020-12'
      ? new Ajv2020({ strict: false, allErrors: true })
      : new Ajv({ strict: false, allErrors: true }))
  if (ajv.validateSchema(schema) === true) return
  for (const error of ajv.errors ?? []) {
    const segments = pointerSegments(error.instancePath)
    const tree = locate(place.tree, segments) ?? place.tree
    // The first message at a place is the closest to the slip; the others only sum up.
    if (report.has(tree.at)) continue
    complain({ tree, path: segments.reduce(keyPath, place.path), keyAt: tree.at }, report, sentenceOf(error))
  }
}

/** Presets share schemas, and most stay as they are when a file is read again; compiling is what takes long. */
const COMPILED = new Map<string, InputSchema>()
const MAX_COMPILED = 200

function compiled(schema: JsonObject, draft: Draft): InputSchema {
  const key = draft + JSON.stringify(schema)
  const known = COMPILED.get(key) ?? compile(schema, draft)
  // Put last, so that the first is the one that was not asked for longest.
  COMPILED.delete(key)
  COMPILED.set(key, known)
  for (const oldest of COMPILED.keys()) if (COMPILED.size > MAX_COMPILED) COMPILED.delete(oldest)
  return known
}

function compile(schema: JsonObject, draft: Draft): InputSchema {
  const options: Options = {
    formats: Object.fromEntries(FORMATS.map((name) => [name, fullFormats[name]])),
    meta: false,
    validateSchema: false,
    // A reference that is used a thousand times would be written out a thousand times.
    inlineRefs: false,
    // Three times faster to compile; a check is a matter of microseconds either way.
    code: { optimize: false },
    strict: true,
    // These refuse what JSON Schema allows and people write: limits without a `type` beside them, `required` inside of `anyOf`.
    strictTypes: false,
    strictTuples: false,
    strictRequired: false,
    ownProperties: true,
    useDefaults: true,
    logger: false,
  }
  const validatorOf = (more: Options) =>
    (draft === '2020-12' ? new Ajv2020({ ...options, ...more }) : new Ajv({ ...options, ...more })).compile(
      schema,
    )

  const quick = validatorOf({})
  let thorough: typeof quick | null = null
  return {
    schema,
    check(input) {
      const bytes = boundedSize(input)
      if (typeof bytes === 'string') return { status: 'invalid', issues: [{ path: '', message: bytes }] }
      const copy = structuredClone(input ?? {})
      const first = within(MAX_CHECK_MS, () => ({ isValid: quick(copy), errors: quick.errors }))
      if (first === null) return OVERDUE
      if (first.isValid) return { status: 'valid', input: copy }
      if (bytes > MAX_THOROUGH_BYTES) return { status: 'invalid', issues: issuesOf(first.errors) }
      const every = (thorough ??= validatorOf({ allErrors: true, verbose: true }))
      const second = within(MAX_CHECK_MS, () => {
        every(structuredClone(input ?? {}))
        return { errors: every.errors }
      })
      return second === null ? OVERDUE : { status: 'invalid', issues: issuesOf(second.errors) }
    },
  }
}

/** The input's size as JSON, or why it is too much to look at. */
export function boundedSize(input: JsonValue): number | string {
  if (isDeeper(input, MAX_INPUT_DEPTH)) return `the input is nested deeper than ${MAX_INPUT_DEPTH}`
  const bytes = Buffer.byteLength(JSON.stringify(input))
  return bytes > MAX_INPUT_BYTES ? `the input is larger than ${MAX_INPUT_BYTES} bytes of JSON` : bytes
}

function isDeeper(value: JsonValue, depth: number): boolean {
  if (value === null || typeof value !== 'object') return false
  return depth === 0 || Object.values(value).some((inner: JsonValue) => isDeeper(inner, depth - 1))
}

function issuesOf(errors: readonly ErrorObject[] | null | undefined): InputIssue[] {
  const issues = new Map<string, InputIssue>()
  for (const error of errors ?? []) {
    if (error.keyword === 'if') continue
    const issue = { path: pathOf(error).slice(0, 500), message: sentenceOf(error) }
    issues.set(`${issue.path} ${issue.message}`, issue)
    if (issues.size === MAX_INPUT_ISSUES) break
  }
  return [...issues.values()]
}

/** Where a person would look: at the member that is missing or too many, not at the object around it. */
function pathOf(error: ErrorObject): string {
  const member = textParam(error, 'missingProperty') ?? unwanted(error)
  if (member === null) return error.instancePath
  return `${error.instancePath}/${member.replaceAll('~', '~0').replaceAll('/', '~1')}`
}

function sentenceOf(error: ErrorObject): string {
  const { keyword, message = 'is not valid' } = error
  const member = unwanted(error)
  if (member !== null) return `is not a known member${suggestion(member, siblingsOf(error))}`
  switch (keyword) {
    case 'required':
    case 'dependentRequired':
    case 'dependencies':
      return textParam(error, 'missingProperty') === null ? message : 'is required'
    case 'enum': {
      const allowed: unknown = error.params['allowedValues']
      return Array.isArray(allowed) ? `must be one of ${shown(allowed)}` : message
    }
    case 'const':
      return `must be ${shown([error.params['allowedValue']])}`
    case 'pattern':
      return `must match the pattern ${quoted(textParam(error, 'pattern') ?? '')}`
    case 'false schema':
      return 'is not allowed'
    default:
      return message
  }
}

function unwanted(error: ErrorObject): string | null {
  return textParam(error, 'additionalProperty') ?? textParam(error, 'unevaluatedProperty')
}

function siblingsOf(error: ErrorObject): string[] {
  const parent: unknown = error.parentSchema?.['properties']
  return typeof parent === 'object' && parent !== null ? Object.keys(parent) : []
}

function textParam(error: ErrorObject, name: string): string | null {
  const params: Record<string, unknown> = error.params
  const value = params[name]
  return typeof value === 'string' ? value : null
}

function shown(values: readonly unknown[]): string {
  const text = values.map((value) => JSON.stringify(value)).join(', ')
  return text.length <= 200 ? text : `${text.slice(0, 200)}…`
}
