/** What happens at a failpoint: the process kills itself (SIGKILL), the call fails, or it stands still for so long first. */
export type FailAction =
  { readonly kind: 'kill' } | { readonly kind: 'throw' } | { readonly kind: 'hang'; readonly ms: number }

/** A moment beside a call of a port. */
export interface Failpoint {
  /** The step of a task's walk, as `stepOf` names it. */
  readonly step: string
  /** Before the neighbour is called, or when it has answered and nobody has heard it yet. */
  readonly side: 'before' | 'after'
  /** Which one of the steps of that name since it was set; 1 is the first. */
  readonly n: number
  readonly action: FailAction
}

/** What a test tells the service's process. A failpoint is set until it is reached. */
export type Told = { readonly set: Failpoint | null } | { readonly record: true } | { readonly tell: true }

/** What it answers: to `set` and `record` that it is done, to `tell` the steps since `record`, in order. */
export type Heard = { readonly done: true } | { readonly steps: readonly string[] }

/** A failpoint that is there from the beginning, as JSON. */
export const FAILPOINT_VARIABLE = 'FAILPOINT'
