import type { TaskEvent, TaskEvents } from './follow-task.ts'

/** A change of a task's text. */
export interface TextPiece {
  /** What comes behind the text so far, or takes its place. */
  readonly text: string
  /** All pieces before are void: the worker said so, or another attempt has begun. */
  readonly replaces: boolean
}

/** The service keeps so many characters of a task's text. */
const MAX_TEXT_LENGTH = 16 * 1024 * 1024

/**
 * The text of a task as it comes into being, at most one piece per batch of events. All pieces put together are what the service gives as
 * the task's `text` (`''` where that is null).
 */
export function textOf(
  batches: AsyncIterableIterator<TaskEvents, undefined>,
): AsyncIterableIterator<TextPiece, undefined> {
  const text = createText()
  return {
    [Symbol.asyncIterator]() {
      return this
    },
    async next() {
      for (;;) {
        const batch = await batches.next()
        if (batch.done === true) return batch
        for (const event of batch.value.events) text.add(event)
        const piece = text.change()
        if (piece !== null) return { done: false, value: piece }
      }
    },
    async return() {
      await batches.return?.()
      return { done: true, value: undefined }
    },
  }
}

/** By the service's rule: the last `text` of the last attempt, else its deltas joined. */
function createText() {
  let attempt = 0
  /** The pieces of this attempt that were given away. */
  let given: string[] = []
  /** The deltas that were not. */
  let fresh: string[] = []
  /** Of all deltas of this attempt, in characters. */
  let length = 0
  /** It has said its whole text: its deltas do not count. */
  let hasWhole = false
  /** Such a text that was not given away. */
  let whole: string | null = null
  let isVoid = false

  return {
    add(event: TaskEvent): void {
      if (event.attempt !== attempt) {
        attempt = event.attempt
        isVoid ||= given.length > 0
        given = []
        fresh = []
        length = 0
        hasWhole = false
        whole = null
      }
      if (event.__typename === 'TextDeltaEvent' && !hasWhole && length < MAX_TEXT_LENGTH) {
        fresh.push(event.delta.slice(0, MAX_TEXT_LENGTH - length))
        length += event.delta.length
      } else if (event.__typename === 'TextEvent') {
        hasWhole = true
        fresh = []
        whole = event.content.slice(0, MAX_TEXT_LENGTH)
      }
    },
    /** What has changed since the last time; `null`: nothing. */
    change(): TextPiece | null {
      let text = fresh.join('')
      let replaces = isVoid
      if (whole !== null) {
        const before = given.join('')
        replaces ||= !whole.startsWith(before)
        text = replaces ? whole : whole.slice(before.length)
        if (replaces) given = []
      }
      fresh = []
      whole = null
      isVoid = false
      if (text !== '') given.push(text)
      return text === '' && !replaces ? null : { text, replaces }
    },
  }
}
