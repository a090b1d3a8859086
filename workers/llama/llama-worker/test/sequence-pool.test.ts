import type { LlamaContextSequence, Token } from 'node-llama-cpp'
import { expect, test } from 'vitest'
import { createSequencePool } from '../src/sequence-pool.ts'

const tokens = (text: string): Token[] => Array.from(text, (letter) => letter.charCodeAt(0) as Token)

/** What a sequence is to the pool: tokens that it holds. */
class Held implements LlamaContextSequence {
  held: Token[] = []
  readonly tokenMeter = { usedOutputTokens: 0 }
  get nextTokenIndex(): number {
    return this.held.length
  }
  compareContextTokens(other: Token[]): { firstDifferentIndex: number } {
    const different = this.held.findIndex((token, index) => token !== other[index])
    return { firstDifferentIndex: different === -1 ? this.held.length : different }
  }
  adaptStateToTokens(): Promise<void> {
    return Promise.resolve()
  }
  evaluateWithoutGeneratingNewTokens(): Promise<void> {
    return Promise.resolve()
  }
}

function stage(count: number): { take: (prompt: string) => () => void; held: () => string[] } {
  const all = Array.from({ length: count }, () => new Held())
  const pool = createSequencePool(all)
  return {
    /** Takes one for a prompt and says it; what is given lets go of it. */
    take(prompt) {
      const { sequence, release } = pool.take(tokens(prompt))
      for (const held of all) if (held === sequence) held.held = tokens(prompt)
      return release
    },
    held: () => all.map(({ held }) => String.fromCharCode(...held)),
  }
}

test('a conversation that goes on finds its own place again', () => {
  const { take, held } = stage(3)
  take('one')()
  take('two')()
  take('one, and more')()
  expect(held()).toEqual(['one, and more', 'two', ''])
})

test('a new one takes the place that was not used for the longest time', () => {
  const { take, held } = stage(2)
  take('one')()
  take('two')()
  take('one, and more')()
  take('six')()
  expect(held()).toEqual(['one, and more', 'six'])
})

test('the common beginning of all is no reason to push out another conversation', () => {
  const { take, held } = stage(2)
  take('hi, tell me all about the old days')()
  take('hi, sing')()
  expect(held()).toEqual(['hi, tell me all about the old days', 'hi, sing'])
})

test('one that is taken is not given to another', () => {
  const { take, held } = stage(2)
  const release = take('one')
  take('one too')
  expect(held()).toEqual(['one', 'one too'])
  expect(() => take('one')).toThrow('all 2 sequences are taken')
  release()
  take('one')
})
