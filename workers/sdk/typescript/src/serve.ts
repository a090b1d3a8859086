import { ownStandardOutput } from './launcher.ts'
import { runWorker, type WorkerDefinition } from './worker.ts'

/**
 * Does tasks until there are none to come, then ends the process. One task and no other, or one after the other: the environment decides, as the
 * protocol says. Call it last: the program is run in a second process whose standard output is standard error, so that nothing but events gets
 * onto the event stream; import heavy libraries in `load`.
 */
export async function serve<Model = undefined>(worker: WorkerDefinition<Model>): Promise<never> {
  const descriptor = await ownStandardOutput()
  process.exit(await runWorker(worker, descriptor))
}
