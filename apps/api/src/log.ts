import { type DestinationStream, destination, type Logger as PinoLogger, pino } from 'pino'
import { PinoPretty } from 'pino-pretty'
import type { LogLevel } from './config.ts'

export interface LogOptions {
  readonly level: LogLevel
  /** Where to write; stderr unless given, so that stdout holds what the service says to the person or script that started it. */
  readonly destination?: DestinationStream
  /** Lines for a person instead of JSON; unless given, what fits stderr: a terminal gets them. */
  readonly pretty?: boolean
}

/**
 * The service's log: a JSON object per line with `level`, `time` (RFC 3339), `msg` and the fields that it was called with; an error belongs
 * in the field `err`, which is written with its stack and its causes. Every line is written before the call returns. Whatever words it holds,
 * they stay in their place: none begins a line, and no terminal acts on one.
 */
export function createLogger(options: LogOptions): PinoLogger {
  const stderr = { dest: 2, sync: true }
  const { level, pretty = options.destination === undefined && process.stderr.isTTY } = options
  const stream = pretty
    ? PinoPretty({
        ...(options.destination === undefined
          ? { destination: stderr.dest }
          : { destination: options.destination }),
        sync: true,
        colorize: options.destination === undefined,
        translateTime: 'SYS:HH:MM:ss.l',
        ignore: 'pid,hostname',
        messageFormat: (line, messageKey) => String(line[messageKey]).replaceAll('\n', '\\n'),
      })
    : (options.destination ?? destination(stderr))
  const write = (line: string): void => {
    stream.write(pretty ? asWritten(escaped(line)) : escaped(line))
  }
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, { write })
}

/** JSON leaves them as they are: control characters beyond ASCII, other ends of lines, and what turns the direction of what is shown. */
const UNSEEN = /[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g

/** The same JSON. */
function escaped(line: string): string {
  return line.replace(UNSEEN, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** JSON whose texts hold the escapes themselves, but for the ends of their lines. */
function asWritten(line: string): string {
  return line.replace(/\\(\\|[bfr]|u[0-9a-f]{4})/g, (escape, what) =>
    what === '\\' ? escape : `\\${escape}`,
  )
}
