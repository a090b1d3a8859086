const RATE = 16_000

/** A tone that goes up and down, in 16 bits, mono. */
function samples(seconds: number): Int16Array {
  return Int16Array.from({ length: seconds * RATE }, (_, index) => {
    const time = index / RATE
    return 8000 * Math.sin(2 * Math.PI * (200 + 150 * Math.sin(2 * Math.PI * 0.7 * time)) * time)
  })
}

export function wav(seconds: number): Buffer {
  const data = Buffer.from(samples(seconds).buffer)
  const header = Buffer.alloc(44)
  header.write('RIFF')
  header.writeUInt32LE(36 + data.length, 4)
  header.write('WAVEfmt ', 8)
  header.writeUInt32LE(16, 16)
  header.writeUInt16LE(1, 20)
  header.writeUInt16LE(1, 22)
  header.writeUInt32LE(RATE, 24)
  header.writeUInt32LE(RATE * 2, 28)
  header.writeUInt16LE(2, 32)
  header.writeUInt16LE(16, 34)
  header.write('data', 36)
  header.writeUInt32LE(data.length, 40)
  return Buffer.concat([header, data])
}

/** Silence: frames of MPEG 1 layer III, 128 kbit/s, 44.1 kHz, mono, whose side information says that there is nothing. */
export function mp3(seconds: number): Buffer {
  const frame = Buffer.alloc(417)
  frame.set([0xff, 0xfb, 0x90, 0xc4])
  return Buffer.concat(Array.from({ length: Math.ceil((seconds * 44_100) / 1152) }, () => frame))
}

/** The tone, not compressed: each block is one frame of a single verbatim subframe. */
export function flac(seconds: number): Buffer {
  const block = 4096
  const all = samples(seconds)
  const info = Buffer.alloc(34)
  info.writeUInt16BE(block, 0)
  info.writeUInt16BE(block, 2)
  // 20 bits of rate, 3 of channels minus 1, 5 of bits minus 1, 36 of samples.
  info.writeBigUInt64BE((BigInt(RATE) << 44n) | (15n << 36n) | BigInt(all.length), 10)
  const parts = [Buffer.from('fLaC'), Buffer.from([0x80, 0, 0, 34]), info]
  for (let at = 0; at < all.length; at += block) {
    const some = all.subarray(at, at + block)
    const size = Buffer.alloc(2)
    size.writeUInt16BE(some.length - 1)
    // Blocks of the size that follows, the rate and depth of the stream's, mono.
    const header = Buffer.concat([Buffer.from([0xff, 0xf8, 0x70, 0x00]), utf8Number(at / block), size])
    const body = Buffer.alloc(1 + some.length * 2)
    body[0] = 0x02
    some.forEach((value, index) => body.writeInt16BE(value, 1 + index * 2))
    const frame = Buffer.concat([header, Buffer.of(crc(header, 8, 0x07)), body])
    const check = Buffer.alloc(2)
    check.writeUInt16BE(crc(frame, 16, 0x8005))
    parts.push(frame, check)
  }
  return Buffer.concat(parts)
}

function utf8Number(value: number): Buffer {
  return Buffer.from(String.fromCodePoint(value))
}

function crc(bytes: Buffer, width: 8 | 16, polynomial: number): number {
  const top = 1 << (width - 1)
  let value = 0
  for (const byte of bytes) {
    value ^= byte << (width - 8)
    for (let bit = 0; bit < 8; bit += 1)
      value = ((value & top) === 0 ? value << 1 : (value << 1) ^ polynomial) & ((1 << width) - 1)
  }
  return value
}
