/** There is no worker to look at; the message says why, and what to do. */
export class CannotStart extends Error {
  override readonly name = 'CannotStart'
}
