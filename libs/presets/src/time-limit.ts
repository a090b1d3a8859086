import { createContext, Script } from 'node:vm'

const realm: { work: (() => void) | null } = { work: null }
const context = createContext(realm)
const call = new Script('work()')

/**
 * Runs something that may take for ever, such as a regular expression on a text that was made against it, and ends it when it has had about
 * `limitMs` of the processor: then `null`. What it throws is thrown.
 */
export function within<T extends object>(limitMs: number, work: () => T): T | null {
  const before = process.cpuUsage()
  for (;;) {
    let result: T | null = null
    realm.work = () => {
      result = work()
    }
    try {
      call.runInContext(context, { timeout: limitMs })
      return result
    } catch (error) {
      if (!isTimeout(error)) throw error
      const { user, system } = process.cpuUsage(before)
      // By the clock on the wall it was too long; the process may have stood still meanwhile, or have had little of a busy machine.
      if ((user + system) / 1_000 >= limitMs) return null
    } finally {
      realm.work = null
    }
  }
}

/** By its code alone: the error may be of another realm, whose `Error` is another one. */
function isTimeout(error: unknown): boolean {
  return (
    typeof error === 'object' &&
    error !== null &&
    'code' in error &&
    error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT'
  )
}
