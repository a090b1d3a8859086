import { mismatch } from './shape.ts'
import type { Shape } from './shape.ts'

const AMOUNT = String.raw`\d{1,9}(?:\.\d{1,3})?`

/** The largest unit first, as people write them: `1h30m`. */
const DURATION_UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1_000],
  ['ms', 1],
] as const
const DURATION = `^(?=.)${DURATION_UNITS.map(([unit]) => `(?:(${AMOUNT})${unit})?`).join('')}$`
const DURATION_PATTERN = new RegExp(DURATION, 'u')

/** A length of time, `90s` or `1h30m`, or a number of seconds; read as whole milliseconds. */
export function duration(rules: { minMs: number; maxMs: number; range: string }): Shape<number> {
  const { minMs, maxMs, range } = rules
  const expected = `a length of time ${range}, such as 90s, 10m, 1h30m or a number of seconds`
  return {
    expected,
    schema: {
      anyOf: [
        { type: 'number', minimum: minMs / 1000, maximum: maxMs / 1000 },
        { type: 'string', pattern: DURATION },
      ],
    },
    read(place, report) {
      const { tree } = place
      const ms =
        tree.kind === 'number' ? tree.value * 1000 : tree.kind === 'text' ? durationMs(tree.text) : null
      const whole = ms === null ? Number.NaN : Math.round(ms)
      if (whole >= minMs && whole <= maxMs) return whole
      mismatch(place, report, expected)
      return undefined
    },
  }
}

/** A length of time, or the word `never`, which gives `null`. */
export function durationOrNever(rules: Parameters<typeof duration>[0]): Shape<number | null> {
  const time = duration({ ...rules, range: `${rules.range} (or never)` })
  return {
    ...time,
    schema: { anyOf: [time.schema, { const: 'never' }] },
    read(place, report) {
      return place.tree.kind === 'text' && place.tree.text === 'never' ? null : time.read(place, report)
    },
  }
}

function durationMs(text: string): number | null {
  const amounts = DURATION_PATTERN.exec(text)
  if (amounts === null) return null
  return DURATION_UNITS.reduce((sum, [, factor], index) => sum + Number(amounts[index + 1] ?? 0) * factor, 0)
}

const BYTES = new Map([
  ['KiB', 2 ** 10],
  ['MiB', 2 ** 20],
  ['GiB', 2 ** 30],
  ['TiB', 2 ** 40],
  ['KB', 1e3],
  ['MB', 1e6],
  ['GB', 1e9],
  ['TB', 1e12],
])
const SIZE = `^(${AMOUNT}) ?(${[...BYTES.keys()].join('|')})$`
const SIZE_PATTERN = new RegExp(SIZE, 'u')

/**
 * An amount of memory with its unit; read as mebibytes. A limit is rounded down, so that it is never more than what was written, and a need
 * up, so that it is never less.
 */
export function size(rules: {
  minMb: number
  maxMb: number
  range: string
  of: 'limit' | 'need'
}): Shape<number> {
  const { minMb, maxMb, range } = rules
  const whole = rules.of === 'limit' ? Math.floor : Math.ceil
  const expected = `a size with its unit ${range}, such as 512MiB or 8GB`
  return {
    expected,
    schema: { type: 'string', pattern: SIZE },
    read(place, report) {
      const { tree } = place
      const parts = tree.kind === 'text' ? SIZE_PATTERN.exec(tree.text) : null
      const bytes = parts === null ? Number.NaN : Number(parts[1]) * (BYTES.get(parts[2] ?? '') ?? Number.NaN)
      const mb = whole(bytes / 2 ** 20)
      if (mb >= minMb && mb <= maxMb) return mb
      mismatch(place, report, expected)
      return undefined
    },
  }
}
