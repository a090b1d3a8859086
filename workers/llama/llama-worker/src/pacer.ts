/** Lets pieces of text pass, those together that come faster than anybody reads. */
export interface Pacer {
  /** Passes the piece on at once where the last one passed at least the gap ago, else with what comes within the rest of the gap. */
  push(piece: string): void
  /** Passes on what was kept: nothing more comes. */
  end(): void
}

/**
 * Whatever a piece costs on its way (pipe, engine's log, database, sockets) is paid once for all that come within `gapMs`. `pass` must not throw.
 */
export function createPacer(gapMs: number, pass: (text: string) => void): Pacer {
  let kept = ''
  let passedAt = -Infinity
  let timer: NodeJS.Timeout | null = null

  function passOn(): void {
    if (timer !== null) clearTimeout(timer)
    timer = null
    if (kept === '') return
    const text = kept
    kept = ''
    passedAt = performance.now()
    pass(text)
  }

  return {
    push(piece) {
      kept += piece
      const rest = passedAt + gapMs - performance.now()
      if (rest <= 0) passOn()
      else timer ??= setTimeout(passOn, rest)
    },
    end: passOn,
  }
}
