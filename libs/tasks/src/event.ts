import type { JsonObject, JsonValue } from './json.ts'
import type { ArtifactId } from './ids.ts'
import type { TaskStatus } from './task.ts'

/** A file that a task produced, as its row describes it. */
export interface Artifact {
  readonly id: ArtifactId
  readonly name: string
  readonly mediaType: string
  readonly bytes: number
  /** Lower-case hex. */
  readonly sha256: string
}

/** A code for programs and a sentence for people. */
export interface TaskError {
  readonly code: string
  readonly message: string
}

export type LogStream = 'STDOUT' | 'STDERR'

/** What one event says, without its place in the task's log. */
export type TaskEventBody =
  | { readonly type: 'status'; readonly taskStatus: TaskStatus; readonly reason: string | null }
  | { readonly type: 'connection'; readonly status: string }
  | {
      readonly type: 'worker'
      readonly status: string
      readonly message: string | null
      readonly progress: number | null
    }
  | { readonly type: 'text_delta'; readonly delta: string }
  | { readonly type: 'text'; readonly content: string }
  | { readonly type: 'finish'; readonly status: string; readonly error: TaskError | null }
  | {
      readonly type: 'progress'
      readonly completed: number
      readonly total: number | null
      readonly unit: string | null
      readonly message: string | null
    }
  | { readonly type: 'result'; readonly value: JsonValue }
  | { readonly type: 'artifact'; readonly artifact: Artifact }
  | { readonly type: 'usage'; readonly values: Readonly<Record<string, number>> }
  | { readonly type: 'log'; readonly stream: LogStream; readonly level: string | null; readonly line: string }
  | { readonly type: 'custom'; readonly name: string; readonly payload: JsonObject }
  | { readonly type: 'fault'; readonly kind: string; readonly line: string; readonly detail: string }
  | { readonly type: 'gap'; readonly detail: string }

/** One thing that a task said or did. */
export interface TaskEvent {
  /** 1..n within the task, without a hole. */
  readonly seq: number
  /** When it happened, in milliseconds since 1970. */
  readonly at: number
  /** The attempt that it belongs to; 0 before the first start. */
  readonly attempt: number
  readonly body: TaskEventBody
}
