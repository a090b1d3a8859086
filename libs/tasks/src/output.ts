import type { TaskEventBody } from './event.ts'
import type { TaskOutput } from './task.ts'

/** The most characters of output text that are kept as `text`; the events keep all. */
export const MAX_TEXT_LENGTH = 16 * 1024 * 1024

/** Puts a task's output together from its events, one after the other. */
export interface OutputBuilder {
  add(body: TaskEventBody): void
  /** `earlier` was given the events before the first of this one's. */
  build(earlier?: OutputBuilder): TaskOutput
  /** What the events come to, by kind. */
  readonly parts: OutputParts
}

interface OutputParts {
  /** The last `text`. */
  readonly whole: string | null
  /** All deltas. */
  readonly joined: string
  /** `undefined`: none. */
  readonly result: TaskOutput['result'] | undefined
  readonly usage: TaskOutput['usage']
}

/**
 * The rule of what a task's output is: the last `text`, else all `text_delta` joined (each cut at `MAX_TEXT_LENGTH` characters); the
 * last `result`; of `usage` the latest value per name.
 */
export function createOutputBuilder(): OutputBuilder {
  let whole: string | null = null
  let joined = ''
  // Deltas since the last join: appending each to one string makes a rope as deep as the text is long.
  let pieces: string[] = []
  let length = 0
  let result: TaskOutput['result'] | undefined
  let usage: Record<string, number> | null = null

  function join(): void {
    joined += pieces.join('')
    pieces = []
  }

  return {
    get parts() {
      join()
      return { whole, joined, result, usage }
    },
    add(body) {
      switch (body.type) {
        case 'text_delta':
          if (length >= MAX_TEXT_LENGTH) return
          pieces.push(body.delta.slice(0, MAX_TEXT_LENGTH - length))
          length += body.delta.length
          if (pieces.length >= 1_000) join()
          return
        case 'text':
          whole = body.content.slice(0, MAX_TEXT_LENGTH)
          return
        case 'result':
          result = body.value
          return
        case 'usage':
          usage = { ...usage, ...body.values }
          return
        default:
      }
    },
    build(earlier) {
      join()
      const before = earlier?.parts
      const deltas = ((before?.joined ?? '') + joined).slice(0, MAX_TEXT_LENGTH)
      return {
        text: whole ?? before?.whole ?? (deltas === '' ? null : deltas),
        result: (result === undefined ? before?.result : result) ?? null,
        usage: before?.usage == null ? usage : { ...before.usage, ...usage },
      }
    },
  }
}
