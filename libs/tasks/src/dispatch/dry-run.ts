import type { DryRun } from '../dispatcher.ts'
import type { GpuId, TaskId, WorkerId } from '../ids.ts'
import type { Outlook } from '../planner/index.ts'
import type { AssignAction, StartAction } from './plan-loop.ts'

/** What the next plan would do with a task of its queue. */
export function dryRunOf(
  outlook: Outlook,
  id: TaskId,
  gpusOf: (worker: WorkerId) => readonly GpuId[],
): DryRun {
  const { actions, waiting } = outlook.plan
  const own = actions.find(
    (action): action is StartAction | AssignAction => action.kind !== 'end' && action.taskId === id,
  )
  const evicts = actions.flatMap((action) =>
    action.kind === 'end' && action.forTask === id ? [action.workerId] : [],
  )
  const common = { status: 'planned', evicts, estimate: outlook.estimate(id) } as const
  switch (own?.kind) {
    case undefined: {
      const reason = waiting.get(id)?.reason ?? 'It would wait for its turn.'
      return { ...common, action: 'wait', reason, gpuIds: [], workerId: null }
    }
    case 'start':
      return { ...common, action: 'start', reason: own.reason, gpuIds: own.claim.gpuIds, workerId: null }
    case 'assign': {
      const { workerId, reason } = own
      return { ...common, action: 'assign', reason, gpuIds: gpusOf(workerId), workerId }
    }
  }
}
