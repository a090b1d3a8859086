import type { OutputCursor, OutputStream, WorkerOutput } from '@gpu-service/tasks'

/*
 * The engine's log answers are frames: a header of 8 bytes (stream, three zeros, length), then with `timestamps` a stamp of 30 bytes and
 * a space, then one line with its newline, or a part of a line over 16 KiB without one. All parts of a line bear the same stamp.
 */
const HEADER_BYTES = 8
const STAMP_BYTES = 30
const PREFIX_BYTES = HEADER_BYTES + STAMP_BYTES + 1
/** The kind of a frame that holds no entry, but an error of the engine. */
const ENGINE_SPEAKS = 3
const NEWLINE = 0x0a
const SPACE = 0x20
const ZULU = 0x5a
/** Where the microseconds begin in `2026-11-23T13:09:00.123456789Z`: stamps that first differ from here on are of one millisecond. */
const MICROSECONDS_AT = 23
const MAX_ERROR_TEXT = 1_000
/** Entries of the two streams that are further apart in time stand in the log in their order (seen: up to 12 ms out of it). */
const DISORDER_MS = 1_000

/** The engine's answer is not a readable log: it says so itself in the middle of it, or it is not of Docker's form. */
export class LogFormatError extends Error {
  override readonly name = 'LogFormatError'
}

/** Reads one worker's log over any number of answers of the engine, and never yields a byte twice or leaves one out. */
export interface LogReader {
  /**
   * Begins a new answer, which holds at least all that is not read yet. Where it begins with the log's last `tail` entries, they may be too
   * few: nothing is yielded until the last entry that was read has been found among them.
   */
  begin(tail: number | null): void
  /** The engine's `since` for the next answer; `null`: the whole log is needed. */
  since(): string | null
  /**
   * When the run began (in milliseconds since 1970) whose lines are read, by the cursors or as it is told here first: a container can be
   * started again, and its log goes on.
   */
  runOf(startedAt: number): number
  /** Whether the last entry that was read could be recognised in a `tail` answer. */
  canRecognise(): boolean
  /**
   * What stands in the next stretch of the answer, one item per run of one stream and one millisecond. The items' bytes lie in `chunk`, which
   * is overwritten. Throws `LogFormatError`.
   */
  read(chunk: Buffer): Generator<WorkerOutput, void, void>
  /** True once a `tail` answer turned out to begin too late: nothing of it was yielded, and nothing will be. */
  readonly beganTooLate: boolean
  /** To be asked at the proper end of an answer to a finished log: `null`, or what of the log was not there any more. */
  missing(): string | null
  /** False where an answer has ended inside of an entry, or a `tail` answer without the last entry that was read. */
  endedWell(): boolean
}

/** How far one stream has been read, and what the current answer repeats of it. */
interface Place {
  readonly stream: OutputStream
  /** The stamp of the last complete line; zeros, which sort before every stamp, where there is none. */
  readonly stamp: Buffer
  /** Complete lines at that stamp. */
  lines: number
  /** Complete lines since the worker's start. */
  total: number
  /** How many lines of the other stream stand before the end of the last complete line; `null`: a part of one more does, or it is not known. */
  beside: number | null
  /** Bytes read after the last complete line. */
  partialBytes: number
  /** The host's clock went back: stamps say nothing any more, only the number of lines does. */
  stepped: boolean
  skipping: boolean
  skipLines: number
  skipBytes: number
}

export function createLogReader(after: OutputCursor): LogReader {
  const cursors = { stdout: parseCursor('stdout', after.stdout), stderr: parseCursor('stderr', after.stderr) }
  const stdout = cursors.stdout.place
  const stderr = cursors.stderr.place
  /** When the worker's run began, as the engine says it; 0: not known yet. */
  let run = cursors.stdout.run || cursors.stderr.run
  const head = Buffer.alloc(PREFIX_BYTES)
  let headBytes = 0
  /** The stream that spoke last: all that stands before its place in the log has been read, of both streams. */
  let last: Place | null = lastOf(cursors.stdout, cursors.stderr)
  /** While it is set, nothing is yielded until this place has been found in the answer. */
  let sought: Place | null = null
  let soughtAt = 0
  /** The answer began before any line of the sought one's stamp: those of its stamp can be counted. */
  let soughtSeenOlder = false
  /** In how many more entries it must be found. */
  let soughtWithin = 0
  let beganTooLate = false
  let missing: string | null = null

  // The entry that is under way.
  let place = stdout
  let at = 0
  let left = 0
  let skip = 0
  let counts = false
  let passes = false
  let order = 0
  const stamp = Buffer.alloc(STAMP_BYTES)

  function found(found: Place): void {
    found.skipping = false
    if (sought === null) return
    sought = null
    stdout.skipping = false
    stderr.skipping = false
  }

  /** Decides how much of an entry was read before. False: the answer began too late. */
  function admit(size: number): boolean {
    counts = false
    passes = true
    skip = 0
    if (sought !== null && --soughtWithin < 0) return false
    if (sought !== null && place !== sought) {
      soughtSeenOlder ||= at + DISORDER_MS < soughtAt
      passes = false
      skip = size
      return true
    }
    if (!place.skipping) return true
    if (place.stepped ? place.skipLines > 0 : order < 0) {
      soughtSeenOlder = true
      counts = place.stepped
      passes = false
      skip = size
      return true
    }
    if (sought !== null && (!soughtSeenOlder || (order > 0 && place.skipLines > 0))) return false
    if (order === 0 && place.skipLines > 0) {
      counts = true
      passes = false
      skip = size
      return true
    }
    if (place.skipLines > 0) {
      missing = lostLines(place.stream)
      place.skipLines = 0
      place.skipBytes = 0
    }
    skip = Math.min(place.skipBytes, size)
    place.skipBytes -= skip
    passes = size > skip
    if (place.skipBytes === 0) found(place)
    return true
  }

  /** Moves the place over bytes that are yielded. An entry of which only the header has come was not read: it does not speak last. */
  function took(bytes: number): void {
    if (bytes === 0) return
    place.partialBytes += bytes
    last = place
  }

  /** Moves the place over a complete entry. */
  function close(endsLine: boolean, prefix: Buffer, stampAt: number): void {
    if (!endsLine) return
    if (counts) {
      place.skipLines -= 1
      if (place.skipLines === 0 && place.skipBytes === 0) found(place)
      return
    }
    if (!passes) return
    place.total += 1
    place.partialBytes = 0
    const other = place === stdout ? stderr : stdout
    place.beside = other.partialBytes === 0 ? other.total : null
    if (order === 0) {
      place.lines += 1
      return
    }
    if (order < 0) place.stepped = true
    prefix.copy(place.stamp, 0, stampAt, stampAt + STAMP_BYTES)
    place.lines = 1
  }

  function data(bytes: Buffer): WorkerOutput {
    return { kind: 'data', stream: place.stream, bytes, cursor: cursorText(place, run), at }
  }

  return {
    begin(tail) {
      headBytes = 0
      left = 0
      beganTooLate = false
      soughtSeenOlder = false
      sought = tail === null ? null : last
      soughtAt = sought === null ? 0 : Date.parse(`${sought.stamp.toString('latin1', 0, MICROSECONDS_AT)}Z`)
      soughtWithin = tail ?? 0
      for (const each of [stdout, stderr]) {
        each.skipLines = each.stepped ? each.total : each.lines
        each.skipBytes = each.partialBytes
        each.skipping = each.skipLines > 0 || each.skipBytes > 0
      }
    },

    since() {
      // The smaller of the two: the streams' stamps are in order only within each stream.
      if ([stdout, stderr].some((each) => each.stepped || each.total === 0)) return null
      const older = stdout.stamp.compare(stderr.stamp) < 0 ? stdout : stderr
      const text = older.stamp.toString('latin1')
      // The clock went back since: what came after it would be left out by its stamps.
      if (Date.parse(`${text.slice(0, MICROSECONDS_AT)}Z`) > Date.now()) return null
      return `${Date.parse(`${text.slice(0, 19)}Z`) / 1_000}.${text.slice(20, 29)}`
    },

    runOf(startedAt) {
      run ||= startedAt
      return run
    },

    canRecognise: () => last !== null && last.lines > 0 && !last.stepped,

    *read(chunk) {
      let next = 0
      // What has been gathered for the next item, pushed together at the front of what it came from.
      let start = 0
      let end = 0
      while (next < chunk.length && !beganTooLate) {
        if (left > 0) {
          // An entry goes on from the last chunk.
          const stop = Math.min(chunk.length, next + left)
          const skipped = Math.min(skip, stop - next)
          left -= stop - next
          skip -= skipped
          next += skipped
          start = next
          end = stop
          if (passes) took(stop - next)
          next = stop
          if (left === 0) close(chunk[stop - 1] === NEWLINE, stamp, 0)
          continue
        }
        let prefix = chunk
        let prefixAt = next
        let prefixBytes = PREFIX_BYTES
        if (headBytes > 0 || chunk.length - next < PREFIX_BYTES) {
          const copied = chunk.copy(head, headBytes, next, next + PREFIX_BYTES - headBytes)
          headBytes += copied
          if (head[0] !== ENGINE_SPEAKS && headBytes < PREFIX_BYTES) break
          next += copied
          prefix = head
          prefixAt = 0
          prefixBytes = headBytes
          headBytes = 0
        } else {
          next += PREFIX_BYTES
        }
        const kind = prefix[prefixAt]
        const size = prefix.readUInt32BE(prefixAt + 4) - STAMP_BYTES - 1
        const speaks = kind === 1 ? stdout : kind === 2 ? stderr : null
        if (
          speaks === null ||
          size < 0 ||
          prefix[prefixAt + PREFIX_BYTES - 1] !== SPACE ||
          prefix[prefixAt + PREFIX_BYTES - 2] !== ZULU
        ) {
          if (end > start) yield data(chunk.subarray(start, end))
          const text = [
            prefix.subarray(prefixAt + HEADER_BYTES, prefixAt + prefixBytes),
            chunk.subarray(next),
          ]
          throw unreadable(kind, Buffer.concat(text))
        }
        const stampAt = prefixAt + HEADER_BYTES
        let same = 0
        while (same < STAMP_BYTES && prefix[stampAt + same] === speaks.stamp[same]) same += 1
        if (speaks !== place || same < MICROSECONDS_AT || end === start) {
          if (end > start) yield data(chunk.subarray(start, end))
          start = next
          end = next
          at = Date.parse(`${prefix.toString('latin1', stampAt, stampAt + MICROSECONDS_AT)}Z`)
        }
        place = speaks
        order = same === STAMP_BYTES ? 0 : (prefix[stampAt + same] ?? 0) > (speaks.stamp[same] ?? 0) ? 1 : -1
        if (speaks.skipping || sought !== null) {
          if (!admit(size)) {
            beganTooLate = true
            return
          }
          if (missing !== null) yield { kind: 'gap', certain: true, detail: missing }
          missing = null
        } else {
          counts = false
          passes = true
          skip = 0
        }
        const stop = next + size
        if (stop > chunk.length) {
          // The rest comes with the next chunk, when the stamp is no longer at hand.
          prefix.copy(stamp, 0, stampAt, stampAt + STAMP_BYTES)
          left = stop - chunk.length
          const from = Math.min(chunk.length, next + skip)
          skip -= from - next
          if (passes) {
            chunk.copyWithin(end, from, chunk.length)
            end += chunk.length - from
            took(chunk.length - from)
          }
          break
        }
        if (passes) took(size - skip)
        close(chunk[stop - 1] === NEWLINE, prefix, stampAt)
        if (passes) {
          chunk.copyWithin(end, next + skip, stop)
          end += size - skip
        }
        skip = 0
        next = stop
      }
      if (end > start) yield data(chunk.subarray(start, end))
    },

    get beganTooLate() {
      return beganTooLate
    },

    missing() {
      const gone = [stdout, stderr].filter((each) => each.skipping).map((each) => each.stream)
      return gone.length > 0 ? lostLines(gone.join(' and ')) : null
    },

    endedWell: () => left === 0 && headBytes === 0 && sought === null && !beganTooLate,
  }
}

function unreadable(kind: number | undefined, text: Buffer): LogFormatError {
  return new LogFormatError(
    kind === ENGINE_SPEAKS
      ? `the engine could not read the log: ${text.toString('utf8', 0, MAX_ERROR_TEXT)}`
      : "the engine's log is not of Docker's form",
  )
}

function lostLines(streams: string): string {
  return `lines of ${streams} that had been read are not in the engine's log any more; unread ones may be gone with them`
}

const CURSOR =
  /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z),(\d{1,15}),(\d{1,15})(,stepped)?(?:,run(\d{1,15}))?(?:,with(\d{1,15}))?$/

/** `with`: the place's `beside`. */
function cursorText({ stamp, lines, total, stepped, beside }: Place, run: number): string {
  if (total === 0) return ''
  const besides = beside === null ? '' : `,with${beside}`
  return `${stamp.toString('latin1')},${lines},${total}${stepped ? ',stepped' : ''},run${run}${besides}`
}

interface Cursor {
  readonly place: Place
  /** When the run began that it is of; 0: not known. */
  readonly run: number
}

function parseCursor(stream: OutputStream, text: string): Cursor {
  const fresh = { stream, beside: null, partialBytes: 0, skipping: false, skipLines: 0, skipBytes: 0 }
  if (text === '') {
    const place = { ...fresh, stamp: Buffer.alloc(STAMP_BYTES), lines: 0, total: 0, stepped: false }
    return { place, run: 0 }
  }
  const [, stamp, lines, total, stepped, run, beside] = CURSOR.exec(text) ?? []
  if (stamp === undefined) throw new TypeError(`not a cursor of this runner: ${text.slice(0, 100)}`)
  return {
    place: {
      ...fresh,
      stamp: Buffer.from(stamp, 'latin1'),
      lines: Number(lines),
      total: Number(total),
      stepped: stepped !== undefined,
      beside: beside === undefined ? null : Number(beside),
    },
    run: Number(run ?? 0),
  }
}

/** The one of the two streams that spoke last before the reader of these cursors stopped: it knew all that was read of the other. */
function lastOf(one: Cursor, other: Cursor): Place | null {
  for (const [{ place }, { place: silent }] of [
    [one, other],
    [other, one],
  ] as const)
    if (place.beside === silent.total) return place
  return null
}
