/**
 * The one of `known` that somebody who wrote `word` most likely meant, or `null`. Case and `-`/`_` do not count; a few slips do, and so
 * does a part of the name (`image` for `docker_image`).
 */
export function closest(word: string, known: Iterable<string>): string | null {
  const wanted = plain(word.slice(0, 64))
  if (wanted === '') return null
  let best: string | null = null
  let bestSlips = Math.min(3, Math.ceil(wanted.length / 3)) + 1
  let containing: string | null = null
  for (const name of known) {
    const slips = distance(wanted, plain(name))
    if (slips < bestSlips) {
      best = name
      bestSlips = slips
    }
    if (wanted.length > 2 && plain(name).includes(wanted)) containing ??= name
  }
  return best ?? containing
}

/** `; did you mean "…"?`, or nothing. */
export function suggestion(word: string, known: Iterable<string>): string {
  const name = closest(word, known)
  return name === null ? '' : `; did you mean "${name}"?`
}

function plain(word: string): string {
  return word.toLowerCase().replaceAll(/[-_. ]/g, '')
}

/** Insertions, deletions, replacements and swaps of neighbours between two words. */
function distance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (last[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      let cost = Math.min(replaced, (last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, (before[j - 2] ?? 0) + 1)
      row.push(cost)
    }
    before = last
    last = row
  }
  return last[b.length] ?? 0
}
