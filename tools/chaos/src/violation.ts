/** A promise that was broken. */
export interface Violation {
  /** Which one: `lost`, `repeated`, `stuck`, … */
  readonly rule: string
  /** The task that it is about; `null`: none in particular. */
  readonly taskId: string | null
  readonly detail: string
}
