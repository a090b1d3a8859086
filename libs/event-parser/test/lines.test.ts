import { describe, expect, test } from 'vitest'
import { createLineReader } from '../src/index.ts'
import { byteByByte, linesOf, type Line } from './transcript.ts'

function read(text: string, maxLineBytes = 100): Line[] {
  return linesOf([Buffer.from(text)], maxLineBytes)
}

describe('a line reader', () => {
  test('gives every line, blank ones too, without its line end', () => {
    expect(read('a\n\n b \r\n\r\nc')).toEqual([
      ['a', false],
      ['', false],
      [' b ', false],
      ['', false],
      ['c', false],
    ])
  })

  test('gives nothing for an empty stream and no line after the last newline', () => {
    expect(read('')).toEqual([])
    expect(read('a\n')).toEqual([['a', false]])
  })

  test('replaces NUL and what is no UTF-8', () => {
    expect(linesOf([Buffer.from([0x61, 0, 0x0a, 0xff, 0x62, 0x0a, 0xc3, 0xa9, 0, 0x0a])], 100)).toEqual([
      ['a\ufffd', false],
      ['\ufffdb', false],
      ['é\ufffd', false],
    ])
  })

  test('gives of an over-long line what is within the limit, once, and goes on behind it', () => {
    expect(read('1234567890\n12345678901\nabc\n12345678901234567890', 10)).toEqual([
      ['1234567890', false],
      ['1234567890', true],
      ['abc', false],
      ['1234567890', true],
    ])
  })

  test('counts the \\r into the length of its line', () => {
    expect(read('123456789\r\n1234567890\r\n', 10)).toEqual([
      ['123456789', false],
      ['1234567890', true],
    ])
  })

  test('leaves a character out that the limit would cut', () => {
    for (const [character, bytes] of [
      ['é', 2],
      ['€', 3],
      ['🚀', 4],
    ] as const) {
      for (let inside = 1; inside < bytes; inside += 1) {
        expect(read(`abcd${character}efg\n`, 4 + inside)).toEqual([['abcd', true]])
      }
      expect(read(`abcd${character}efg\n`, 4 + bytes)).toEqual([[`abcd${character}`, true]])
    }
  })

  test('says the same where bytes at the limit are no characters at all', () => {
    const bytes = Buffer.from([0x61, 0x80, 0x80, 0x80, 0x80, 0x62, 0x0a])
    expect(linesOf([bytes], 5)).toEqual([['a\ufffd\ufffd\ufffd\ufffd', true]])
    expect(linesOf(byteByByte(bytes), 5)).toEqual([['a\ufffd\ufffd\ufffd\ufffd', true]])
  })

  test('takes a limit of one byte', () => {
    expect(read('a\nbc\n\n', 1)).toEqual([
      ['a', false],
      ['b', true],
      ['', false],
    ])
  })

  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('refuses a limit of %s', (maxLineBytes) => {
    expect(() => createLineReader({ line: () => undefined }, { maxLineBytes })).toThrow(RangeError)
  })

  test('takes bytes that lie inside a larger buffer', () => {
    const lines: string[] = []
    const reader = createLineReader({ line: (text) => lines.push(text) }, { maxLineBytes: 10 })
    reader.feed(new Uint8Array(Buffer.from('xxab\ncdyy')).subarray(2, 7))
    reader.end()
    expect(lines).toEqual(['ab', 'cd'])
  })
})
