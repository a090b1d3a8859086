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
 * in the field `err`, which is written with its stack and its causes. Every line is written before the call returns.
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
      })
    : (options.destination ?? destination(stderr))
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, stream)
}
