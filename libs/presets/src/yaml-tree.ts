import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, Parser } from 'yaml'
import type { Document, Node, Scalar, YAMLMap, YAMLParseError, YAMLSeq } from 'yaml'
import { keyPath, quoted } from './report.ts'
import type { Position, Report } from './report.ts'

/** What a presets file says, with the place of each value: YAML without tags, anchors and doubt. */
export type Tree =
  /** What could not be read; told already, and told again by whoever meets it. */
  | { readonly kind: 'broken'; readonly at: Position; readonly message: string }
  | { readonly kind: 'nothing'; readonly at: Position }
  | { readonly kind: 'text'; readonly at: Position; readonly text: string }
  | {
      readonly kind: 'number'
      readonly at: Position
      readonly value: number
      /** As it stands in the file. */
      readonly written: string
    }
  | { readonly kind: 'boolean'; readonly at: Position; readonly value: boolean; readonly written: string }
  | { readonly kind: 'list'; readonly at: Position; readonly items: readonly Tree[] }
  | { readonly kind: 'mapping'; readonly at: Position; readonly entries: ReadonlyMap<string, Entry> }

export interface Entry {
  readonly keyAt: Position
  readonly value: Tree
}

export const MAX_FILE_BYTES = 1_048_576
/** Beyond this depth the recursive composer of the yaml package is not safe: too deep a stack ends the process, not just the parse. */
const MAX_DEPTH = 64
/** The pieces that the lexer finds; with the length of each bounded too, this bounds the time that a hostile file takes. */
const MAX_LEXEMES = 200_000
const MAX_TEXT = 65_536
const MAX_ALIASES = 100
/** Values with every alias written out. */
const MAX_VALUES = 100_000
const MAX_SYNTAX_ERRORS = 20

const START: Position = { line: 1, column: 1 }

/**
 * Reads the bytes of a YAML file. `null`: it holds nothing but comments, or (with issues reported) nothing that could be read.
 * Never throws for what the bytes hold.
 */
export function readYamlTree(bytes: Uint8Array, report: Report): Tree | null {
  if (bytes.length > MAX_FILE_BYTES) {
    report.add(START, `the file is larger than ${MAX_FILE_BYTES} bytes`)
    return null
  }
  const text = decode(bytes, report)
  return text === null ? null : readYamlText(text, report)
}

function decode(bytes: Uint8Array, report: Report): string | null {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  try {
    return decoder.decode(bytes)
  } catch {
    // A newline is never a part of another UTF-8 character, so each line can be tried alone.
    let line = 1
    for (let start = 0; start < bytes.length; line++) {
      const newline = bytes.indexOf(0x0a, start)
      const end = newline === -1 ? bytes.length : newline + 1
      try {
        decoder.decode(bytes.subarray(start, end))
      } catch {
        break
      }
      start = end
    }
    report.add({ line, column: 1 }, 'this line is not UTF-8 text; save the file with the encoding UTF-8')
    return null
  }
}

function readYamlText(text: string, report: Report): Tree | null {
  const lines = new LineCounter()
  const positionOf = (offset: number): Position => {
    const { line, col } = lines.linePos(offset)
    return { line: Math.max(1, line), column: Math.max(1, col) }
  }

  const tokens = tokenise(text, lines, positionOf, report)
  if (tokens === null) return null
  // `uniqueKeys` off: its check is quadratic. Duplicates are found below.
  const composer = new Composer({
    version: '1.2',
    prettyErrors: false,
    uniqueKeys: false,
    stringKeys: true,
    logLevel: 'silent',
  })
  const [document, second] = composer.compose(tokens, true, text.length)
  if (document === undefined) return null
  if (document.errors.length > 0) {
    for (const error of document.errors.slice(0, MAX_SYNTAX_ERRORS))
      report.add(positionOf(offsetOf(error, text)), `not valid YAML: ${error.message}`)
    return null
  }
  if (second !== undefined) {
    report.add(positionOf(second.range[0]), 'a second YAML document begins here; the file holds one')
    return null
  }
  const { yaml } = document.directives
  if (yaml.explicit === true && yaml.version !== '1.2')
    report.add(START, `the file is read as YAML 1.2, not ${yaml.version}; remove the %YAML line`)
  return plant(document, positionOf, report)
}

/** A bad indentation is told from the end of the line before it. */
function offsetOf({ code, pos: [offset] }: Pick<YAMLParseError, 'code' | 'pos'>, text: string): number {
  if (code !== 'BAD_INDENT') return offset
  const spaces = /^\s*/.exec(text.slice(offset, offset + 1_000))?.[0] ?? ''
  return offset + spaces.length
}

type Token = ReturnType<Parser['parse']> extends Generator<infer T> ? T : never

/** The syntax of the file, iteratively and within bounds; `null` with an issue where it is beyond them. */
function tokenise(
  text: string,
  lines: LineCounter,
  positionOf: (offset: number) => Position,
  report: Report,
): Token[] | null {
  const parser = new Parser(lines.addNewLine)
  lines.addNewLine(0)
  const tokens: Token[] = []
  let lexemes = 0
  let errors = 0
  for (const lexeme of new Lexer().lex(text)) {
    let beyond: string | null = null
    if (++lexemes > MAX_LEXEMES) beyond = `the file has more than ${MAX_LEXEMES} words and signs`
    if (lexeme.length > MAX_TEXT) beyond = `a text is longer than ${MAX_TEXT} characters`
    const at = parser.offset
    if (beyond === null)
      for (const token of parser.next(lexeme)) {
        tokens.push(token)
        if (token.type === 'error') errors++
      }
    // The document itself stands on the stack, and the scalar that is being read.
    if (parser.stack.length > MAX_DEPTH + 2) beyond = `values are nested deeper than ${MAX_DEPTH}`
    if (beyond !== null) {
      report.add(positionOf(at), beyond)
      return null
    }
    if (errors > MAX_SYNTAX_ERRORS) break
  }
  tokens.push(...parser.end())
  return tokens
}

/** A value with what it costs where it is written out again by an alias. */
interface Planted {
  readonly tree: Tree
  readonly size: number
  readonly height: number
}

/** Turns the nodes of the yaml package into a tree, following aliases within bounds. `null` for a document without a value. */
function plant(
  document: Document.Parsed,
  positionOf: (offset: number) => Position,
  report: Report,
): Tree | null {
  const anchors = new Map<string, Planted>()
  let aliases = 0

  function grow(node: Node | null, path: string, fallback: Position): Planted {
    const at = node?.range ? positionOf(node.range[0]) : fallback
    const broken = (problem: string): Planted => {
      const message = path === '' ? problem : `${path}: ${problem}`
      report.add(at, message)
      return { tree: { kind: 'broken', at, message }, size: 1, height: 0 }
    }
    const leaf = (tree: Tree): Planted => ({ tree, size: 1, height: 0 })
    if (node === null) return leaf({ kind: 'nothing', at })
    if (isAlias(node)) {
      const target = anchors.get(node.source)
      if (target === undefined) return broken(`no anchor &${node.source} stands before this alias`)
      return ++aliases > MAX_ALIASES ? broken(`more than ${MAX_ALIASES} aliases are used`) : target
    }
    if (node.tag !== undefined)
      return broken(`the tag ${quoted(node.tag)} is not part of the format; remove it`)
    const planted = isMap(node)
      ? growMapping(node, path, at)
      : isSeq(node)
        ? growList(node, path, at)
        : isScalar(node)
          ? isStorable(node.value)
            ? leaf(leafOf(node, at))
            : broken('the text holds a character that no text may hold')
          : leaf({ kind: 'nothing', at })
    if (planted.size > MAX_VALUES)
      return broken(`larger than ${MAX_VALUES} values with its aliases written out`)
    if (planted.height > MAX_DEPTH) return broken(`values are nested deeper than ${MAX_DEPTH}`)
    if (node.anchor !== undefined) anchors.set(node.anchor, planted)
    return planted
  }

  function growList(node: YAMLSeq, path: string, at: Position): Planted {
    const items = node.items.map((item, index) => grow(asNode(item), `${path}[${index}]`, at))
    return { tree: { kind: 'list', at, items: items.map((item) => item.tree) }, ...costOf(items) }
  }

  function growMapping(node: YAMLMap, path: string, at: Position): Planted {
    const entries = new Map<string, Entry>()
    const values: Planted[] = []
    for (const pair of node.items) {
      const key = asNode(pair.key)
      const keyAt = key?.range ? positionOf(key.range[0]) : at
      const name = isScalar(key) && typeof key.value === 'string' ? key.value : ''
      const ofKey = keyPath(path, name)
      const value = grow(asNode(pair.value), ofKey, keyAt)
      values.push(value)
      const refusal = refusedKey(key, entries.get(name))
      if (refusal === null) entries.set(name, { keyAt, value: value.tree })
      else report.add(keyAt, `${ofKey}: ${refusal}`)
    }
    return { tree: { kind: 'mapping', at, entries }, ...costOf(values) }
  }

  const root = asNode(document.contents)
  if (root === null || (isScalar(root) && root.value === null && root.tag === undefined)) return null
  return grow(root, '', START).tree
}

function refusedKey(key: Node | null, first: Entry | undefined): string | null {
  if (!isScalar(key) || typeof key.value !== 'string') return 'a key must be a plain text'
  if (typeof key.tag === 'string') return `the tag ${quoted(key.tag)} is not part of the format; remove it`
  if (key.value === '__proto__') return 'this key is not allowed'
  if (key.value === '<<') return 'merge keys are not part of the format; write the keys out'
  if (!isStorable(key.value)) return 'the key holds a character that no text may hold'
  return first ? `this key is written twice, first on line ${first.keyAt.line}` : null
}

function leafOf({ value, source }: Scalar, at: Position): Tree {
  if (typeof value === 'string') return { kind: 'text', at, text: value }
  if (typeof value === 'number') return { kind: 'number', at, value, written: source ?? String(value) }
  if (typeof value === 'boolean') return { kind: 'boolean', at, value, written: source ?? String(value) }
  return { kind: 'nothing', at }
}

function costOf(parts: readonly Planted[]): { size: number; height: number } {
  return {
    size: parts.reduce((sum, part) => sum + part.size, 1),
    height: parts.reduce((highest, part) => Math.max(highest, part.height), 0) + 1,
  }
}

/** Lone surrogates and NUL pass through neither a database nor an environment. */
function isStorable(value: unknown): boolean {
  return typeof value !== 'string' || !/[\p{Surrogate}\0]/u.test(value)
}

function asNode(value: unknown): Node | null {
  return isScalar(value) || isMap(value) || isSeq(value) || isAlias(value) ? value : null
}
