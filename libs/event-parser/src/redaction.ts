import type { JsonObject, JsonValue } from './events.ts'
import { isObject, withoutNul } from './plain.ts'

/** What must not be seen in a worker's output. */
export interface HiddenText {
  /** What it is called: in its place stands `[secret <name>]`. Letters, digits, dots, dashes and underscores. */
  readonly name: string
  readonly text: string
}

/** Puts `[secret <name>]` in the place of every text that is to be hidden. */
export interface Redactor {
  /** A line, or its beginning where it is `truncated`, without what is hidden; the same text where there is nothing. */
  line(text: string, truncated: boolean): string
  /** What JSON stands for: its texts, keys and numbers, however they were escaped. */
  object(object: JsonObject): JsonObject
}

/** What is shorter is too likely to stand in a text by chance. */
const MIN_LENGTH = 8
/** How much of a hidden text's beginning may stand at the end of a truncated line. */
const MAX_BEGINNING = 3

/** How often what is hidden may be escaped: JSON in a text of JSON, and that in a log line. */
const MAX_ESCAPES = 3

const JSON_ESCAPE = /\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))/g
const CONTROLS: Readonly<Record<string, string>> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }

/**
 * Hides texts of at least 8 characters, white space around them aside. Of one with several lines each line is hidden, for output is read
 * by lines. What is escaped as in JSON is found too. `null`: there is nothing to hide.
 */
export function createRedactor(hidden: readonly HiddenText[]): Redactor | null {
  const names = new Map<string, string>()
  for (const { name, text } of hidden)
    for (const line of withoutNul(text).split(/[\r\n]+/)) {
      const needle = line.trim()
      if (needle.length >= MIN_LENGTH && !names.has(needle)) names.set(needle, name)
    }
  if (names.size === 0) return null
  // Of two that begin at the same place the longer one counts.
  const needles = [...names.keys()].sort((a, b) => b.length - a.length)
  const pattern = new RegExp(needles.map(escapedPattern).join('|'), 'g')
  const found = new RegExp(pattern.source)
  const mark = (needle: string): string => `[secret ${names.get(needle) ?? ''}]`

  function redacted(text: string): string {
    const plain = found.test(text) ? text.replace(pattern, mark) : text
    // Where it ends in the escaped text cannot be told simply, so nothing of the text is kept.
    for (let text = plain, level = 0; level < MAX_ESCAPES && text.includes('\\'); level++) {
      text = unescaped(text)
      const match = found.exec(text)
      if (match !== null) return mark(match[0])
    }
    return plain
  }

  /** A hidden text may be cut where the line is: its beginning is hidden as well. */
  function withoutBeginning(text: string): string {
    for (
      let length = Math.min(text.length, (needles[0] ?? '').length - 1);
      length > MAX_BEGINNING;
      length--
    ) {
      const end = text.slice(-length)
      const needle = needles.find((whole) => whole.startsWith(end))
      if (needle !== undefined) return text.slice(0, -length) + mark(needle)
    }
    return text
  }

  function value(of: JsonValue): JsonValue {
    if (typeof of === 'string') return redacted(of)
    if (typeof of === 'number') {
      const text = String(of)
      const shown = redacted(text)
      return shown === text ? of : shown
    }
    if (of === null || typeof of === 'boolean') return of
    return isObject(of) ? object(of) : of.map(value)
  }

  function object(of: JsonObject): JsonObject {
    return Object.fromEntries(Object.entries(of).map(([key, inner]) => [redacted(key), value(inner)]))
  }

  return {
    line: (text, truncated) => (truncated ? withoutBeginning(redacted(text)) : redacted(text)),
    object,
  }
}

function unescaped(text: string): string {
  return text.replace(JSON_ESCAPE, (_all, code: string | undefined, letter: string | undefined) =>
    code === undefined ? (CONTROLS[letter ?? ''] ?? letter ?? '') : String.fromCharCode(parseInt(code, 16)),
  )
}

function escapedPattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')
}
