export type * from './events.ts'
export { createLineReader, type LineReader, type LineOptions, type LineSink } from './lines.ts'
export {
  createEventParser,
  MAX_LINE_BYTES,
  type EventParser,
  type EventParserOptions,
  type EventSink,
} from './parser.ts'
export { createRedactor, type HiddenText, type Redactor } from './redaction.ts'
