import { crc32 } from 'node:zlib'

/** Signature, then the chunk IHDR, which is always as long. */
const HEADER_BYTES = 8 + 25

/** A PNG with texts in it, each under a key of at most 79 Latin letters. */
export function withTexts(png: Buffer, texts: Readonly<Record<string, string>>): Buffer {
  const chunks = Object.entries(texts).map(([key, text]) => textChunk(key, text))
  return Buffer.concat([png.subarray(0, HEADER_BYTES), ...chunks, png.subarray(HEADER_BYTES)])
}

function textChunk(key: string, text: string): Buffer {
  // Not compressed; neither a language nor a translation of the key.
  const body = Buffer.concat([
    Buffer.from('iTXt'),
    Buffer.from(key, 'latin1'),
    Buffer.alloc(5),
    Buffer.from(text),
  ])
  const chunk = Buffer.alloc(body.length + 8)
  chunk.writeUInt32BE(body.length - 4)
  body.copy(chunk, 4)
  chunk.writeUInt32BE(crc32(body), body.length + 4)
  return chunk
}
