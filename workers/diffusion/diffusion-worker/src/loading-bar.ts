/** How many tensors of how many, and how fast. */
const COUNT = /(\d+)\/(\d+) - /g

/** How far loading has come, in whole percent, as the bar says that the engine draws meanwhile; `null` where it says nothing. */
export function loadedPercent(text: string): number | null {
  const [, done, all] = [...text.matchAll(COUNT)].at(-1) ?? []
  return done === undefined || all === undefined ? null : Math.floor((100 * Number(done)) / Number(all))
}
