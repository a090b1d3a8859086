import { isDeepStrictEqual } from 'node:util'
import { Document, isMap, isNode, isScalar, type Node, parseDocument, type YAMLMap } from 'yaml'
import { KitError } from './kit-error.ts'

/** A presets file with further presets in it. */
export interface Insertion {
  readonly text: string
  /** Ids of presets, `<model>/<kind>`. */
  readonly added: readonly string[]
  /** Those that were there already, just the same. */
  readonly present: readonly string[]
}

/**
 * Puts the presets of one file into another one. Every line that was there stays as it was, with its comments. Throws a `KitError` where a
 * preset is there already and says something else, and where one of the two is no YAML.
 */
export function insertPresets(text: string, further: string): Insertion {
  const source = parsed(further, 'The presets of the worker')
  const added: string[] = []
  const present: string[] = []
  let result = text
  for (const [model, kinds] of entries(entry(source.contents, 'models')))
    for (const [kind, preset] of entries(kinds)) {
      const id = `${model}/${kind}`
      const target = parsed(result, 'The presets file')
      const there: unknown = target.getIn(['models', model, kind])
      if (there === undefined) {
        result = withPreset(result, target, model, kind, preset)
        added.push(id)
      } else if (isDeepStrictEqual(plain(there, target), plain(preset, source))) present.push(id)
      else
        throw new KitError(
          `The preset ${id} is there already and says something else: change it by hand, or rename the new one in the worker's presets.yaml`,
        )
    }
  return { text: result, added, present }
}

function withPreset(text: string, target: Document, model: string, kind: string, preset: Node): string {
  const models = entry(target.contents, 'models')
  const kinds = entry(models, model)
  const place = isBlock(kinds)
    ? { map: kinds, key: kind, value: preset }
    : isBlock(models) && kinds === null
      ? { map: models, key: model, value: { [kind]: preset } }
      : null
  const expected: unknown = wholeWith(target, model, kind, preset).toJS()
  if (place !== null) {
    const result = spliced(text, place.map, rendered(place.key, place.value))
    if (isDeepStrictEqual(parseDocument(result).toJS(), expected)) return result
  }
  // There is no block to put it in: the file is written anew, comments and all.
  return wholeWith(target, model, kind, preset).toString({ lineWidth: 0 })
}

function wholeWith(target: Document, model: string, kind: string, preset: Node): Document {
  const whole = target.clone()
  for (const path of [['models'], ['models', model]])
    if (!isMap(whole.getIn(path))) whole.setIn(path, whole.createNode({}))
  whole.setIn(['models', model, kind], preset)
  return whole
}

function rendered(key: string, value: unknown): string {
  const document = new Document({})
  document.set(key, value)
  return document.toString({ lineWidth: 0 })
}

/** The text with these lines behind the last one of the map, as far to the right as its keys. */
function spliced(text: string, map: YAMLMap, lines: string): string {
  const newline = text.includes('\r\n') ? '\r\n' : '\n'
  const first = map.items[0]?.key
  const keyAt = isNode(first) ? (first.range?.[0] ?? 0) : 0
  const indent = ' '.repeat(keyAt - (text.lastIndexOf('\n', keyAt - 1) + 1))
  const valueEnd = map.range?.[1] ?? text.length
  const lineEnd = text[valueEnd - 1] === '\n' ? valueEnd : text.indexOf('\n', valueEnd) + 1
  const at = lineEnd === 0 ? text.length : lineEnd
  const before = text.slice(0, at)
  const inserted = lines
    .trimEnd()
    .split('\n')
    .map((line) => (line === '' ? '' : indent + line) + newline)
    .join('')
  return before + (before === '' || before.endsWith('\n') ? '' : newline) + inserted + text.slice(at)
}

function parsed(text: string, what: string): Document {
  const document = parseDocument(text)
  const [error] = document.errors
  if (error !== undefined) throw new KitError(`${what}: ${error.message}`)
  return document
}

function isBlock(node: Node | null): node is YAMLMap {
  return isMap(node) && !node.flow && node.items.length > 0
}

function entry(node: Node | null, name: string): Node | null {
  const found: unknown = isMap(node) ? node.get(name, true) : null
  return isNode(found) && !(isScalar(found) && found.value === null) ? found : null
}

function* entries(node: Node | null): Generator<readonly [string, Node]> {
  if (!isMap(node)) return
  for (const { key, value } of node.items)
    if (isNode(value)) yield [String(isScalar(key) ? key.value : key), value]
}

function plain(node: unknown, document: Document): unknown {
  return isNode(node) ? node.toJS(document) : node
}

/** What has become of a presets file, for a person. */
export function insertionText({ added, present }: Insertion, file: string): readonly string[] {
  return [
    ...added.map((id) => `Added ${id} to ${file}`),
    ...present.map((id) => `${id} is in ${file} already`),
  ]
}
