import type { FaultKind, JsonObject, ProtocolFault, WorkerEvent } from './events.ts'
import { FieldReader } from './fields.ts'
import { detached, splitLines, type LineReader, type LineOptions } from './lines.ts'
import { nestsDeeperThan } from './nesting.ts'
import { mayEscapeUnstorable } from './plain.ts'
import type { Redactor } from './redaction.ts'
import { readWorkerEvent } from './worker-event.ts'

/** The most bytes of a line, as the protocol has it. */
export const MAX_LINE_BYTES = 1024 * 1024
const MAX_DEPTH = 64
const FAULT_LINE_LENGTH = 1_000
const NOT_UTF8 = 'bytes that are not UTF-8 were replaced'

const OPENING_BRACE = 123
const OPENING_BRACKET = 91
const BYTE_ORDER_MARK = 0xfeff
const BEGINS_LIKE_AN_EVENT = /^[ \t\r]*\{[ \t\r]*"event"/

/**
 * Told what the lines of a worker's stdout are. Each line gives one `event`, one `log` or one `fault`, or nothing where it is blank; a
 * fault that does not cost the line (`INVALID_UTF8`, a mistyped optional field) comes directly before its `event` or `log`.
 */
export interface EventSink {
  /** `taskId` and `seq` are the line's `task_id` and `seq`; `null` where it has none. */
  event(event: WorkerEvent, taskId: string | null, seq: number | null): void
  /** A line that is no event. Never blank, and without NUL and lone surrogates. */
  log(line: string): void
  /**
   * `taskId` as far as the line told it. `seq` only where no `event` follows for the same line, so that each comes once; a line that
   * could not be read may have had one nevertheless.
   */
  fault(fault: ProtocolFault, taskId: string | null, seq: number | null): void
}

export interface EventParserOptions extends LineOptions {
  /** Asked for each line: what hides secrets before anything is made of it; `null`: there are none. */
  readonly redactor: () => Redactor | null
}

/** Turns the bytes of one stdout into calls of its sink. */
export type EventParser = LineReader

/**
 * Reads a worker's stdout by the rules of PROTOCOL.md. The same bytes give the same calls in whatever pieces they come, and every call is
 * made at the end of its line. Holds at most one line's limit (`maxLineBytes`, 1 MiB unless told), and never throws on what it is fed.
 * What the sink throws passes through, and the parser is not to be used after it; the sink must not feed the parser.
 */
export function createEventParser(sink: EventSink, options: Partial<EventParserOptions> = {}): EventParser {
  const { maxLineBytes = MAX_LINE_BYTES, redactor: redactorNow = none } = options

  function fault(
    kind: FaultKind,
    line: string,
    detail: string,
    taskId: string | null,
    seq: number | null,
  ): void {
    // Where the cut goes through a pair of surrogates, `detached` makes a U+FFFD of the half.
    sink.fault({ kind, line: detached(line.slice(0, FAULT_LINE_LENGTH)), detail }, taskId, seq)
  }

  function readLine(written: string, truncated: boolean, validUtf8: boolean): void {
    // What may be shown of the line. Where that is less than what was written, JSON is read from what was written all the same: a mark
    // in the place of a number would make it invalid.
    const redactor = redactorNow()
    const line = redactor === null ? written : redactor.line(written, truncated)
    if (truncated) {
      fault('LINE_TOO_LONG', line, `the line is longer than ${maxLineBytes} bytes`, null, null)
      return
    }
    const json = written.charCodeAt(0) === BYTE_ORDER_MARK ? written.slice(1) : written
    const first = firstCharacter(json)
    if ((first === OPENING_BRACE || first === OPENING_BRACKET) && nestsDeeperThan(MAX_DEPTH, json)) {
      fault('TOO_DEEP', line, `nested deeper than ${MAX_DEPTH}`, null, null)
      return
    }
    if (first === OPENING_BRACE) {
      const parsed = parseObject(json)
      const object =
        parsed !== null && redactor !== null && line !== written ? redactor.object(parsed) : parsed
      const name = object?.['event']
      if (object !== null && typeof name === 'string') {
        readEvent(name, object, mayEscapeUnstorable(json), line, validUtf8)
        return
      }
      if (object === null && BEGINS_LIKE_AN_EVENT.test(json)) {
        fault('INVALID_JSON', line, 'begins like an event, but is not valid JSON', null, null)
        return
      }
    }
    if (line.trim() === '') return
    if (!validUtf8) fault('INVALID_UTF8', line, NOT_UTF8, null, null)
    sink.log(detached(line))
  }

  function readEvent(
    name: string,
    object: JsonObject,
    escaped: boolean,
    line: string,
    validUtf8: boolean,
  ): void {
    const read = new FieldReader(escaped)
    const taskId = read.optionalText('task_id', object['task_id'])
    const seq = read.optionalNumber('seq', object['seq'], 'a positive integer', isPositiveInteger)
    // An event of an unreadable task, or of an unreadable place among its neighbours, must not pass for another.
    const event = read.complaint === '' ? readWorkerEvent(name, object, read) : null
    if (!validUtf8) fault('INVALID_UTF8', line, NOT_UTF8, taskId, null)
    if (read.complaint !== '') {
      fault('INVALID_FIELDS', line, read.complaint, taskId, event === null ? seq : null)
    }
    if (event !== null) sink.event(event, taskId, seq)
  }

  return splitLines(readLine, maxLineBytes)
}

function none(): null {
  return null
}

/** `null`: not JSON. */
function parseObject(json: string): JsonObject | null {
  try {
    // What begins with a brace and is JSON is an object.
    return JSON.parse(json) as JsonObject
  } catch {
    return null
  }
}

/** The first character that is not JSON's white space; `NaN` where there is none. */
function firstCharacter(text: string): number {
  let at = 0
  while (text[at] === ' ' || text[at] === '\t' || text[at] === '\r') at += 1
  return text.charCodeAt(at)
}

function isPositiveInteger(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0
}
