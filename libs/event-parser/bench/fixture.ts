/** A kind of stream that workers print. */
export interface Shape {
  readonly name: string
  /** How many lines a measurement takes. */
  readonly lines: number
  /** One line of it, without its newline. */
  readonly line: (random: () => number) => string
}

const SEED = 0xfeed

const int = (random: () => number, below: number): number => Math.floor(random() * below)
const json = JSON.stringify

function textDelta(random: () => number): string {
  return json({ event: 'text_delta', delta: `tok ${100 + int(random, 900)} ` })
}

/** As Python prints it unless told otherwise: what is no ASCII escaped. */
function escapedDelta(random: () => number): string {
  return `{"event": "text_delta", "delta": "\\u00fcber \\ud83d\\ude80 ${int(random, 1_000)}"}`
}

function unicodeDelta(random: () => number): string {
  return json({ event: 'text_delta', delta: `größer 🚀 ${int(random, 1_000)}` })
}

function mixed(random: () => number): string {
  const kind = int(random, 20)
  if (kind < 11) return textDelta(random)
  if (kind < 12) return unicodeDelta(random)
  if (kind < 13) return escapedDelta(random)
  if (kind < 15) return json({ event: 'progress', completed: int(random, 50), total: 50, unit: 'steps' })
  if (kind < 16) return json({ event: 'worker', status: 'working', progress: int(random, 100) / 100 })
  if (kind < 17) return json({ event: 'usage', prompt_tokens: int(random, 500), completion_tokens: 7 })
  if (kind < 18)
    return json({ event: 'epoch', number: int(random, 90), loss: random(), rates: [random(), random()] })
  if (kind < 19)
    return json({
      event: 'log',
      level: 'info',
      message: `step ${int(random, 1_000)}`,
      task_id: 't.1',
      seq: 9,
    })
  return `Loading checkpoint shards: ${int(random, 100)}%`
}

function kilobyteText(random: () => number): string {
  const words = Array.from({ length: 160 }, () => `w${10_000 + int(random, 90_000)}`).slice(0, 139)
  return json({ event: 'text', content: words.join(' ') })
}

function segments(random: () => number): string {
  const value = Array.from({ length: 20 }, (_, at) => ({
    start: at + random(),
    end: at + 1,
    text: `word ${int(random, 100)}`,
  }))
  return json({ event: 'result', value: { language: 'en', segments: value } })
}

export const SHAPES: readonly Shape[] = [
  { name: 'text_delta', lines: 1_000_000, line: textDelta },
  { name: 'text_delta, escaped', lines: 300_000, line: escapedDelta },
  { name: 'text_delta, not ASCII', lines: 300_000, line: unicodeDelta },
  { name: 'mixed', lines: 300_000, line: mixed },
  { name: 'text of 1 KB', lines: 100_000, line: kilobyteText },
  { name: 'result of 20 segments', lines: 20_000, line: segments },
]

/** The first `count` lines of a shape: the same ones every time. */
export function linesOf(shape: Shape, count = shape.lines): string[] {
  const random = randomFrom(SEED)
  return Array.from({ length: count }, () => shape.line(random))
}

/** Numbers from 0 up to 1, evenly spread and the same for the same seed (Mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixedUp = Math.imul(state ^ (state >>> 15), state | 1)
    mixedUp = (mixedUp + Math.imul(mixedUp ^ (mixedUp >>> 7), mixedUp | 61)) ^ mixedUp
    return ((mixedUp ^ (mixedUp >>> 14)) >>> 0) / 2 ** 32
  }
}
