import { expect, test } from 'vitest'
import { createLogger } from '../src/log.ts'
import { Writable } from 'node:stream'

function capture(): { readonly stream: Writable; readonly text: () => string } {
  let written = ''
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      written += chunk.toString()
      done()
    },
  })
  return { stream, text: () => written }
}

test('writes one JSON object per line, an error with its stack and causes', () => {
  const { stream, text } = capture()
  const log = createLogger({ level: 'info', destination: stream, pretty: false })
  log.info({ taskId: 't1' }, 'A task has\nended.')
  log.error({ err: new Error('outer', { cause: new Error('inner') }) }, 'It broke.')
  const lines = text().trimEnd().split('\n')
  expect(lines).toHaveLength(2)
  const [first, second] = lines.map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(first).toMatchObject({ level: 30, taskId: 't1', msg: 'A task has\nended.' })
  expect(new Date(String(first?.['time'])).toISOString()).toBe(first?.['time'])
  expect(second).toMatchObject({ err: { message: 'outer: inner' } })
  expect(JSON.stringify(second)).toContain('caused by: Error: inner')
})

test('writes nothing below its level', () => {
  const { stream, text } = capture()
  createLogger({ level: 'warn', destination: stream, pretty: false }).info({}, 'unheard')
  createLogger({ level: 'silent', destination: stream, pretty: false }).error({}, 'unheard')
  expect(text()).toBe('')
})

test('writes for a person where it is told to', () => {
  const { stream, text } = capture()
  createLogger({ level: 'info', destination: stream, pretty: true }).info(
    { taskId: 't1' },
    'A task has ended.',
  )
  expect(text()).toMatch(/INFO: A task has ended\.\n {4}taskId: "t1"/)
})

test('lets nobody whose words it holds write lines of its own, or change what a terminal shows', () => {
  for (const pretty of [true, false]) {
    const { stream, text } = capture()
    const log = createLogger({ level: 'info', destination: stream, pretty })
    const words =
      'a\u001b[2J\u001b]0;x\u0007\r\b\u007f\u009b1m\u2028\u202e\n[00:00:00.000] INFO: forged \\\\u001b'
    log.info({ label: words, in: { [words]: [words] } }, words)
    log.error({ err: new Error(words, { cause: new Error(words) }) }, 'It broke.')
    expect(text()).toContain('forged')
    expect(text()).not.toMatch(/[^\n\P{Cc}]|[\u2028\u202e]/u)
    expect(
      text()
        .split('\n')
        .filter((line) => line.startsWith('[00:00:00.000] INFO: forged')),
    ).toEqual([])
  }
})
