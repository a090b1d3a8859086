export interface Size {
  readonly width: number
  readonly height: number
}

const PNG = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])

/** How large a PNG or JPEG is, from its beginning; `null` where it is neither. */
export function imageSize(image: Buffer): Size | null {
  if (image.length >= 24 && image.subarray(0, 8).equals(PNG))
    return { width: image.readUInt32BE(16), height: image.readUInt32BE(20) }
  if (image.length >= 4 && image.readUInt16BE(0) === 0xffd8) return jpegSize(image)
  return null
}

/** It stands in the segment that begins the frame; which of them is there depends on how the image was encoded. */
function jpegSize(image: Buffer): Size | null {
  for (let at = 2; at + 9 <= image.length; at += 2 + image.readUInt16BE(at + 2)) {
    const marker = image.readUInt16BE(at)
    if (marker < 0xffc0 || marker > 0xfffe) return null
    const isFrame = marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker)
    if (isFrame) return { width: image.readUInt16BE(at + 7), height: image.readUInt16BE(at + 5) }
  }
  return null
}
