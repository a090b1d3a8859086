import { describe, expect, it } from 'vitest'
import { createEventParser, createLineReader, createRedactor, type HiddenText } from '../src/index.ts'
import { byteByByte, type Call, cutAt, type Line } from './transcript.ts'

const TOKEN = { name: 'token', text: 'hunter2-hunter2' }
const delta = (text: string) => JSON.stringify({ event: 'text_delta', delta: text })

function read(
  pieces: Iterable<Uint8Array>,
  hidden: readonly HiddenText[] = [TOKEN],
  maxLineBytes = 1_000,
): Call[] {
  const calls: Call[] = []
  const redactor = createRedactor(hidden)
  const parser = createEventParser(
    {
      event: (event, taskId, seq) => calls.push({ event, taskId, seq }),
      log: (log) => calls.push({ log }),
      fault: (fault, taskId, seq) => calls.push({ fault, taskId, seq }),
    },
    { maxLineBytes, redactor: () => redactor },
  )
  for (const piece of pieces) parser.feed(piece)
  parser.end()
  return calls
}

const readText = (text: string, hidden?: readonly HiddenText[]) => read([Buffer.from(`${text}\n`)], hidden)

describe('what is hidden on stdout', () => {
  it('is replaced in events, in log lines, and in the lines that faults quote', () => {
    expect(readText(delta('the token is hunter2-hunter2!'))).toMatchObject([
      { event: { delta: 'the token is [secret token]!' } },
    ])
    expect(readText('token=hunter2-hunter2 hunter2-hunter2')).toEqual([
      { log: 'token=[secret token] [secret token]' },
    ])
    expect(readText('{"event":"text_delta","delta":"hunter2-hunter2')).toMatchObject([
      { fault: { kind: 'INVALID_JSON', line: '{"event":"text_delta","delta":"[secret token]' } },
    ])
    expect(readText(`{"event":"text_delta","hunter2-hunter2":1}`)).toMatchObject([
      { fault: { kind: 'INVALID_FIELDS', line: '{"event":"text_delta","[secret token]":1}' } },
    ])
  })

  it('is found wherever it is cut', () => {
    const bytes = Buffer.from(`${delta('a hunter2-hunter2 z')}\nhunter2-hunter2\n`)
    const whole = read([bytes])
    expect(JSON.stringify(whole)).not.toContain('hunter2')
    expect(read(byteByByte(bytes))).toEqual(whole)
    for (let place = 0; place < bytes.length; place++) expect(read(cutAt(bytes, [place]))).toEqual(whole)
  })

  it.each([
    ['in hexadecimal', '\\u0068unter2\\u002dhunter2'],
    ['in upper case', '\\u0068unter2\\u002Dhunter2'],
    ['twice', '\\\\u0068unter2-hunter2'],
  ])('is found in JSON that escapes it %s', (_how, written) => {
    const shown = JSON.stringify(readText(`{"event":"text_delta","delta":"x ${written} y"}`))
    expect(shown).toContain('[secret token]')
    expect(shown).not.toMatch(/hunter2/)
  })

  it('is found in JSON that escapes what must be escaped, and what need not be', () => {
    const text = 'pass"word\\with/späce\tand 😀'
    for (const written of [
      JSON.stringify(text),
      JSON.stringify(text).replaceAll('/', '\\/'),
      JSON.stringify(text).replace(
        /[^\0-\x7f]/g,
        (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
      ),
    ])
      for (const line of [`{"event":"text","content":${written}}`, `ERROR ${written}`, `[${written}`]) {
        const shown = JSON.stringify(readText(line, [{ name: 'p', text }]))
        expect(shown).toContain('[secret p]')
        expect(shown).not.toMatch(/sp/)
      }
  })

  it('is found in keys, in numbers and deep inside, and leaves JSON that is valid', () => {
    const hidden = [TOKEN, { name: 'pin', text: '12345678' }]
    const line = '{"event":"result","value":{"hunter2-hunter2":[{"pin":12345678}],"n":1}}'
    expect(readText(line, hidden)).toMatchObject([
      { event: { type: 'result', value: { '[secret token]': [{ pin: '[secret pin]' }], n: 1 } } },
    ])
  })

  it('is found at the end of a line that is too long, also where it is cut there', () => {
    for (let length = 4; length <= TOKEN.text.length; length++) {
      const line = 'x'.repeat(1_000 - length) + TOKEN.text
      expect(JSON.stringify(read([Buffer.from(`${line}y`)]))).not.toContain('hunt')
    }
  })

  it('is the longer one of two that begin alike', () => {
    const hidden = [TOKEN, { name: 'long', text: 'hunter2-hunter2-more' }]
    expect(readText('hunter2-hunter2-more hunter2-hunter2', hidden)).toEqual([
      { log: '[secret long] [secret token]' },
    ])
  })

  it('is each line of a text with several, without the white space around', () => {
    const hidden = [{ name: 'key', text: '-----BEGIN KEY-----\r\n  MIIEvQIBADANBg\nshort\n' }]
    expect(readText('a -----BEGIN KEY-----\nMIIEvQIBADANBg short', hidden)).toEqual([
      { log: 'a [secret key]' },
      { log: '[secret key] short' },
    ])
  })

  it('is nothing that is shorter than 8 characters, for that stands anywhere', () => {
    expect(
      createRedactor([
        { name: 'a', text: 'hunter2\n' },
        { name: 'b', text: '' },
      ]),
    ).toBeNull()
  })

  it('is taken as it stands, not as a pattern', () => {
    const hidden = [{ name: 'odd', text: '.*[a-z]+(x|y)$^\\d{8}' }]
    expect(readText('harmless abcxyz 12345678', hidden)).toEqual([{ log: 'harmless abcxyz 12345678' }])
    expect(readText('it is .*[a-z]+(x|y)$^\\d{8} here', hidden)).toEqual([{ log: 'it is [secret odd] here' }])
  })

  it('leaves everything else as it is', () => {
    for (const line of [delta('a \\ b "c" ünï'), 'C:\\users\\hunter', '{"event":"usage","n":1e3}'])
      expect(readText(line)).toEqual(readText(line, []))
  })
})

it('what is hidden on stderr is replaced, also where a long line is cut', () => {
  const lines: Line[] = []
  const redactor = createRedactor([TOKEN])
  const reader = createLineReader(
    { line: (text, truncated) => lines.push([text, truncated]) },
    { maxLineBytes: 20, redactor: () => redactor },
  )
  reader.feed(Buffer.from('a hunter2-hunter2 z\n0123456789 hunter2-hunter2\nplain'))
  reader.end()
  expect(lines).toEqual([
    ['a [secret token] z', false],
    ['0123456789 [secret token]', true],
    ['plain', false],
  ])
})

it('a long text with many backslashes is dealt with in little time', () => {
  const hidden = Array.from({ length: 32 }, (_, n) => ({
    name: `s${n}`,
    text: `secret-number-${n}-${'x'.repeat(40)}`,
  }))
  const line = delta('\\u0041'.repeat(100_000))
  const before = performance.now()
  read([Buffer.from(`${line}\n`)], hidden, 2_000_000)
  expect(performance.now() - before).toBeLessThan(2_000)
})
