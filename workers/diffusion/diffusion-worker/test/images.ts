import { crc32, deflateSync, inflateSync } from 'node:zlib'

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])

/** A PNG of 8 bits a colour whose colours go from `shade` to their ends. */
export function png(width: number, height: number, shade = 0): Buffer {
  const line = 1 + width * 3
  const raw = Buffer.alloc(line * height)
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      raw.set([(shade + x * 4) & 255, (shade + y * 4) & 255, shade], y * line + 1 + x * 3)
    }
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width)
  header.writeUInt32BE(height, 4)
  header.set([8, 2], 8)
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(raw)),
    chunk('IEND', Buffer.alloc(0)),
  ])
}

/** Files that no image can begin with, and what a task with one of them, as `a.png`, is told. */
export const UNUSABLE_IMAGES: readonly (readonly [what: string, bytes: Buffer, message: string])[] = [
  ['a text', Buffer.from('a text that calls itself an image'), '"a.png" is neither a PNG nor a JPEG'],
  [
    'an image of a size that cannot be kept',
    png(100, 64),
    '"a.png" is 100x64: its sides must be multiples of 64, up to 2048',
  ],
  ['an image that is cut', png(64, 64).subarray(0, 60), '"a.png" is no image that can be read'],
]

function chunk(kind: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(kind), data])
  const size = Buffer.alloc(4)
  size.writeUInt32BE(data.length)
  const check = Buffer.alloc(4)
  check.writeUInt32BE(crc32(body))
  return Buffer.concat([size, body, check])
}

export interface SeenPng {
  readonly width: number
  readonly height: number
  readonly pixels: Buffer
  readonly texts: Readonly<Record<string, string>>
}

/** What a PNG holds. Throws where it is none, or a chunk of it is damaged. */
export function readPng(bytes: Buffer): SeenPng {
  if (!bytes.subarray(0, 8).equals(SIGNATURE)) throw new Error('no PNG')
  const data: Buffer[] = []
  const texts: Record<string, string> = {}
  for (let at = 8; at < bytes.length;) {
    const length = bytes.readUInt32BE(at)
    const body = bytes.subarray(at + 4, at + 8 + length)
    if (crc32(body) !== bytes.readUInt32BE(at + 8 + length)) throw new Error('a chunk is damaged')
    const kind = body.toString('latin1', 0, 4)
    if (kind === 'IDAT') data.push(body.subarray(4))
    if (kind === 'iTXt') {
      const [key = '', ...rest] = body.subarray(4).toString().split('\0')
      texts[key] = rest.slice(4).join('\0')
    }
    at += 12 + length
  }
  return {
    width: bytes.readUInt32BE(16),
    height: bytes.readUInt32BE(20),
    pixels: inflateSync(Buffer.concat(data)),
    texts,
  }
}
