/** Random numbers that can be had again: by the seed, which the environment may give as `CHAOS_SEED`. */
export interface Random {
  readonly seed: number
  /** 0 to 1. */
  next(): number
  /** From `least` to `most`, small ones as often as large ones by order of magnitude. */
  magnitude(least: number, most: number): number
  pick<T>(from: readonly T[]): T
}

export function createRandom(): Random {
  const given = process.env['CHAOS_SEED']
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(given)
  // Said aloud, so that a failure can be had again.
  console.log(`CHAOS_SEED=${seed}`)
  let state = seed
  const next = (): number => {
    // mulberry32
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    seed,
    next,
    magnitude: (least, most) => Math.floor(least * (most / least) ** next()),
    pick<T>(from: readonly T[]): T {
      const picked = from[Math.floor(next() * from.length)]
      if (picked === undefined) throw new Error('there is nothing to pick from')
      return picked
    },
  }
}
