import { tmpdir } from 'node:os'
import { expect, test } from 'vitest'
import { diskCheck, spaceCheck } from '../src/disk-space.ts'

const GB = 1_000_000_000

test.each([
  [500 * GB, 1_000 * GB, { ok: true, detail: '500000 of 1000000 MB are free' }],
  [0.9 * GB, 10 * GB, { ok: true, detail: 'nearly full: 900 of 10000 MB are free' }],
  [40 * GB, 1_000 * GB, { ok: true, detail: 'nearly full: 40000 of 1000000 MB are free' }],
  [0.06 * GB, 1 * GB, { ok: false, detail: 'full: 60 of 1000 MB are free' }],
])('%d of %d bytes', (free, total, check) => {
  expect(spaceCheck(free, total)).toEqual(check)
})

test('is told of a folder that is there, and of one that is not', async () => {
  expect((await diskCheck(tmpdir())).detail).toMatch(/\d+ of \d+ MB are free/)
  expect(await diskCheck('/no/such/folder')).toMatchObject({ ok: false })
})
