import type { TaskStore } from '@gpu-service/tasks'
import { groupByTask, takeGroup, type AppendCall } from './append-group.ts'
import { writeProgress } from './append-statements.ts'
import { isOutage, toStoreError } from './store-error.ts'
import type { Writer } from './writer.ts'

interface Call extends AppendCall {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/**
 * The store's `append`, as a group commit: what comes while a transaction is under way waits and goes into the next one, all together. Where
 * a group cannot be written because of one of its calls, each is written by itself, so that only the guilty one is refused.
 */
export function createAppend(writer: Writer): TaskStore['append'] {
  const waiting: Call[] = []
  let draining = false

  async function drain(): Promise<void> {
    if (draining) return
    draining = true
    while (waiting.length > 0) {
      let group: readonly Call[] = []
      try {
        await writer.transaction(async (execute, client) => {
          // Only now, so that all that came while the transaction waited for its turn is in it.
          const taken = takeGroup(waiting)
          group = taken.calls
          await writeProgress(execute, client, taken)
        })
        for (const call of group) call.resolve()
      } catch (error) {
        // None taken: the transaction could not begin.
        if (group.length === 0) group = waiting.splice(0)
        if (group.length > 1 && !isOutage(error)) await oneByOne(group)
        else for (const call of group) call.reject(toStoreError(error, 'storing what a worker said'))
      }
    }
    draining = false
  }

  async function oneByOne(calls: readonly Call[]): Promise<void> {
    for (const call of calls) {
      try {
        await writer.transaction((execute, client) =>
          writeProgress(execute, client, { calls: [call], tasks: call.tasks }),
        )
        call.resolve()
      } catch (error) {
        call.reject(toStoreError(error, 'storing what a worker said'))
      }
    }
  }

  return (progress) =>
    new Promise<void>((resolve, reject) => {
      waiting.push({ progress, tasks: groupByTask(progress), resolve, reject })
      void drain()
    })
}
