import {
  isAtLeast,
  maySee,
  type Principal,
  type Task,
  type TaskFilter,
  type TaskId,
} from '@gpu-service/tasks'
import type { Context } from './context.ts'

/** The task, unless there is none that may be seen: whoever asks cannot tell one from the other. */
export async function visibleTask(id: string, { store, principal }: Context): Promise<Task | null> {
  const task = await store.task(id as TaskId)
  return task !== null && maySee(principal, task) ? task : null
}

/** The same for what needs no more than that: of who sees all, nothing is looked up, so that the task need not even be there. */
export async function isVisible(id: string, context: Context): Promise<boolean> {
  return seesAll(context.principal) || (await visibleTask(id, context)) !== null
}

function seesAll({ role, presets, taskId }: Principal): boolean {
  return isAtLeast(role, 'operate') && presets === null && taskId === null
}

/** The filter for what may be seen of that which it matches. */
export function restricted(filter: TaskFilter, principal: Principal): TaskFilter {
  const { role, owner, presets, taskId } = principal
  return {
    ...filter,
    ...(!isAtLeast(role, 'operate') && { owner }),
    ...(presets !== null && { presets }),
    ...(taskId !== null && { id: taskId }),
  }
}

/** What is said of a preset that may not be used, and of one that is not there, to whom not all may be told. */
export function hiddenPresetText(presetId: string): string {
  return `There is no preset ${JSON.stringify(presetId)}.`
}
