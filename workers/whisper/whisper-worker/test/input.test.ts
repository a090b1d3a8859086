import { expect, test } from 'vitest'
import { readOrder } from '../src/input.ts'

const file = (name: string) => ({ name, mediaType: 'audio/wav', bytes: 1, sha256: '', path: `/in/${name}` })
const ONE = [file('a.wav')]

test('without an input the only file is transcribed, in the language that is heard', () => {
  expect(readOrder(null, ONE)).toEqual({
    file: ONE[0],
    language: 'auto',
    translate: false,
    prompt: '',
    beamSize: null,
    temperature: 0,
    temperatureIncrement: 0.2,
  })
})

test('of several files one is named', () => {
  expect(readOrder({ file: 'b.wav' }, [...ONE, file('b.wav')]).file.path).toBe('/in/b.wav')
})

test.each([
  ['the task has no file', {}, []],
  ['the task has 2 files', {}, [...ONE, file('b.wav')]],
  ['the task has no file "c.wav"', { file: 'c.wav' }, ONE],
  ['not "xx"', { language: 'xx' }, ONE],
  ['"translate" is true or false', { translate: 'yes' }, ONE],
  ['"beam_size" is a whole number from 1 to 8', { beam_size: 2.5 }, ONE],
  ['"temperature" is a number from 0 to 1', { temperature: 2 }, ONE],
  ['"prompt" is a text', { prompt: 7 }, ONE],
  ['"lang" is not known', { lang: 'en' }, ONE],
  ['the input is an object', ['en'], ONE],
])('refused is what it cannot do: %s', (message, input, files) => {
  expect(() => readOrder(input, files)).toThrow(message)
})
