/** What file systems take. */
const MAX_NAME_BYTES = 255
/** Control characters, and those that turn the direction of what is shown: `\u202Egpj.exe` looks like a picture. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g
const MEDIA_TYPE = /^[a-z0-9][a-z0-9!#$&^_.+-]{0,63}\/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}$/

const BY_EXTENSION: Readonly<Record<string, string>> = {
  csv: 'text/csv',
  gif: 'image/gif',
  jpeg: 'image/jpeg',
  jpg: 'image/jpeg',
  json: 'application/json',
  mp3: 'audio/mpeg',
  mp4: 'video/mp4',
  ndjson: 'application/x-ndjson',
  pdf: 'application/pdf',
  png: 'image/png',
  srt: 'application/x-subrip',
  txt: 'text/plain',
  vtt: 'text/vtt',
  wav: 'audio/wav',
  webm: 'video/webm',
  webp: 'image/webp',
  zip: 'application/zip',
}

/** Why a text cannot be the name of a file that others will see and open; `null`: it can. */
export function problemOfFileName(name: string): string | null {
  if (name === '' || name === '.' || name === '..' || /[\\/]/.test(name) || cut(name) !== name)
    return `must be one file name, without folders, of 1 to ${MAX_NAME_BYTES} bytes`
  return name.search(UNSEEN) === -1 && name.isWellFormed()
    ? null
    : 'must not contain control characters, nor others that are not seen'
}

/** What a worker says of an artifact. */
export interface ArtifactClaim {
  readonly name: string | null
  readonly mediaType: string | null
  /** Of its file; `null` where the data came in the event. */
  readonly path: string | null
}

/**
 * An artifact's name and media type as they are kept: the name is one file name, without folders and characters that are not seen, of at most 255 bytes; the type is the
 * declared one where it is well-formed, else what the name's extension stands for.
 */
export function labelArtifact({ name, mediaType, path }: ArtifactClaim): {
  readonly name: string
  readonly mediaType: string
} {
  const said = (name ?? path ?? '').split(/[\\/]/).at(-1) ?? ''
  const clean = cut(said.replace(UNSEEN, '_'))
  const kept = clean === '' || clean === '.' || clean === '..' ? 'artifact' : clean
  const declared = mediaType?.toLowerCase() ?? ''
  const extension = /\.([a-z0-9]+)$/i.exec(kept)?.[1]?.toLowerCase() ?? ''
  const byExtension = Object.hasOwn(BY_EXTENSION, extension) ? BY_EXTENSION[extension] : undefined
  return {
    name: kept,
    mediaType: MEDIA_TYPE.test(declared) ? declared : (byExtension ?? 'application/octet-stream'),
  }
}

function cut(name: string): string {
  let bytes = 0
  let end = 0
  for (const char of name) {
    bytes += Buffer.byteLength(char)
    if (bytes > MAX_NAME_BYTES) break
    end += char.length
  }
  return name.slice(0, end)
}
