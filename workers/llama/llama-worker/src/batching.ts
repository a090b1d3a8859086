import type { BatchingStrategy } from 'node-llama-cpp'

/**
 * Looks of the engine at what waits, between which a sequence that has its token comes to ask for the next: it needs some turns of the microtask queue, and
 * never one of the event loop, for all tokens of a step are there before the engine looks.
 */
const MAX_LOOKS = 32

/**
 * Which tokens the engine computes in its next step: of each sequence that waits at least one, and of a long prompt what room is left.
 *
 * A step costs little more for several sequences than for one, but the engine (3.22.1) begins the next as soon as any sequence waits, which leaves
 * out the one whose token came last: two at a time would never be computed together. Here it waits for all that are `busy`, and gives up after some looks: one
 * may be at its end, or not yet at its beginning.
 */
export function allTogether(busy: () => number): BatchingStrategy {
  let looks = 0
  return ({ items, size }) => {
    if (items.length < busy() && looks < MAX_LOOKS) {
      looks += 1
      return []
    }
    looks = 0
    let room = size
    const shortestFirst = [...items].sort((a, b) => a.tokens.length - b.tokens.length)
    return shortestFirst.flatMap((item, index) => {
      const share = Math.min(item.tokens.length, Math.floor(room / (shortestFirst.length - index)))
      room -= share
      return share > 0 ? [{ item, processAmount: share }] : []
    })
  }
}
