/** Lets a text pass, piece by piece, until one of the stop texts comes. */
export interface StopGate {
  /** Passes on what cannot be the beginning of a stop text, and keeps the rest. `true`: a stop text is there, and nothing more passes. */
  push(piece: string): boolean
  /** Passes on what was kept: nothing more comes. */
  end(): void
}

/**
 * The engine has stop texts too, but looks for them in pieces of text that it has made of each token alone: with vocabularies of SentencePiece the
 * spaces between words are missing there.
 */
export function createStopGate(stops: readonly string[], pass: (text: string) => void): StopGate {
  let kept = ''
  let isShut = false

  function passOn(length: number): void {
    if (length > 0) pass(kept.slice(0, length))
    kept = kept.slice(length)
  }

  return {
    push(piece) {
      if (isShut) return true
      kept += piece
      const places = stops.map((stop) => kept.indexOf(stop)).filter((place) => place !== -1)
      isShut = places.length > 0
      passOn(isShut ? Math.min(...places) : kept.length - overlap(kept, stops))
      return isShut
    },
    end() {
      if (!isShut) passOn(kept.length)
    },
  }
}

/** The length of the longest end of `text` with which a stop text begins. */
function overlap(text: string, stops: readonly string[]): number {
  const longest = Math.max(0, ...stops.map(({ length }) => length - 1))
  for (let length = Math.min(longest, text.length); length > 0; length--) {
    const end = text.slice(-length)
    if (stops.some((stop) => stop.startsWith(end))) return length
  }
  return 0
}
