const QUOTE = 34
const BACKSLASH = 92

/**
 * Whether more than `limit` objects and arrays are open at once somewhere in the JSON text, read from its first bracket to the one that
 * closes it. Needs no valid JSON, does not recurse, and costs a shallow text next to nothing.
 */
export function nestsDeeperThan(limit: number, text: string): boolean {
  return text.length > limit && hasMoreBrackets(limit, text) && opensMore(limit, text)
}

/** Counts by `indexOf`, which runs over a long text without brackets many times faster than a loop. */
function hasMoreBrackets(limit: number, text: string): boolean {
  let count = 0
  for (const bracket of '{[') {
    for (let at = text.indexOf(bracket); at !== -1; at = text.indexOf(bracket, at + 1)) {
      count += 1
      if (count > limit) return true
    }
  }
  return false
}

function opensMore(limit: number, text: string): boolean {
  let open = 0
  for (let at = 0; at < text.length; at += 1) {
    switch (text.charCodeAt(at)) {
      case QUOTE:
        at = endOfString(text, at)
        break
      case 91: // [
      case 123: // {
        open += 1
        if (open > limit) return true
        break
      case 93: // ]
      case 125: // }
        open -= 1
        if (open <= 0) return false
        break
      default:
    }
  }
  return false
}

/** Where the string that begins at `start` has its closing quote; the text's end where it has none. */
function endOfString(text: string, start: number): number {
  for (let at = text.indexOf('"', start + 1); at !== -1; at = text.indexOf('"', at + 1)) {
    let before = at - 1
    while (text.charCodeAt(before) === BACKSLASH) before -= 1
    // An even number of backslashes escape each other, not the quote.
    if ((at - 1 - before) % 2 === 0) return at
  }
  return text.length
}
