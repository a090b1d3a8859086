import { dayStartOf } from '../charge.ts'
import type { Dispatcher, DispatcherOptions } from '../dispatcher.ts'
import { TaskDispatcher } from './dispatch.ts'
import { HISTORY_LENGTH, WorkerHistories } from './worker-histories.ts'

/** Reads what the store knows, takes up the workers that an earlier process of this installation left, and begins to plan. */
export async function openDispatcher(options: DispatcherOptions): Promise<Dispatcher> {
  const { store, clock } = options
  const dispatcher = new TaskDispatcher(options, {
    histories: new WorkerHistories(await store.history(HISTORY_LENGTH)),
    drains: await store.drains(),
    charges: await store.charges(dayStartOf(clock.now())),
  })
  await dispatcher.begin()
  return dispatcher
}
