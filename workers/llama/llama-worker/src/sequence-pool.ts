import type { LlamaContextSequence, Token } from 'node-llama-cpp'

/** The places in the model's memory in which tasks are computed, one each. */
export interface SequencePool {
  /**
   * Takes the place that still holds the beginning of `prompt`, where a task of the same conversation has left one behind, else the one that was
   * not used for the longest time. As many may be taken at a time as there are; `release` gives it back, with what it holds.
   */
  take(prompt: Token[]): { readonly sequence: LlamaContextSequence; readonly release: () => void }
  /** How many are taken. */
  readonly busy: number
}

export function createSequencePool(sequences: readonly LlamaContextSequence[]): SequencePool {
  /** The one that was used last stands last. */
  const idle = [...sequences]

  /** How much of `prompt` a sequence holds; 0 where taking it would cost another conversation more than this one gains. */
  function worthOf(sequence: LlamaContextSequence, prompt: Token[]): number {
    const { firstDifferentIndex } = sequence.compareContextTokens(prompt)
    return firstDifferentIndex * 2 >= sequence.nextTokenIndex ? firstDifferentIndex : 0
  }

  return {
    take(prompt) {
      let best = 0
      let bestWorth = 0
      for (const [index, sequence] of idle.entries()) {
        const worth = worthOf(sequence, prompt)
        if (worth > bestWorth) [best, bestWorth] = [index, worth]
      }
      const [sequence] = idle.splice(best, 1)
      if (sequence === undefined) throw new Error(`all ${sequences.length} sequences are taken`)
      return { sequence, release: () => idle.push(sequence) }
    },
    get busy() {
      return sequences.length - idle.length
    },
  }
}
