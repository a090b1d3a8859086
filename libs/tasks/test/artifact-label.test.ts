import { expect, test } from 'vitest'
import { labelArtifact } from '../src/artifact-label.ts'

test.each([
  [{ name: null, mediaType: null, path: 'out/a.png' }, 'a.png', 'image/png'],
  [{ name: 'My picture.PNG', mediaType: null, path: 'x' }, 'My picture.PNG', 'image/png'],
  [{ name: 'a.bin', mediaType: 'Audio/X-Thing', path: null }, 'a.bin', 'audio/x-thing'],
  [{ name: 'a.png', mediaType: 'text/html\r\nx: y', path: null }, 'a.png', 'image/png'],
  [{ name: '../../etc/passwd', mediaType: null, path: null }, 'passwd', 'application/octet-stream'],
  [{ name: 'a\u0000b\n.txt', mediaType: null, path: null }, 'a_b_.txt', 'text/plain'],
  [{ name: 'photo\u202egpj.exe', mediaType: null, path: null }, 'photo_gpj.exe', 'application/octet-stream'],
  [{ name: '..', mediaType: null, path: null }, 'artifact', 'application/octet-stream'],
  [{ name: null, mediaType: null, path: null }, 'artifact', 'application/octet-stream'],
  [{ name: 'x.constructor', mediaType: null, path: null }, 'x.constructor', 'application/octet-stream'],
])('%j is kept as %s, %s', (claim, name, mediaType) => {
  expect(labelArtifact(claim)).toEqual({ name, mediaType })
})

test('a name is kept to a length that file systems take', () => {
  const nameOf = (name: string) => labelArtifact({ name, mediaType: null, path: null }).name
  expect(nameOf('ä'.repeat(5_000))).toBe('ä'.repeat(127))
  expect(nameOf('😀'.repeat(5_000))).toBe('😀'.repeat(63))
})
