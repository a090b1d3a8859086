/** How long a worker may take, in milliseconds. */
export interface Limits {
  /** From its start to `worker ready`, or to the end of its task. */
  readonly taskMs: number
  /** From `run` to the first event of the task. */
  readonly ackMs: number
  /** From `cancel` to the task's finish, from SIGTERM or `shutdown` to the exit. */
  readonly stopMs: number
  /** From the finish of a one-off worker to its exit. */
  readonly finishGraceMs: number
  /** Without a word, from its start (or a task's) until everything comes at once. */
  readonly silenceMs: number
}

/** Those of a preset that says nothing. */
export const LIMITS: Limits = {
  taskMs: 120_000,
  ackMs: 30_000,
  stopMs: 10_000,
  finishGraceMs: 10_000,
  silenceMs: 3_000,
}
