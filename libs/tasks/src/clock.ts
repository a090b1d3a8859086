/** Time, from outside: the domain has no clock of its own. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number
  /** Calls back once after `ms` milliseconds, unless disposed before. Does not keep the process alive. */
  after(ms: number, callback: () => void): Disposable
}
