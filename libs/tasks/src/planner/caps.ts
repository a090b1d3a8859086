import type { KeyCap, PlanInput, QueuedTask, Waiting } from './plan-input.ts'
import { countText, numberText } from './wording.ts'

/** Keeps the tasks of each API key to what it may have; what it may not have is free for others. */
export interface Caps {
  /** Why the task must not start now whatever is free; `null`: it may. */
  hold(task: QueuedTask): Waiting | null
  /** The task starts. */
  started(task: QueuedTask): void
}

export function createCaps({ now, keys, workers }: Pick<PlanInput, 'now' | 'keys' | 'workers'>): Caps {
  const running = new Map([...keys.keys()].map((keyId) => [keyId, 0]))
  const count = (keyId: string | null): void => {
    const known = keyId === null ? undefined : running.get(keyId)
    if (keyId !== null && known !== undefined) running.set(keyId, known + 1)
  }
  for (const { runningKeys } of workers) for (const keyId of runningKeys) count(keyId)
  /** One object for all that wait for the same. */
  const told = new Map<string, Waiting>()
  const shared = (reason: string): Waiting => {
    const waiting = told.get(reason) ?? { kind: 'limit', reason }
    told.set(reason, waiting)
    return waiting
  }
  return {
    hold({ keyId, gpus }) {
      const cap = keyId === null ? undefined : keys.get(keyId)
      if (keyId === null || cap === undefined) return null
      const { maxRunning, spent } = cap
      if (spent !== null && spent.until > now && gpus.count !== 0) return shared(spentText(keyId, spent))
      if (maxRunning === null || (running.get(keyId) ?? 0) < maxRunning) return null
      return shared(`API key ${keyId} may have ${countText(maxRunning, 'task')} running at a time, and has.`)
    },
    started({ keyId }) {
      count(keyId)
    },
  }
}

/** For whoever asks why, and for whoever is refused. */
export function spentText(keyId: string, { gpuSeconds, until }: NonNullable<KeyCap['spent']>): string {
  return `API key ${keyId} has used its ${numberText(gpuSeconds)} GPU-seconds of the day; it gets more at ${new Date(until).toISOString()}.`
}
