import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, test } from 'vitest'
import { createEventParser, MAX_LINE_BYTES, type EventParser } from '../src/index.ts'
import { cutAt, eventsOf, outlineOf, transcriptOf } from './transcript.ts'

const MIB = 1024 * 1024
const CHUNK_BYTES = 64 * 1024

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** What the process holds after a garbage collection. */
/**
 * What is held when all that can be collected is. V8 frees the memory of dead buffers beside the program and counts it as used meanwhile; the
 * next collection waits for that. Whatever else the test's process does only adds to a reading, so the smallest one counts.
 */
function heldBytes(): number {
  const readings = [1, 2, 3, 4].map(() => {
    collectGarbage()
    const { heapUsed, arrayBuffers } = process.memoryUsage()
    return heapUsed + arrayBuffers
  })
  return Math.min(...readings)
}

/** A text event whose line is this many bytes long. */
function eventOf(length: number, letter = 'x'): string {
  const frame = '{"event":"text","content":""}'
  return frame.replace('""', `"${letter.repeat((length - frame.length) / Buffer.byteLength(letter))}"`)
}

describe('the limit of a line', () => {
  test.each(['x', 'é'])('is 1 MiB of bytes, its newline not counted (in letters %s)', (letter) => {
    expect(MAX_LINE_BYTES).toBe(MIB)
    // The frame has 29 bytes, so an even number of bytes is left at an odd length.
    for (const [length, said] of [
      [MIB - 1, 'text'],
      [MIB + 1, 'LINE_TOO_LONG'],
    ] as const) {
      const line = eventOf(length, letter)
      expect(Buffer.byteLength(line)).toBe(length)
      for (const stream of [line, `${line}\n`]) {
        const bytes = Buffer.from(stream)
        expect(outlineOf(transcriptOf([bytes]))).toEqual([said])
        expect(outlineOf(transcriptOf(cutAt(bytes, [1, MIB - 1, MIB, MIB + 1])))).toEqual([said])
      }
    }
  })

  test('takes a line of exactly 1 MiB', () => {
    expect(eventsOf(`${eventOf(MIB)}\n`)).toMatchObject([{ type: 'text' }])
  })

  test('an over-long line is one fault with its first 1,000 characters, said at its end', () => {
    const said: string[] = []
    const parser = counting((what) => said.push(what))
    const line = Buffer.from(eventOf(3 * MIB))
    for (let at = 0; at < line.length; at += CHUNK_BYTES) parser.feed(line.subarray(at, at + CHUNK_BYTES))
    expect(said).toEqual([])
    parser.feed(Buffer.from('\n{"event":"text","content":"next"}\n'))
    expect(said).toEqual([`LINE_TOO_LONG ${eventOf(2_000).slice(0, 1_000)}`, 'text'])
  })

  test('an over-long line is a fault at the end of the stream too, and may be given in one piece', () => {
    expect(transcriptOf([Buffer.from('€'.repeat(MIB))])).toEqual([
      {
        fault: {
          kind: 'LINE_TOO_LONG',
          line: '€'.repeat(1_000),
          detail: 'the line is longer than 1048576 bytes',
        },
        taskId: null,
        seq: null,
      },
    ])
  })

  test('can be set', () => {
    expect(transcriptOf([Buffer.from('12345\n123456\n')], { maxLineBytes: 5 })).toMatchObject([
      { log: '12345' },
      { fault: { kind: 'LINE_TOO_LONG', line: '12345', detail: 'the line is longer than 5 bytes' } },
    ])
  })
})

describe('the memory', () => {
  const chunk = Buffer.alloc(CHUNK_BYTES, 'x')

  test('stays below the limit of a line and a little while a line of 64 MiB comes', () => {
    const said: string[] = []
    const parser = counting((what) => said.push(what.slice(0, 13)))
    const before = heldBytes()
    for (let fed = 0; fed < 64 * MIB; fed += CHUNK_BYTES) {
      parser.feed(chunk)
      if (fed % (8 * MIB) === 0) expect(heldBytes() - before).toBeLessThan(MIB + MIB / 2)
    }
    parser.feed(Buffer.from('\n{"event":"text","content":"next"}\n'))
    expect(said).toEqual(['LINE_TOO_LONG', 'text'])
  })

  test('stays so with a smaller limit, and with bytes that are no text', () => {
    const parser = createEventParser(
      { event: () => undefined, log: () => undefined, fault: () => undefined },
      { maxLineBytes: 1_000 },
    )
    let state = 1
    const noise = Uint8Array.from({ length: CHUNK_BYTES }, () => {
      state = (state * 1_103_515_245 + 12_345) % 2 ** 31
      return state >> 16
    }).map((byte) => (byte === 10 ? 11 : byte))
    const before = heldBytes()
    for (let fed = 0; fed < 8 * MIB; fed += CHUNK_BYTES) parser.feed(noise)
    expect(heldBytes() - before).toBeLessThan(MIB / 4)
  })

  test('is given back after a long line', () => {
    const parser = counting(() => undefined)
    const before = heldBytes()
    for (let fed = 0; fed < MIB; fed += CHUNK_BYTES) parser.feed(chunk)
    expect(heldBytes() - before).toBeGreaterThan(MIB / 2)
    parser.feed(Buffer.from('\n'))
    expect(heldBytes() - before).toBeLessThan(MIB / 4)
  })

  test('of what was handed on holds no more than what was handed on', () => {
    const kept: unknown[] = []
    const parser = createEventParser({
      event: (event) => kept.push(event),
      log: (line) => kept.push(line),
      fault: (fault) => kept.push(fault),
    })
    const stretch = Buffer.from(
      `${'\n'.repeat(60_000)}{"event":"text_delta","delta":"twenty characters and more"}\n` +
        `{"event":"unknown","a":["twenty characters and more"]}\ntwenty characters and more\n` +
        `{"event":"text_delta" cut after more than twenty characters\n`,
    )
    const before = heldBytes()
    for (let times = 0; times < 300; times += 1) parser.feed(stretch)
    expect(kept).toHaveLength(1_200)
    expect(heldBytes() - before).toBeLessThan(2 * MIB)
  })
})

function counting(say: (what: string) => void): EventParser {
  return createEventParser({
    event: (event) => {
      say(event.type)
    },
    log: () => {
      say('log')
    },
    fault: ({ kind, line }) => {
      say(`${kind} ${line}`)
    },
  })
}
