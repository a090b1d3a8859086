import { passing } from './error.ts'
import { createLatest, Leg } from './leg.ts'
import type { Operation } from './operation.ts'
import { type ResumeOptions, type Resumer, resuming } from './resuming.ts'

export interface Watched<R, V, T> {
  readonly operation: Operation<'subscription', R, V>
  readonly variables: V
  readonly valueOf: (data: R) => T
  /**
   * Of things that end and are not given any more after that: whether this is such an end, and how the thing is now. So an end is not
   * missed that came while the connection was broken.
   */
  readonly ends: {
    readonly isEnd: (value: T) => boolean
    readonly read: (id: string, signal: AbortSignal) => Promise<T | null>
  } | null
}

/** How long the service may take to say what there is, before what it has not named is asked for one by one. */
const CHECK_MS = 500
const MAX_CHECK_MS = 30_000

/**
 * First all that there is, then every change, as it is after the change. After a broken connection all that there is comes again. A consumer
 * that is slow gets the latest state of each thing, not every one between.
 */
export function watch<R, V extends Record<string, unknown>, T extends { readonly id: string }>(
  resumer: Resumer,
  { operation, variables, valueOf, ends }: Watched<R, V, T>,
  options: ResumeOptions,
): AsyncIterableIterator<T, undefined> {
  /** What was given and has not ended, by id. */
  const living = new Set<string>()

  return resuming(resumer, options, async function* (stop, worked) {
    // What is not named again may have ended in between.
    const unsure = new Set(living)
    let checkMs = CHECK_MS
    const leg = await Leg.open(resumer.wire, operation, variables, {
      shelf: createLatest<T>(({ id }) => id),
      valueOf,
      signal: stop,
    })
    try {
      for (;;) {
        const taken = await leg.take(unsure.size > 0 ? checkMs : undefined)
        if (taken.kind === 'values') {
          worked()
          for (const value of taken.values) yield noted(value)
        } else if (taken.kind === 'quiet' && ends !== null) {
          checkMs = Math.min(2 * checkMs, MAX_CHECK_MS)
          for (const id of unsure) {
            const value = await ends.read(id, stop)
            if (value === null) living.delete(id)
            // One that has not ended is named by the service, sooner or later.
            if (value !== null && ends.isEnd(value) && living.has(id)) yield noted(value)
            if (!living.has(id)) unsure.delete(id)
          }
        } else {
          throw passing('DISCONNECTED', 'The service ended a subscription that has no end.')
        }
      }
    } finally {
      leg.close()
    }

    function noted(value: T): T {
      unsure.delete(value.id)
      if (ends?.isEnd(value) === true) living.delete(value.id)
      else if (ends !== null) living.add(value.id)
      return value
    }
  })
}
