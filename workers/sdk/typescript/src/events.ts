import { writeSync } from 'node:fs'
import { toJson } from './json.ts'
import { note } from './note.ts'

const MAX_LINE_BYTES = 1024 * 1024
const RETRY_MS = 1

/** The worker's events on their way to the service: each one whole line, counted, and gone when `emit` returns. */
export interface Events {
  /** Throws where the line would be longer than the protocol allows. Once nobody reads any more, what is said is dropped. */
  emit(event: string, taskId: string | null, fields: object): void
  readonly isBroken: boolean
}

/** Writes events to a descriptor; `onBroken` is called once where nobody reads it any more. */
export function createEvents(descriptor: number, onBroken: () => void): Events {
  let seq = 0
  let isBroken = false

  function write(line: Buffer): void {
    for (let at = 0; at < line.length;) {
      try {
        at += writeSync(descriptor, line, at)
      } catch (error) {
        if (codeOf(error) === 'EAGAIN') {
          // The pipe is full and does not block: its other end may be shared with somebody who wants it so.
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS)
          continue
        }
        isBroken = true
        note(`nobody reads the events any more (${codeOf(error) ?? String(error)})`)
        onBroken()
        return
      }
    }
  }

  return {
    emit(event, taskId, fields) {
      const envelope = { event, seq: seq + 1, ...(taskId !== null && { task_id: taskId }) }
      // First, and not to be overwritten by a field of the same name.
      const line = Buffer.from(`${toJson({ ...envelope, ...fields, ...envelope })}\n`, 'latin1')
      if (line.length > MAX_LINE_BYTES) {
        throw new RangeError(
          `a ${event} event of ${line.length} bytes is too long: write it into a file and announce it with task.save()`,
        )
      }
      seq += 1
      if (!isBroken) write(line)
    },
    get isBroken() {
      return isBroken
    },
  }
}

function codeOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null
}
