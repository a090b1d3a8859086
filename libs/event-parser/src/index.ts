export type * from './events.ts'
export { createLineReader, type LineReader, type LineOptions, type LineSink } from './lines.ts'
export { createEventParser, MAX_LINE_BYTES, type EventParser, type EventSink } from './parser.ts'
