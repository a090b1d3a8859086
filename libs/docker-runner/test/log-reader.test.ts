import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { OutputStream } from '@gpu-service/tasks'
import { createLogReader } from '../src/log-reader.ts'

/** One entry of a log: a line, or, without its newline, a part of a long one. */
interface Entry {
  readonly stream: OutputStream
  /** Nanoseconds since the log's beginning. */
  readonly at: number
  readonly text: string
}

const EPOCH = Date.UTC(2026, 10, 26, 12)
/** A container has its log entries in its own order; those of the two streams may stand out of it by so much. */
const DISORDER_NS = 12_000_000

function stampOf(at: number): string {
  const seconds = new Date(EPOCH + Math.floor(at / 1e9) * 1_000).toISOString().slice(0, 19)
  return `${seconds}.${String(at % 1e9).padStart(9, '0')}Z`
}

/** As the engine sends it: written from its documentation, not from the reader. */
function frame({ stream, at, text }: Entry): Buffer {
  const body = Buffer.from(`${stampOf(at)} ${text}`)
  const head = Buffer.alloc(8)
  head[0] = stream === 'stdout' ? 1 : 2
  head.writeUInt32BE(body.length, 4)
  return Buffer.concat([head, body])
}

/** A worker that writes on both streams, each with stamps that never fall, and the log in the order of the engine. */
const log = fc
  .array(
    fc.record({
      stream: fc.constantFrom<OutputStream>('stdout', 'stderr'),
      stepNs: fc.constantFrom(0, 1, 1_000, 400_000, 3_000_000, 2_000_000_000),
      skewNs: fc.integer({ min: 0, max: DISORDER_NS }),
      parts: fc.constantFrom(1, 1, 1, 1, 2, 3),
    }),
    { minLength: 1, maxLength: 60 },
  )
  .map((steps) => {
    const last = { stdout: 0, stderr: 0 }
    let now = 0
    return steps.flatMap(({ stream, stepNs, skewNs, parts }, line): Entry[] => {
      now += stepNs
      const at = Math.max(last[stream], now - skewNs)
      last[stream] = at
      return Array.from({ length: parts }, (_, part) => ({
        stream,
        at,
        text: `${stream} ${line}.${part} ${part === parts - 1 ? '\n' : ''}`,
      }))
    })
  })

const percent = fc.integer({ min: 0, max: 100 }).map((part) => part / 100)

/** What happens to one answer of the engine. */
interface Answer {
  /** It breaks off after so much of it. */
  readonly share: number
  readonly chunkBytes: number
  readonly tail: number | null
  /** The process is killed then, and has stored so much of what it has read. */
  readonly restart: boolean
  readonly stored: number
}

const answer: fc.Arbitrary<Answer> = fc.record({
  share: percent,
  chunkBytes: fc.integer({ min: 1, max: 200 }),
  tail: fc.constantFrom(null, 1, 2, 5, 20),
  restart: fc.boolean(),
  stored: percent,
})

/** Of the last line only the header came: the line before it spoke last, of the other stream. */
const brokenOffAfterAHeader: [Entry[], Answer[]] = [
  [
    { stream: 'stdout', at: 0, text: 'a\n' },
    { stream: 'stdout', at: 400_000, text: 'b\n' },
    { stream: 'stderr', at: 400_000, text: 'c\n' },
    { stream: 'stdout', at: 400_000, text: 'd\n' },
  ],
  [
    { share: 0.985, chunkBytes: 1, tail: null, restart: false, stored: 0 },
    { share: 0.9, chunkBytes: 1, tail: 20, restart: false, stored: 0 },
  ],
]

test(
  'a log that is read over answers that break off, by processes that are killed, is read whole and once',
  { timeout: 60_000 },
  () => {
    fc.assert(
      fc.property(log, fc.array(answer, { maxLength: 6 }), (entries, answers) => {
        const cursor = { stdout: '', stderr: '' }
        const read = { stdout: '', stderr: '' }
        let reader = createLogReader(cursor)
        const last = { share: 1, chunkBytes: 64, tail: null, restart: false, stored: 1 }
        let whole = false
        for (const { share, chunkBytes, tail, restart, stored } of [...answers, last, last]) {
          const known = { ...read }
          const asked = tail !== null && reader.canRecognise() ? tail : null
          reader.begin(asked)
          // A tail begins at a line, never inside of one.
          const lines = entries.flatMap(({ text }, index) => (text.endsWith('\n') ? index : []))
          const from = asked === null ? 0 : (lines[Math.max(-1, lines.length - 1 - asked)] ?? -1) + 1
          const bytes = Buffer.concat(entries.slice(from).map(frame))
          const sent = bytes.subarray(0, Math.ceil(share * bytes.length))
          const items: { readonly stream: OutputStream; readonly text: string; readonly cursor: string }[] =
            []
          for (let at = 0; at < sent.length && !reader.beganTooLate; at += chunkBytes)
            for (const item of reader.read(Buffer.from(sent.subarray(at, at + chunkBytes)))) {
              if (item.kind !== 'data') throw new Error(`there is no ${item.kind}`)
              items.push({ stream: item.stream, text: item.bytes.toString(), cursor: item.cursor })
            }
          const kept = restart ? items.slice(0, Math.round(stored * items.length)) : items
          for (const { stream, text, cursor: reached } of kept) {
            read[stream] += text
            cursor[stream] = reached
          }
          if (restart) {
            // What a cursor does not stand behind is read again: the rest of a line.
            for (const stream of ['stdout', 'stderr'] as const)
              read[stream] = read[stream].slice(0, read[stream].lastIndexOf('\n') + 1)
            reader = createLogReader(cursor)
          }
          if (asked !== null && reader.beganTooLate) expect(read).toEqual(known)
          whole = share === 1 && !restart && reader.endedWell()
        }
        expect(whole).toBe(true)
        for (const stream of ['stdout', 'stderr'] as const)
          expect(read[stream]).toBe(
            entries
              .filter((entry) => entry.stream === stream)
              .map(({ text }) => text)
              .join(''),
          )
      }),
      { numRuns: 2_000, examples: [brokenOffAfterAHeader] },
    )
  },
)
