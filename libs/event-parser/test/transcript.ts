import {
  createEventParser,
  createLineReader,
  type LineOptions,
  type ProtocolFault,
  type WorkerEvent,
} from '../src/index.ts'

/** What a parser said, in order. */
export type Call =
  | { readonly event: WorkerEvent; readonly taskId: string | null; readonly seq: number | null }
  | { readonly log: string }
  | { readonly fault: ProtocolFault; readonly taskId: string | null; readonly seq: number | null }

export type Line = readonly [text: string, truncated: boolean]

/** All that the parser says to a stream that comes in these pieces, its end included. */
export function transcriptOf(pieces: Iterable<Uint8Array>, options?: LineOptions): Call[] {
  const calls: Call[] = []
  const parser = createEventParser(
    {
      event: (event, taskId, seq) => calls.push({ event, taskId, seq }),
      log: (log) => calls.push({ log }),
      fault: (fault, taskId, seq) => calls.push({ fault, taskId, seq }),
    },
    options,
  )
  for (const piece of pieces) parser.feed(lent(piece))
  parser.end()
  return calls
}

/** The same for one text that comes at once. */
export function read(text: string, options?: LineOptions): Call[] {
  return transcriptOf([Buffer.from(text)], options)
}

/** The events alone. */
export function eventsOf(text: string): WorkerEvent[] {
  return read(text).flatMap((call) => ('event' in call ? [call.event] : []))
}

/** Each call in a word: an event's type, `log`, or the fault's kind. */
export function outlineOf(calls: readonly Call[]): string[] {
  return calls.map((call) => ('event' in call ? call.event.type : 'log' in call ? 'log' : call.fault.kind))
}

export function linesOf(pieces: Iterable<Uint8Array>, maxLineBytes: number): Line[] {
  const lines: Line[] = []
  const reader = createLineReader(
    { line: (text, truncated) => lines.push([text, truncated]) },
    { maxLineBytes },
  )
  for (const piece of pieces) reader.feed(lent(piece))
  reader.end()
  return lines
}

/** The bytes cut at these places. */
export function cutAt(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const inside = places.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b)
  return [0, ...inside].map((start, index) => bytes.subarray(start, inside[index] ?? bytes.length))
}

export function byteByByte(bytes: Uint8Array): Uint8Array[] {
  return Array.from(bytes, (byte) => Uint8Array.of(byte))
}

const LENDER = new Uint8Array(4 * 1024 * 1024)

/** The bytes in a buffer that the next call overwrites, as a reader of a stream lends them. */
function lent(bytes: Uint8Array): Uint8Array {
  LENDER.fill(0x2a, 0, Math.max(bytes.length, 64))
  LENDER.set(bytes)
  return LENDER.subarray(0, bytes.length)
}
