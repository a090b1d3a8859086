/** Something that the person at the terminal has to do: its message says what is wrong and what to do about it. */
export class KitError extends Error {
  override readonly name = 'KitError'
}
