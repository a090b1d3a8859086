import type { Task } from './task.ts'

/** What an attempt has used of an API key's GPU time. */
export interface Charge {
  readonly keyId: string
  /** Its time times its GPUs. */
  readonly gpuMs: number
}

export const DAY_MS = 86_400_000

/** When the day in UTC began. An attempt counts on the day on which it ended. */
export function dayStartOf(at: number): number {
  return Math.floor(at / DAY_MS) * DAY_MS
}

/** What the task's last attempt has used up to `at`; `null`: nothing that counts. */
export function chargeOf(
  { keyId, startedAt, gpuIds }: Pick<Task, 'keyId' | 'startedAt' | 'gpuIds'>,
  at: number,
): Charge | null {
  if (keyId === null || startedAt === null || gpuIds.length === 0) return null
  return { keyId, gpuMs: Math.max(0, at - startedAt) * gpuIds.length }
}
