import { expect, test } from 'vitest'
import { imageSize } from '../src/image-size.ts'
import { withTexts } from '../src/png.ts'
import { png, readPng } from './images.ts'

test('an image gets texts in any writing, and stays the same image', () => {
  const before = png(64, 128)
  const after = readPng(withTexts(before, { parameters: '{"prompt":"über 狐 🦊"}', model: 'tiny' }))
  expect(after).toEqual({
    ...readPng(before),
    texts: { parameters: '{"prompt":"über 狐 🦊"}', model: 'tiny' },
  })
})

/** A segment of a JPEG, with its length. */
const segment = (marker: number, data: readonly number[]): number[] => [
  0xff,
  marker,
  0,
  data.length + 2,
  ...data,
]
const jpeg = (...segments: number[][]): Buffer => Buffer.from([0xff, 0xd8, ...segments.flat(), 0xff, 0xd9])
const frame = (marker: number): number[] => segment(marker, [8, 1, 0, 2, 64, 1, 1, 0x11, 0])

test.each([
  ['a PNG', png(192, 64), { width: 192, height: 64 }],
  ['a JPEG', jpeg(segment(0xe0, [1, 2, 3]), frame(0xc0)), { width: 576, height: 256 }],
  [
    'a progressive JPEG behind its tables',
    jpeg(segment(0xc4, [0]), frame(0xc2)),
    { width: 576, height: 256 },
  ],
  ['a JPEG that is cut', jpeg(frame(0xc0)).subarray(0, 8), null],
  ['a PNG that is cut', png(64, 64).subarray(0, 20), null],
  ['a text', Buffer.from('no image, but long enough to be one'), null],
  ['nothing', Buffer.alloc(0), null],
])('the size of %s', (_what, bytes, size) => {
  expect(imageSize(bytes)).toEqual(size)
})
