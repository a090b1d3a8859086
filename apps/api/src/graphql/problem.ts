import type { LimitReached } from '../access/meters.ts'
import { unknownTaskText, type InputIssue, type Refused, type SubmitProblem } from '@gpu-service/tasks'

/** The domain's refusals as the schema's problems. `index`: which one of a list of inputs; `null`: no list was given. */

export function refusedProblem(
  { message, code, retryAfterSeconds }: Omit<Refused, 'status'>,
  index: number | null = null,
) {
  const comeBack = { retryAfterSeconds: retryAfterSeconds ?? null }
  return { __typename: 'RefusedProblem', message, code, ...comeBack, index } as const
}

export function limitProblem(reached: LimitReached) {
  return refusedProblem({ ...reached, code: 'RATE_LIMITED' })
}

export function unknownPresetProblem(presetId: string, message: string, index: number | null = null) {
  return { __typename: 'UnknownPresetProblem', message, presetId, index } as const
}

export function invalidInputProblem(issues: readonly InputIssue[], index: number | null = null) {
  const first = issues[0]
  const what = first === undefined ? '' : `: ${first.path === '' ? 'it' : first.path} ${first.message}`
  const which = index === null ? 'The input' : `Input ${index}`
  return {
    __typename: 'InvalidInputProblem',
    message: `${which} is not valid${what}`,
    issues,
    index,
  } as const
}

export function submitProblem(problem: SubmitProblem, presetId: string, index: number | null = null) {
  switch (problem.status) {
    case 'unknown-preset':
      return unknownPresetProblem(presetId, problem.message, index)
    case 'invalid-input':
      return invalidInputProblem(problem.issues, index)
    case 'refused':
      return refusedProblem(problem, index)
  }
}

export function unknownTaskProblem(id: string) {
  return { __typename: 'UnknownTaskProblem', message: unknownTaskText(id), id } as const
}

export function unknownWorkerProblem(id: string) {
  return { __typename: 'UnknownWorkerProblem', message: `No worker ${id} is live.`, id } as const
}

export function unknownGpuProblem(id: string) {
  return { __typename: 'UnknownGpuProblem', message: `There is no GPU ${id}.`, id } as const
}
