/**
 * Any JSON value. What the parser hands on is nested 64 deep at most, its numbers are finite, and its texts and keys are without NUL and
 * lone surrogates. A key may be `__proto__`: copy with a spread or `Object.fromEntries`, never by assignment.
 */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject
export interface JsonObject {
  readonly [key: string]: JsonValue
}

/** What a worker may say on stdout: one JSON object per line, told apart by `event`. PROTOCOL.md has the meaning of each. */
export type WorkerEvent =
  | { readonly type: 'connection'; readonly status: string }
  | {
      readonly type: 'worker'
      readonly status: string
      readonly message: string | null
      /** 0..1 */
      readonly progress: number | null
    }
  | { readonly type: 'text_delta'; readonly delta: string }
  | { readonly type: 'text'; readonly content: string }
  | {
      readonly type: 'finish'
      readonly status: 'completed' | 'failed' | 'cancelled'
      /** A plain text in `error` has no code. */
      readonly error: { readonly code: string | null; readonly message: string } | null
    }
  | {
      readonly type: 'progress'
      readonly completed: number
      readonly total: number | null
      readonly unit: string | null
      readonly message: string | null
    }
  | { readonly type: 'result'; readonly value: JsonValue }
  | {
      readonly type: 'artifact'
      readonly source:
        | { readonly kind: 'path'; readonly path: string }
        | { readonly kind: 'data'; /** base64 */ readonly data: string }
      readonly name: string | null
      readonly mediaType: string | null
    }
  | { readonly type: 'usage'; readonly values: Readonly<Record<string, number>> }
  | { readonly type: 'log'; readonly level: string; readonly message: string }
  /** An `event` that the protocol does not know. `payload` is the whole object, `event` included, but for `task_id` and `seq`. */
  | { readonly type: 'custom'; readonly name: string; readonly payload: JsonObject }

export type FaultKind = 'LINE_TOO_LONG' | 'INVALID_JSON' | 'TOO_DEEP' | 'INVALID_FIELDS' | 'INVALID_UTF8'

/** A line that broke a rule of the protocol. The stream goes on behind it. */
export interface ProtocolFault {
  readonly kind: FaultKind
  /** The start of the line, at most 1,000 characters (UTF-16 code units). */
  readonly line: string
  /** What is wrong, for a person. */
  readonly detail: string
}
