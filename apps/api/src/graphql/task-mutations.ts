import type { SubmitResult, SubmittedTask, TaskId } from '@gpu-service/tasks'
import { refusal } from './errors.ts'
import type { MutationResolvers, QueryResolvers } from './generated/resolvers.ts'
import { invalidInputProblem, refusedProblem, submitProblem, unknownTaskProblem } from './problem.ts'
import { parseSubmission, parseSubmissions } from './submission.ts'
import { parseFilter, searching } from './task-filter.ts'

const MAX_INPUTS = 100

export const submissionQueries = {
  async dryRun(_parent, { input }, { dispatcher, owner }) {
    const parsed = parseSubmission(input, owner)
    if (parsed.status === 'invalid') return invalidInputProblem(parsed.issues)
    const result = await dispatcher.dryRun(parsed.request)
    if (result.status !== 'planned') return submitProblem(result, input.presetId)
    const { action, reason, gpuIds, workerId, evicts, estimate } = result
    return { __typename: 'DryRunSuccess', action, reason, gpuIds, workerId, evicts, startEstimate: estimate }
  },
} satisfies QueryResolvers

export const taskMutations = {
  async submitTask(_parent, { input }, { dispatcher, owner, actor }) {
    const parsed = parseSubmission(input, owner)
    if (parsed.status === 'invalid') return invalidInputProblem(parsed.issues)
    return submittedOne(await dispatcher.submit([parsed.request], actor), input.presetId)
  },
  async submitTasks(_parent, { inputs }, { dispatcher, owner, actor }) {
    if (inputs.length < 1 || inputs.length > MAX_INPUTS) {
      throw refusal('BAD_USER_INPUT', `inputs must hold 1 to ${MAX_INPUTS} tasks, not ${inputs.length}.`)
    }
    const parsed = parseSubmissions(inputs, owner)
    if (parsed.status === 'invalid') return invalidInputProblem(parsed.issues, parsed.index)
    const result = await dispatcher.submit(parsed.requests, actor)
    return result.status === 'submitted'
      ? { __typename: 'SubmitTasksSuccess', tasks: result.tasks }
      : submitProblem(result, inputs[result.index]?.presetId ?? '', result.index)
  },
  async retryTask(_parent, { id }, { dispatcher, store, owner, actor }) {
    const result = await dispatcher.retry(id as TaskId, owner, actor)
    if (result === null) return unknownTaskProblem(id)
    const presetId =
      result.status === 'unknown-preset' ? ((await store.task(id as TaskId))?.presetId ?? '') : ''
    return submittedOne(result, presetId)
  },
  async deleteTask(_parent, { id }, { dispatcher, actor }) {
    const result = await dispatcher.deleteTask(id as TaskId, actor)
    if (result === null) return unknownTaskProblem(id)
    return result.status === 'deleted' ? { __typename: 'DeleteTaskSuccess', id } : refusedProblem(result)
  },
  async cancelTask(_parent, { id, reason }, { dispatcher, actor }) {
    const task = await dispatcher.cancel(id as TaskId, reason ?? null, actor)
    return task === null ? unknownTaskProblem(id) : { __typename: 'CancelTaskSuccess', task }
  },
  async cancelTasks(_parent, { filter, reason }, { dispatcher, actor }) {
    const parsed = parseFilter(filter)
    if (Object.keys(parsed).length === 0) {
      throw refusal('BAD_USER_INPUT', 'filter must say which tasks are meant; it says nothing.')
    }
    const tasks = await searching(dispatcher.cancelMatching(parsed, reason ?? null, actor))
    return { count: tasks.length, ids: tasks.map(({ id }) => id) }
  },
} satisfies MutationResolvers

function submittedOne(result: SubmitResult, presetId: string) {
  if (result.status !== 'submitted') return submitProblem(result, presetId)
  return { __typename: 'SubmitTaskSuccess' as const, ...oneOf(result.tasks) }
}

/** @throws TypeError where one task was submitted and not one given, which is a bug. */
function oneOf([submitted, ...more]: readonly SubmittedTask[]): SubmittedTask {
  if (submitted === undefined || more.length > 0)
    throw new TypeError('One task was submitted, not one given.')
  return submitted
}
