import { readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { createContext, Script } from 'node:vm'
import ts from 'typescript'
import { expect, test } from 'vitest'

const root = join(import.meta.dirname, '../../../..')
const LENGTH = 100_000
/** Of the processor. Those that look at each character once take a hundredth of it, those that look at each pair a hundred times as long. */
const MAX_MS = 100
/** When one is given up that may take for ever. */
const GIVE_UP_MS = 2_000

interface Found {
  readonly where: string
  readonly regexp: RegExp
}

/** Every regular expression that stands in the code. */
function inSource(file: string): readonly Found[] {
  const source = ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest)
  const found: Found[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isRegularExpressionLiteral(node)) {
      const end = node.text.lastIndexOf('/')
      const { line } = source.getLineAndCharacterOfPosition(node.pos)
      const regexp = new RegExp(node.text.slice(1, end), node.text.slice(end + 1))
      found.push({ where: `${relative(root, file)}:${line + 1} ${node.text}`, regexp })
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

/** The presets file's own patterns are written as texts; all of them are in the schema for editors. */
function inSchema(value: unknown): readonly Found[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, inner]: [string, unknown]): readonly Found[] => {
    const patterns =
      key === 'pattern' && typeof inner === 'string'
        ? [inner]
        : key === 'patternProperties'
          ? Object.keys(inner as object)
          : []
    return [
      ...patterns.map((pattern) => ({ where: `presets: ${pattern}`, regexp: new RegExp(pattern, 'u') })),
      ...inSchema(inner),
    ]
  })
}

const sources = ['apps', 'libs'].flatMap((kind) =>
  readdirSync(join(root, kind), { recursive: true, encoding: 'utf8' })
    .filter((file) => /^[\w-]+\/src\/.*\.ts$/.test(file) && !file.includes('/generated/'))
    .map((file) => join(root, kind, file)),
)
const FOUND = [
  ...sources.flatMap(inSource),
  ...inSchema(JSON.parse(readFileSync(join(root, 'libs/presets/model-presets.schema.json'), 'utf8'))),
]

/** Texts that begin to match again and again and never do: what the expression itself is made of, repeated, and then something else. */
function textsAgainst({ source }: RegExp): readonly string[] {
  const words = source.match(/[A-Za-z0-9 :=_"'./@,-]{2,}/g) ?? []
  const pieces = [...new Set([...words.slice(0, 8), ...(source.match(/\w/g) ?? []).slice(0, 4), ...COMMON])]
  return pieces.flatMap((piece) => {
    const long = piece.repeat(Math.ceil(LENGTH / piece.length))
    return [
      long,
      `${long}/\n\0`,
      ...['', 'A=x', 'x x', ...words.slice(0, 2)].map((start) => `${start}${long}\0!`),
    ]
  })
}

const COMMON = [
  'a',
  'A',
  '0',
  ' ',
  '\t ',
  '\0',
  '.',
  '/',
  '-',
  '_',
  '"',
  '\\',
  ':',
  '=',
  '[',
  '{',
  '\u{1f600}',
]

const realm = createContext({ regexp: /./, text: '' })
const match = new Script('regexp.lastIndex = 0; regexp.test(text)')

function costMs(regexp: RegExp, text: string): number {
  Object.assign(realm, { regexp, text })
  const before = process.cpuUsage()
  try {
    match.runInContext(realm, { timeout: GIVE_UP_MS })
  } catch {
    return Infinity
  }
  return process.cpuUsage(before).user / 1_000
}

test('no regular expression takes long over a text that was made against it', { timeout: 120_000 }, () => {
  expect(FOUND.length).toBeGreaterThan(100)
  const slow = FOUND.flatMap(({ where, regexp }) => {
    // What else the machine did meanwhile is not meant: a text counts that takes long each time.
    const text = textsAgainst(regexp).find(
      (each) => costMs(regexp, each) > MAX_MS && costMs(regexp, each) > MAX_MS,
    )
    return text === undefined ? [] : [`${where} over ${JSON.stringify(text.slice(0, 40))}`]
  })
  expect(slow).toEqual([])
})
