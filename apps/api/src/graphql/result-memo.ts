// Subscribers that share come within the same few milliseconds; what is kept for longer only keeps events from being collected.
const MAX_CHARACTERS = 1024 * 1024
const MAX_VALUES = 256
const MAX_TEXTS_PER_VALUE = 32

/** Remembers what was made of a value, for those who come with the same value a moment later. */
export interface ResultMemo {
  /** The text that was made of this very object under this key, or is being made; else what `make` gives now. */
  text(value: unknown, key: string, make: () => Promise<string>): Promise<string>
}

interface Entry {
  readonly texts: Map<string, Promise<string>>
  characters: number
}

/** Bounded by the number of values, of texts per value, and of characters in all; the oldest value goes first. */
export function createResultMemo(): ResultMemo {
  const entries = new Map<unknown, Entry>()
  let characters = 0

  function trim(): void {
    for (const [oldest, entry] of entries) {
      if (entries.size <= MAX_VALUES && characters <= MAX_CHARACTERS) return
      entries.delete(oldest)
      characters -= entry.characters
    }
  }

  return {
    text(value, key, make) {
      if (typeof value !== 'object' || value === null) return make()
      let entry = entries.get(value)
      const known = entry?.texts.get(key)
      if (known !== undefined) return known
      const text = make()
      if (entry === undefined) entries.set(value, (entry = { texts: new Map(), characters: 0 }))
      const { texts } = entry
      if (texts.size === MAX_TEXTS_PER_VALUE) return text
      texts.set(key, text)
      const settled = entry
      text.then(
        ({ length }) => {
          if (entries.get(value) !== settled) return
          settled.characters += length
          characters += length
          trim()
        },
        // Whoever asked for it has the error; the next one may try again.
        () => texts.delete(key),
      )
      return text
    },
  }
}
