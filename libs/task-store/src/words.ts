import type { JsonValue } from '@gpu-service/tasks'

/** Of each text so many characters are searched. */
export const MAX_TEXT = 100_000
/** Of a longer word only its beginning counts. */
const MAX_WORD = 64

const WORD = /[\p{L}\p{M}\p{N}]+/gu
/** Of scripts that put no spaces between words: each character is one. */
const ALONE = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmr}\p{sc=Mymr}]/gu
const ASCII = /^[\0-\x7f]*$/

/** The different words of a text, all that is no letter and no digit left out. Of two that differ in their case only there is one. */
export function wordsOf(text: string): readonly string[] {
  const start = text.slice(0, MAX_TEXT)
  const found = folded(start).match(WORD) ?? []
  return [...new Set(found.map((word) => word.slice(0, MAX_WORD)))]
}

function folded(text: string): string {
  if (ASCII.test(text)) return text.toLowerCase()
  // By way of the upper case: it is the same for ß and ss.
  return text.normalize('NFKC').toUpperCase().toLowerCase().replace(ALONE, ' $& ')
}

/** The texts and numbers in a JSON value, as one text; nothing that is worth searching begins behind its `MAX_TEXT` first characters. */
export function textOf(value: JsonValue): string {
  const parts: string[] = []
  let left = MAX_TEXT
  const add = (part: JsonValue): void => {
    if (left <= 0 || part === null) return
    if (typeof part === 'object') for (const inner of Object.values<JsonValue>(part)) add(inner)
    else if (typeof part !== 'boolean') {
      const text = String(part).slice(0, left)
      parts.push(text)
      left -= text.length + 1
    }
  }
  add(value)
  return parts.join(' ')
}
