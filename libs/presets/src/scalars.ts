import { suggestion } from './closest.ts'
import { complain, mismatch } from './shape.ts'
import type { Shape } from './shape.ts'

export interface TextRules {
  readonly expected: string
  readonly pattern?: string
  readonly maxLength: number
  /** Empty text is refused unless this is given. */
  readonly mayBeEmpty?: true
  readonly examples?: readonly string[]
  /** What is wrong with it beyond the pattern; `null`: nothing. */
  readonly refuse?: (text: string) => string | null
}

export function text(rules: TextRules): Shape<string> {
  const pattern = rules.pattern === undefined ? null : new RegExp(rules.pattern, 'u')
  const { expected, maxLength } = rules
  const minLength = rules.mayBeEmpty ? 0 : 1
  return {
    expected,
    schema: {
      type: 'string',
      ...(minLength > 0 && { minLength }),
      maxLength,
      ...(rules.pattern !== undefined && { pattern: rules.pattern }),
      ...(rules.examples && { examples: rules.examples }),
    },
    read(place, report) {
      const { tree } = place
      if (tree.kind !== 'text') {
        const quotes =
          tree.kind === 'number' || tree.kind === 'boolean'
            ? '; put it in quotes if it is meant as a text'
            : ''
        mismatch(place, report, expected, quotes)
      } else if (tree.text.length > maxLength) {
        complain(place, report, `longer than ${maxLength} characters`)
      } else if (tree.text.length < minLength || (pattern && !pattern.test(tree.text))) {
        mismatch(place, report, expected)
      } else {
        const refusal = rules.refuse?.(tree.text) ?? null
        if (refusal === null) return tree.text
        complain(place, report, refusal)
      }
      return undefined
    },
  }
}

/** A text; numbers and booleans count as the text that stands in the file. Its messages never show the value, which may be a secret. */
export function writtenText(maxLength: number): Shape<string> {
  const expected = "a text (write '' for an empty one)"
  return {
    expected,
    schema: { type: ['string', 'number', 'boolean'], maxLength },
    read(place, report) {
      const { tree } = place
      switch (tree.kind) {
        case 'text':
        case 'number':
        case 'boolean': {
          const written = tree.kind === 'text' ? tree.text : tree.written
          if (written.length <= maxLength) return written
          complain(place, report, `longer than ${maxLength} characters`)
          return undefined
        }
        case 'broken':
        case 'nothing':
        case 'list':
        case 'mapping':
          mismatch(place, report, expected)
          return undefined
      }
    },
  }
}

export function number(rules: { min: number; max: number; whole: boolean }): Shape<number> {
  const { min, max, whole } = rules
  const expected = `a ${whole ? 'whole ' : ''}number from ${min} to ${max}`
  return {
    expected,
    schema: { type: whole ? 'integer' : 'number', minimum: min, maximum: max },
    read(place, report) {
      const { tree } = place
      const fits =
        tree.kind === 'number' &&
        tree.value >= min &&
        tree.value <= max &&
        (!whole || Number.isInteger(tree.value))
      if (fits) return tree.value
      mismatch(place, report, expected)
      return undefined
    },
  }
}

export const flag: Shape<boolean> = {
  expected: 'true or false',
  schema: { type: 'boolean' },
  read(place, report) {
    if (place.tree.kind === 'boolean') return place.tree.value
    mismatch(place, report, flag.expected)
    return undefined
  },
}

/** One of a few words, and what each stands for. */
export function choice<T>(meanings: Readonly<Record<string, T>>): Shape<T> {
  const words = Object.keys(meanings)
  const byWord = new Map(Object.entries(meanings))
  const expected = words.length > 6 ? `one of ${words.join(', ')}` : words.join(' or ')
  return {
    expected,
    schema: { type: 'string', enum: words },
    read(place, report) {
      const word = place.tree.kind === 'text' ? place.tree.text : null
      const meaning = word === null ? undefined : byWord.get(word)
      if (meaning === undefined)
        mismatch(place, report, expected, word === null ? '' : suggestion(word, words))
      return meaning
    },
  }
}
