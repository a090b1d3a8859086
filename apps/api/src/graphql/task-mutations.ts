import {
  mayUse,
  type Principal,
  type SubmitResult,
  type SubmittedTask,
  type TaskId,
} from '@gpu-service/tasks'
import { refusal } from './errors.ts'
import type { MutationResolvers, QueryResolvers, SubmitTaskInput } from './generated/resolvers.ts'
import {
  invalidInputProblem,
  limitProblem,
  refusedProblem,
  submitProblem,
  unknownPresetProblem,
  unknownTaskProblem,
} from './problem.ts'
import { parseSubmission, parseSubmissions } from './submission.ts'
import { parseFilter, searching } from './task-filter.ts'
import { hiddenPresetText, isVisible, restricted } from './visibility.ts'

const MAX_INPUTS = 100

export const submissionQueries = {
  async dryRun(_parent, { input }, { dispatcher, principal }) {
    forbidSubmitting(principal)
    const hidden = hiddenAmong([input], principal)
    if (hidden !== null) return unknownPresetProblem(input.presetId, hiddenPresetText(input.presetId))
    const parsed = parseSubmission(input, principal)
    if (parsed.status === 'invalid') return invalidInputProblem(parsed.issues)
    const result = await dispatcher.dryRun(parsed.request)
    if (result.status !== 'planned') return submitProblem(result, input.presetId)
    const { action, reason, gpuIds, workerId, evicts, estimate } = result
    return { __typename: 'DryRunSuccess', action, reason, gpuIds, workerId, evicts, startEstimate: estimate }
  },
} satisfies QueryResolvers

export const taskMutations = {
  async submitTask(_parent, { input }, { dispatcher, principal, meter, actor }) {
    forbidSubmitting(principal)
    const hidden = hiddenAmong([input], principal)
    if (hidden !== null) return unknownPresetProblem(input.presetId, hiddenPresetText(input.presetId))
    const parsed = parseSubmission(input, principal)
    if (parsed.status === 'invalid') return invalidInputProblem(parsed.issues)
    const reached = meter.submit(1)
    if (reached !== null) return limitProblem(reached)
    return submittedOne(await dispatcher.submit([parsed.request], actor), input.presetId)
  },
  async submitTasks(_parent, { inputs }, { dispatcher, principal, meter, actor }) {
    if (inputs.length < 1 || inputs.length > MAX_INPUTS) {
      throw refusal('BAD_USER_INPUT', `inputs must hold 1 to ${MAX_INPUTS} tasks, not ${inputs.length}.`)
    }
    forbidSubmitting(principal)
    const hidden = hiddenAmong(inputs, principal)
    if (hidden !== null) {
      const { presetId } = hidden
      return unknownPresetProblem(presetId, hiddenPresetText(presetId), inputs.indexOf(hidden))
    }
    const parsed = parseSubmissions(inputs, principal)
    if (parsed.status === 'invalid') return invalidInputProblem(parsed.issues, parsed.index)
    const reached = meter.submit(inputs.length)
    if (reached !== null) return limitProblem(reached)
    const result = await dispatcher.submit(parsed.requests, actor)
    return result.status === 'submitted'
      ? { __typename: 'SubmitTasksSuccess', tasks: result.tasks }
      : submitProblem(result, inputs[result.index]?.presetId ?? '', result.index)
  },
  async retryTask(_parent, { id }, context) {
    const { dispatcher, store, principal, meter, actor } = context
    forbidSubmitting(principal)
    if (!(await isVisible(id, context))) return unknownTaskProblem(id)
    const reached = meter.submit(1)
    if (reached !== null) return limitProblem(reached)
    const result = await dispatcher.retry(id as TaskId, principal, actor)
    if (result === null) return unknownTaskProblem(id)
    const presetId =
      result.status === 'unknown-preset' ? ((await store.task(id as TaskId))?.presetId ?? '') : ''
    return submittedOne(result, presetId)
  },
  async deleteTask(_parent, { id }, context) {
    const { dispatcher, actor } = context
    const result = (await isVisible(id, context)) ? await dispatcher.deleteTask(id as TaskId, actor) : null
    if (result === null) return unknownTaskProblem(id)
    return result.status === 'deleted' ? { __typename: 'DeleteTaskSuccess', id } : refusedProblem(result)
  },
  async cancelTask(_parent, { id, reason }, context) {
    const { dispatcher, actor } = context
    const isThere = await isVisible(id, context)
    const task = isThere ? await dispatcher.cancel(id as TaskId, reason ?? null, actor) : null
    return task === null ? unknownTaskProblem(id) : { __typename: 'CancelTaskSuccess', task }
  },
  async cancelTasks(_parent, { filter, reason }, { dispatcher, principal, actor }) {
    const parsed = parseFilter(filter)
    if (Object.keys(parsed).length === 0) {
      throw refusal('BAD_USER_INPUT', 'filter must say which tasks are meant; it says nothing.')
    }
    const matching = dispatcher.cancelMatching(restricted(parsed, principal), reason ?? null, actor)
    const tasks = await searching(matching)
    return { count: tasks.length, ids: tasks.map(({ id }) => id) }
  },
} satisfies MutationResolvers

/** The first of them whose preset is not told to who asks. */
function hiddenAmong(inputs: readonly SubmitTaskInput[], principal: Principal): SubmitTaskInput | null {
  return inputs.find(({ presetId }) => !mayUse(principal, presetId)) ?? null
}

function forbidSubmitting({ taskId }: Principal): void {
  if (taskId !== null) throw refusal('FORBIDDEN', 'A browser token for one task cannot submit another one.')
}

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
