import { isAscii, isUtf8 } from 'node:buffer'
import { withoutNul } from './plain.ts'
import type { Redactor } from './redaction.ts'

const NEWLINE = 10
const CARRIAGE_RETURN = 13

/** Input is decoded in pieces of at most this many bytes, so that a large `feed` needs no large text. */
const PIECE_BYTES = 64 * 1024
/** A store for an unfinished line that has grown beyond this is given back when its line has ended. */
const KEPT_STORE_BYTES = 64 * 1024

/** Reads one stream of bytes. Synchronous: what a call completes has been handed on when it returns. */
export interface LineReader {
  /** Takes the next bytes, cut anywhere. They are valid only during the call: what is kept of them is copied. */
  feed(bytes: Uint8Array): void
  /** The stream has ended: what stands after the last newline is a line too. The next `feed` begins a new stream. */
  end(): void
}

export interface LineSink {
  /**
   * One line without its newline, and without the `\r` before it. NUL and what is no UTF-8 stand there as U+FFFD, so there are no lone
   * surrogates in it either. `truncated`: the line is longer than the limit, and `text` is the part of it within the limit.
   */
  line(text: string, truncated: boolean): void
}

export interface LineOptions {
  /** The most bytes of a line between two newlines, a `\r` at its end included; at least 1. */
  readonly maxLineBytes: number
}

export interface LineReaderOptions extends LineOptions {
  /** Asked for each line: what hides secrets before it is handed on; absent or `null`: there are none. */
  readonly redactor?: () => Redactor | null
}

/**
 * Cuts a stream of bytes into lines. Every line is handed on once, at its end; of an over-long one only what is within the limit is held,
 * and so is handed on. Holds at most one line's limit, and never throws on what it is fed. What the sink throws passes through, and the
 * reader is not to be used after it.
 */
export function createLineReader(sink: LineSink, { maxLineBytes, redactor }: LineReaderOptions): LineReader {
  return splitLines((text, truncated) => {
    sink.line(detached(redactor?.()?.line(text, truncated) ?? text), truncated)
  }, maxLineBytes)
}

/** A text that keeps alive no larger text that it was cut from. */
export function detached(text: string): string {
  return Buffer.from(text).toString()
}

/**
 * What `createLineReader` stands on. A `text` may be a part of a text of up to 64 KiB and keep all of it alive: `detached` cuts it loose.
 * `validUtf8`: no byte of it had to be replaced (NUL aside).
 */
export function splitLines(
  line: (text: string, truncated: boolean, validUtf8: boolean) => void,
  maxLineBytes: number,
): LineReader {
  if (!Number.isSafeInteger(maxLineBytes) || maxLineBytes < 1) {
    throw new RangeError(`maxLineBytes must be a positive integer, not ${maxLineBytes}`)
  }
  // So no complete line within a piece can be over-long: only one that is held from a piece before can become it.
  const pieceBytes = Math.min(PIECE_BYTES, maxLineBytes)

  // The start of the line that has no end yet.
  let store = Buffer.alloc(0)
  let heldBytes = 0
  let overlong = false

  function take(piece: Buffer): void {
    let start = 0
    if (heldBytes > 0) {
      const newline = piece.indexOf(NEWLINE)
      hold(newline === -1 ? piece : piece.subarray(0, newline))
      if (newline === -1) return
      release()
      start = newline + 1
    }
    const end = piece.lastIndexOf(NEWLINE) + 1
    if (end > start) deliver(piece.subarray(start, end))
    hold(piece.subarray(Math.max(start, end)))
  }

  function hold(bytes: Buffer): void {
    const room = maxLineBytes - heldBytes
    const kept = Math.min(room, bytes.length)
    if (heldBytes + kept > store.length) {
      // Twice as large each time: a line that comes byte by byte is copied a bounded number of times.
      const larger = Buffer.allocUnsafeSlow(Math.min(maxLineBytes, Math.max(4_096, 2 * (heldBytes + kept))))
      store.copy(larger, 0, 0, heldBytes)
      store = larger
    }
    bytes.copy(store, heldBytes, 0, kept)
    heldBytes += kept
    if (bytes.length > room) overlong = true
  }

  /** The held line has ended. */
  function release(): void {
    const bytes = store.subarray(0, overlong ? wholeCharacters(store, heldBytes) : heldBytes)
    const truncated = overlong
    heldBytes = 0
    overlong = false
    if (store.length > KEPT_STORE_BYTES) store = Buffer.alloc(0)
    deliverOne(bytes, truncated)
  }

  /** Hands on complete lines, the last newline included. They are decoded together, which costs a tenth of decoding each. */
  function deliver(run: Buffer): void {
    const ascii = isAscii(run)
    if (!ascii && !isUtf8(run)) {
      // Line by line, so that a broken one harms no other.
      let start = 0
      for (let end = run.indexOf(NEWLINE); end !== -1; end = run.indexOf(NEWLINE, start)) {
        deliverOne(run.subarray(start, end), false)
        start = end + 1
      }
      return
    }
    const text = withoutNul(run.toString(ascii ? 'latin1' : 'utf8'))
    let start = 0
    for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n', start)) {
      const returned = end > start && text.charCodeAt(end - 1) === CARRIAGE_RETURN
      line(text.slice(start, returned ? end - 1 : end), false, true)
      start = end + 1
    }
  }

  function deliverOne(bytes: Buffer, truncated: boolean): void {
    const returned = !truncated && bytes.at(-1) === CARRIAGE_RETURN
    const text = withoutNul(bytes.toString('utf8', 0, returned ? bytes.length - 1 : bytes.length))
    line(text, truncated, isUtf8(bytes))
  }

  return {
    feed(bytes) {
      const input = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      for (let at = 0; at < input.length; at += pieceBytes) take(input.subarray(at, at + pieceBytes))
    },
    end() {
      if (heldBytes > 0) release()
    },
  }
}

/** How many of the first `length` bytes are left when a character that is cut at their end is left out. */
function wholeCharacters(bytes: Buffer, length: number): number {
  for (let back = 1; back <= 3 && back <= length; back += 1) {
    const byte = bytes[length - back] ?? 0
    // 10xxxxxx goes on a character that began before.
    if (byte >= 0x80 && byte < 0xc0) continue
    const needs = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1
    return needs > back ? length - back : length
  }
  return length
}
